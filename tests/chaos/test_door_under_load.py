"""A few of the clients that ``python -m tests.chaos disconnects`` and ``overload`` send by the hundreds."""

import random
from collections.abc import Iterator

import pytest

from tests.chaos.disconnects import disturb, plan
from tests.chaos.overload import overload, overloaded_config
from tests.served import Served, served


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    """One server for both, with room for sixteen sequences."""
    with served(overloaded_config()) as server:
        yield server


@pytest.mark.slow
def test_who_hangs_up_leaves_nothing_behind(server: Served) -> None:
    figures, failures = disturb(server, plan(20, random.Random(7)), num_at_once=4, max_bytes=8_000, max_seconds=0.5)
    assert not failures, figures


@pytest.mark.slow
def test_ten_times_too_much_loses_nobody(server: Served) -> None:
    figures, failures = overload(server, seconds=2.0, warm_up=0.5)
    assert not failures, figures
    assert figures["accepted"] >= 16
    assert figures["refusal_ms"]["p50"] < figures["accepted_ms"]["p50"]
