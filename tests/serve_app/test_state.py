"""Routes that tell about the cluster, and the static page."""

import pytest
from litestar import Litestar
from litestar.testing import AsyncTestClient
from prometheus_client.parser import text_string_to_metric_families

from tests.serve_app.fakes import MAX_MODEL_LEN, MODEL, FakeClient

pytestmark = pytest.mark.anyio
Http = AsyncTestClient[Litestar]


async def scrape(http: Http) -> dict[str, float]:
    """Sample name and labels but the model's to value."""
    text = (await http.get("/metrics")).text
    return {
        " ".join(
            [sample.name, *(value for name, value in sorted(sample.labels.items()) if name != "model_name")]
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_health_is_of_the_process_and_ready_of_the_cluster(http: Http, fake: FakeClient) -> None:
    assert (await http.get("/health")).status_code == 200
    assert (await http.get("/ready")).status_code == 200
    fake.is_ready = False
    gone = await http.get("/status")
    assert gone.json()["workers"] == []
    assert (await http.get("/health")).status_code == 200
    response = await http.get("/ready")
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "not_ready"


async def test_a_target_that_comes_is_seen_at_once(http: Http, fake: FakeClient) -> None:
    fake.is_ready = False
    assert (await http.get("/ready")).status_code == 503
    fake.is_ready = True
    assert (await http.get("/ready")).status_code == 200


async def test_models(http: Http, fake: FakeClient) -> None:
    [model] = (await http.get("/v1/models")).json()["data"]
    assert (model["id"], model["object"], model["max_model_len"]) == (MODEL, "model", MAX_MODEL_LEN)


async def test_no_models_before_a_target_is_ready(http: Http, fake: FakeClient) -> None:
    fake.is_ready = False
    assert (await http.get("/v1/models")).json() == {"object": "list", "data": []}


async def test_metrics_of_the_cluster(http: Http) -> None:
    metrics = await scrape(http)
    assert metrics["slipstream:spec_decode_num_drafts_total"] == 10
    assert metrics["slipstream:spec_decode_num_draft_tokens_total"] == 40
    assert metrics["slipstream:spec_decode_num_accepted_tokens_total"] == 30
    assert metrics["slipstream:spec_decode_num_accepted_tokens_per_pos_total 2"] == 7
    assert metrics["slipstream:spec_decode_num_rounds_total"] == 9
    assert metrics["slipstream:spec_decode_num_ahead_hits_total"] == 6
    assert metrics["slipstream:spec_decode_num_branch_hits_total"] == 2
    assert metrics["slipstream:spec_decode_num_probes_total"] == 1
    assert metrics["slipstream:spec_decode_target_bubble_seconds_total"] == 1.5
    assert metrics["slipstream:spec_decode_draft_bubble_seconds_total"] == 0.25
    assert metrics["slipstream:generation_tokens_total"] == 50
    assert metrics["slipstream:prompt_tokens_total"] == 7
    assert metrics["slipstream:num_requests_running target-0 target"] == 1
    assert metrics["slipstream:num_requests_waiting target-0 target"] == 2
    assert metrics["slipstream:kv_cache_usage_perc target-0 target"] == pytest.approx(0.6)


async def test_metrics_of_requests(http: Http, fake: FakeClient) -> None:
    await http.post("/v1/completions", json={"prompt": ["a", "b"], "max_tokens": 9})
    await http.post("/v1/completions", json={"prompt": "a", "max_tokens": 0})
    fake.error = "no"
    await http.post("/v1/completions", json={"prompt": "a", "max_tokens": 9})
    metrics = await scrape(http)
    assert metrics["slipstream:request_success_total length"] == 2
    assert metrics["slipstream:request_success_total error"] == 1
    assert metrics["slipstream:http_errors_total 400"] == 1
    assert metrics["slipstream:http_errors_total 500"] == 1
    assert metrics["slipstream:time_to_first_token_seconds_count"] == 2
    assert metrics["slipstream:e2e_request_latency_seconds_count"] == 1
    assert metrics["slipstream:inter_token_latency_seconds_count"] == 4


async def test_the_door_reports_itself_when_no_router_answers(http: Http, fake: FakeClient) -> None:
    fake.is_router_gone = True
    metrics = await scrape(http)
    assert metrics["slipstream:time_to_first_token_seconds_count"] == 0
    assert "slipstream:generation_tokens_total" not in metrics
    assert (await http.get("/status")).status_code == 503


async def test_openapi_knows_the_fields_and_their_bounds(http: Http) -> None:
    schema = (await http.get("/docs/openapi.json")).json()
    assert {"/v1/completions", "/generate", "/v1/models", "/status"} <= set(schema["paths"])
    fields = schema["components"]["schemas"]["CompletionRequest"]["properties"]
    assert "max_tokens" in fields
    page = await http.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "https://" not in page.text  # nothing is loaded from elsewhere


async def test_page_is_served_under_a_strict_policy(http: Http) -> None:
    page = await http.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]
    assert "http" not in page.text.replace("http://www.w3.org", "")
    for name, kind in (("app.js", "text/javascript"), ("style.css", "text/css"), ("icon.svg", "image/svg+xml")):
        asset = await http.get(f"/static/{name}")
        assert asset.status_code == 200
        assert asset.headers["content-type"].startswith(kind)


async def test_the_application_closes_its_client(fake: FakeClient, http: Http) -> None:
    await http.__aexit__(None, None, None)
    assert fake.is_closed
    await http.__aenter__()
