import json
from typing import Any

import msgspec
import pytest

from cluster.batch.records import (
    BatchError,
    Outcome,
    answer_record,
    error_record,
    parse_line,
    request_seed,
    salvage_id,
)

GOOD: dict[str, Any] = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "x"}}


def line(**changes: Any) -> bytes:
    return json.dumps(GOOD | changes).encode()


def test_a_line_keeps_its_body_as_it_was_written() -> None:
    raw = b'{"custom_id":"a","method":"POST","url":"/v1/completions","body": {"prompt" : "\\u00e9", "n": null} }'
    assert bytes(parse_line(raw).body) == b'{"prompt" : "\\u00e9", "n": null}'


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"garbage", "malformed"),
        (b"\xff\xfe", "invalid"),
        (b"[1]", "object"),
        (line(custom_id=None), "custom_id"),
        (line(custom_id=""), "custom_id"),
        (line(custom_id=7), "custom_id"),
        (line(method="GET"), "method"),
        (line(url="/v1/embeddings"), "url"),
        (line(body="text"), "body"),
        (line(body=None), "body"),
        (json.dumps({key: value for key, value in GOOD.items() if key != "body"}).encode(), "body"),
        (b'{"custom_id":"a","body":' + b"[" * 5000, "recursion"),
    ],
)
def test_what_is_wrong_with_a_line_is_said(raw: bytes, reason: str) -> None:
    with pytest.raises(BatchError, match=reason):
        parse_line(raw)


def test_the_id_of_a_bad_line_is_saved_where_it_can_be() -> None:
    assert salvage_id(line(method="GET")) == "a"
    assert salvage_id(line(custom_id=7)) is None
    assert salvage_id(b"garbage") is None
    assert salvage_id(b"[]") is None


def test_records_have_openais_shape_and_say_whose_they_are() -> None:
    answered = answer_record("a", "req-1", 200, b'{"object":"text_completion"}')
    assert json.loads(answered) == {
        "id": json.loads(answered)["id"],
        "custom_id": "a",
        "response": {"status_code": 200, "request_id": "req-1", "body": {"object": "text_completion"}},
        "error": None,
    }
    refused = answer_record("a", "req-1", 400, b"{}")
    broken = error_record(3, 3, "malformed")
    assert json.loads(broken)["error"] == {"code": "invalid_line", "message": "line 3: malformed", "line": 3}
    outcomes = [msgspec.json.decode(record, type=Outcome) for record in (answered, refused, broken)]
    assert [(outcome.key, outcome.is_failed) for outcome in outcomes] == [("a", False), ("a", True), (3, True)]


def test_seeds_depend_on_the_id_and_the_jobs_seed_alone() -> None:
    ids = [f"request-{index}" for index in range(1000)]
    seeds = {request_seed(seed, custom_id) for seed in (0, 1, 2**63 - 1) for custom_id in ids}
    assert len(seeds) == 3000
    assert all(0 <= seed < 2**63 for seed in seeds)
    # Written down: another value would give resubmitted jobs other texts.
    assert request_seed(0, "request-0") == 4721159388668558949
