"""The view for who runs the cluster, fed by a cluster whose figures move."""

import time

import msgspec
import pytest

from actors.status import ClusterStats
from tests.serve_app.browser import Page
from tests.serve_app.fakes import FakeClient
from tests.serve_app.playground.conftest import Open


class MovingClient(FakeClient):
    """Writes a hundred tokens a second, however often one looks; half of the drafted count."""

    def __init__(self) -> None:
        super().__init__()
        self._started_at = time.monotonic() - 60.0

    def start_anew(self) -> None:
        """Count from nothing, as a router does that starts anew."""
        self._started_at = time.monotonic()

    async def stats(self) -> ClusterStats:
        stats = await super().stats()
        tenths = int(10 * (time.monotonic() - self._started_at))
        workers = tuple(
            msgspec.structs.replace(worker, is_draining=worker.info.role == "draft") for worker in stats.workers
        )
        return msgspec.structs.replace(
            stats,
            workers=workers,
            num_failed=3,
            uptime=tenths / 10,
            num_generated_tokens=10 * tenths,
            num_draft_tokens=4 * tenths,
            num_accepted_tokens=2 * tenths,
        )


@pytest.fixture
def fake() -> FakeClient:
    """In place of the usual one."""
    return MovingClient()


@pytest.fixture
def page(open_page: Open) -> Page:
    """The cluster's view."""
    return open_page("cluster")


def test_figures_charts_and_workers(page: Page) -> None:
    page.wait(lambda: page.texts(".chart .value")[0] == "100")
    assert page.texts(".chart .value") == ["100", "50 %", "1 / 2", "60 %"]
    assert page.texts("#positions b") == ["100 %", "90 %", "70 %", "40 %"]
    assert page.texts("#figures dd")[2] == "3"
    assert page.driver.execute_script("return scrollY") == 0  # the address names a view, no place on the page
    assert (page.texts("#targets .name"), page.texts("#drafts .name")) == (["target-0"], ["draft-0"])
    assert (page.texts("#targets .state"), page.texts("#drafts .state")) == (["serving"], ["draining"])
    assert "60 %" in page.text("#targets dl")
    page.wait(lambda: "L" in str(page.one(".chart .line").get_attribute("d")))
    assert "now 100" in str(page.one(".chart svg").get_attribute("aria-label"))
    assert page.problems() == []


def test_a_router_that_starts_anew_does_not_upset_the_rates(page: Page, fake: FakeClient) -> None:
    assert isinstance(fake, MovingClient)
    page.wait(lambda: page.texts(".chart .value")[0] == "100")
    fake.start_anew()
    page.wait(lambda: page.texts(".chart .value")[0] == "–")
    page.wait(lambda: page.texts(".chart .value")[0] == "100")


def test_a_router_that_is_gone_is_told_and_seen_again(page: Page, fake: FakeClient) -> None:
    page.wait(lambda: page.texts("#targets .name"))
    fake.is_router_gone = True
    page.wait(lambda: page.is_shown("#view-cluster .trouble"))
    assert page.texts("#targets .name") == ["target-0"]  # what was known last
    fake.is_router_gone = False
    page.wait(lambda: not page.is_shown("#view-cluster .trouble"))


def test_views_are_places_to_go_back_to(page: Page) -> None:
    page.click("header nav a[href='#chat']")
    page.wait(lambda: page.is_shown("#view-chat"))
    assert page.driver.title == "Chat · Slipstream"
    assert page.texts("header nav [aria-current]") == ["Chat"]
    page.driver.back()
    page.wait(lambda: page.is_shown("#view-cluster"))
