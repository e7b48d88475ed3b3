import asyncio
from pathlib import Path
from typing import Any

import pytest

from actors.engine.errors import GenerationError
from actors.engine.params import GenerationParams
from actors.engine.request import Request
from cluster.prompting import stream_deltas
from cluster.terminal import TokenPrinter
from tests.cluster.fakes import ToyClient, tiny_llama


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("tiny-llama")
    return tiny_llama(folder)


def decode(ids: Any) -> str:
    return "".join(f"{token_id} " for token_id in ids)


def request(max_new_tokens: int) -> Request:
    params = GenerationParams(do_sample=True, seed=4, max_new_tokens=max_new_tokens)
    return Request(request_id="r", prompt_token_ids=(5, 6), params=params)


def test_tokens_are_printed_and_counted(toy: Any, capsys: pytest.CaptureFixture[str]) -> None:
    client = ToyClient(toy)
    summary = asyncio.run(stream_deltas(client, request(7), "toy", TokenPrinter(decode, (5, 6))))
    assert len(capsys.readouterr().out.split()) == summary.num_tokens == 7


def test_a_failure_is_raised(toy: Any) -> None:
    client = ToyClient(toy, fail="out of memory")
    with pytest.raises(GenerationError, match="out of memory"):
        asyncio.run(stream_deltas(client, request(7), "toy", TokenPrinter(decode, (5, 6))))
