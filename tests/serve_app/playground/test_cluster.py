"""The view for who runs the cluster, fed by a cluster whose figures move."""

import msgspec
import pytest

from actors.status import ClusterStats
from tests.serve_app.browser import Page
from tests.serve_app.fakes import FakeClient
from tests.serve_app.playground.conftest import Open


class MovingClient(FakeClient):
    """Writes a hundred tokens between two looks, a second apart by the router's clock; half of the drafted count."""

    num_looks = 0

    async def stats(self) -> ClusterStats:
        stats = await super().stats()
        self.num_looks += 1
        workers = tuple(
            msgspec.structs.replace(worker, is_draining=worker.info.role == "draft") for worker in stats.workers
        )
        return msgspec.structs.replace(
            stats,
            workers=workers,
            num_failed=3,
            uptime=float(self.num_looks),
            num_generated_tokens=100 * self.num_looks,
            num_draft_tokens=40 * self.num_looks,
            num_accepted_tokens=20 * self.num_looks,
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
    fake.num_looks = 0
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
