import asyncio
import json
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from cluster.batch.answering import Answerer
from cluster.batch.feeder import Feeder
from cluster.batch.records import BatchError, request_seed
from cluster.config import ClusterConfig
from tests.cluster.batch.fakes import EchoAnswerer


def table(**bodies: dict[str, Any]) -> pa.Table:
    lines = [
        json.dumps({"custom_id": name, "method": "POST", "url": "/v1/completions", "body": {"prompt": name} | body})
        for name, body in bodies.items()
    ]
    return pa.table({"line": [line.encode() for line in lines]})


def feeder(answerer: EchoAnswerer, max_in_flight: int = 8, patience: float = 60.0) -> Feeder:
    async def connect(config: ClusterConfig) -> Answerer:
        assert config == ClusterConfig.demo()
        return answerer

    return Feeder(connect, msgspec.json.encode(ClusterConfig.demo()), 7, max_in_flight, patience)


def rows(result: pa.Table) -> dict[str, Any]:
    return {row["key"]: json.loads(row["record"])["response"] for row in result.to_pylist()}


def test_lines_are_answered_and_seeded_by_their_id() -> None:
    result = asyncio.run(feeder(EchoAnswerer())(table(a={}, b={"seed": 1})))
    assert rows(result)["a"]["body"] == {"text": f"a/{request_seed(7, 'a')}"}
    assert rows(result)["b"]["body"] == {"text": "b/1"}
    assert result["num_prompt_tokens"].to_pylist() == [3, 3]
    assert result["num_completion_tokens"].to_pylist() == [5, 5]


def test_the_bound_holds_over_all_batches_and_is_used() -> None:
    answerer = EchoAnswerer()

    async def run() -> None:
        feed = feeder(answerer, max_in_flight=4)
        # In each batch one request takes long; the others' places are taken by those of the next batches meanwhile.
        batches = [table(**{f"{n}-{i}": {"pause": 0.2 if i == 0 else 0.0} for i in range(4)}) for n in range(4)]
        await asyncio.gather(*map(feed, batches))

    asyncio.run(run())
    assert answerer.max_num_running == 4
    assert len(answerer.seen) == 16
    assert {"3-0", "3-1"} <= set(answerer.seen)


def test_what_is_not_the_requests_fault_is_tried_again() -> None:
    answerer = EchoAnswerer()
    bodies = {"full": {"status": 429, "times": 2}, "failed": {"status": 500, "times": 1}, "bad": {"status": 400}}
    result = rows(asyncio.run(feeder(answerer)(table(**bodies))))
    assert {name: found["status_code"] for name, found in result.items()} == {"full": 200, "failed": 200, "bad": 400}
    assert answerer.seen.count("bad") == 1


def test_a_request_that_fails_on_a_healthy_cluster_fails_alone() -> None:
    result = rows(asyncio.run(feeder(EchoAnswerer())(table(bad={"status": 500}, good={}))))
    assert result["bad"]["status_code"] == 500
    assert result["good"]["status_code"] == 200


def test_without_a_cluster_nothing_is_a_result() -> None:
    with pytest.raises(BatchError, match="the cluster has gone"):
        asyncio.run(feeder(EchoAnswerer(is_up=False), patience=0.0)(table(a={"status": 503})))


def test_a_cluster_may_come_back() -> None:
    answerer = EchoAnswerer(is_up=False)
    result = asyncio.run(feeder(answerer)(table(a={"status": 503, "times": 2})))
    assert rows(result)["a"]["status_code"] == 200
