"""Doors ask the router once, however many models they serve and however many want to know."""

import asyncio
from dataclasses import dataclass, field

import pytest

from actors.status import ClusterStats
from serve_app.cluster_account import ClusterAccount
from serve_app.cluster_view import Capacity, ClusterView
from serve_app.errors import ApiError
from tests.serve_app.fakes import DRAFT, LIMITS, MODEL, FakeClient, make_gateway

pytestmark = pytest.mark.anyio


@dataclass
class CountingClient(FakeClient):
    """Counts how often it is asked for its state."""

    num_looks: int = field(default=0)

    async def stats(self) -> ClusterStats:
        self.num_looks += 1
        return await super().stats()


async def test_all_models_of_a_door_share_one_answer() -> None:
    client = CountingClient()
    cards = await make_gateway(client, LIMITS).cards()
    assert [card.name for card in cards] == [MODEL, DRAFT]
    assert client.num_looks == 1


async def test_who_asks_meanwhile_waits_for_the_same_answer() -> None:
    client = CountingClient()
    account = ClusterAccount(client, lambda: 0)
    views = [ClusterView(account, name, Capacity(), None) for name in (MODEL, DRAFT)]
    await asyncio.gather(*(view.stats() for view in views))
    assert client.num_looks == 1


async def test_an_account_grows_old_and_counts_what_came_through_others() -> None:
    now = 0.0
    client = CountingClient(num_others=3)
    account = ClusterAccount(client, lambda: 0, lambda: now)
    view = ClusterView(account, MODEL, Capacity(total=8), None)
    assert view.room() is None  # nothing is known yet
    await view.stats(max_age=5.0)
    assert view.room() == 5
    now = 6.0
    await view.stats(max_age=5.0)
    assert client.num_looks == 2


async def test_no_router_is_an_error_to_everyone_who_asks() -> None:
    view = ClusterView(ClusterAccount(FakeClient(is_router_gone=True), lambda: 0), MODEL, Capacity(), None)
    for _ in range(2):
        with pytest.raises(ApiError):
            await view.stats()
