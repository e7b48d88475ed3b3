"""The API key: asked for, kept by the tab alone, carried by every request, forgotten."""

from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn

from serve_app.keys import ONE_KEY, Keys
from tests.serve_app.browser import Page
from tests.serve_app.conftest import Server
from tests.serve_app.fakes import TEXT, FakeClient, make_app
from tests.serve_app.playground.conftest import Open

KEY = "sk-of-the-test"


class LockedServer(Server):
    """A server that asks for a key."""

    def __init__(self, fake: FakeClient) -> None:
        app: Any = make_app(fake, keys=Keys(None, {ONE_KEY: KEY}))
        uvicorn.Server.__init__(self, uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="on"))


@pytest.fixture
def server(fake: FakeClient) -> Iterator[Server]:
    """In place of the open one."""
    with LockedServer(fake).running() as server:
        yield server


def give(page: Page, key: str) -> None:
    """Type a key into the dialog."""
    page.one("#key").clear()
    page.press("#key", key)
    page.click("#key-form [type=submit]")


def test_a_key_is_asked_for_and_opens_the_door(page: Page, fake: FakeClient) -> None:
    page.wait(lambda: page.text("#state") == "An API key is needed")
    page.click("#write")
    page.wait(lambda: "API key" in page.text("#view-complete .trouble [role=alert]"))
    page.click("#view-complete .trouble button")
    page.wait(lambda: page.focused() == "key")
    give(page, "wrong")
    page.click("#write")
    page.wait(lambda: "not known" in page.text("#view-complete .trouble [role=alert]"))
    page.click("#key-button")
    give(page, KEY)
    page.wait(lambda: "toy" in page.text("#state"))
    page.click("#write")
    page.wait(lambda: page.text("#view-complete .sheet").endswith(TEXT))
    assert page.problems() == []


def test_a_key_is_kept_by_the_tab_alone_until_it_is_forgotten(page: Page) -> None:
    page.click("#key-button")
    give(page, KEY)
    page.wait(lambda: "toy" in page.text("#state"))
    kept = "return [localStorage.length, document.cookie, location.href.includes(arguments[0])]"
    assert page.driver.execute_script(kept, KEY) == [0, "", False]
    page.driver.refresh()
    page.wait(lambda: "toy" in page.text("#state"))
    page.driver.get(f"{page.url}/docs")
    page.wait(lambda: "POST /v1/completions" in page.text("#docs"))
    page.driver.get(f"{page.url}/#complete")
    page.click("#key-button")
    page.click("#key-forget")
    page.wait(lambda: page.text("#state") == "An API key is needed")
    assert page.driver.execute_script("return sessionStorage.length") == 0


def test_the_clusters_view_asks_too(open_page: Open) -> None:
    page = open_page("cluster")
    page.wait(lambda: page.is_shown("#view-cluster .trouble button"))
    page.click("#view-cluster .trouble button")
    give(page, KEY)
    page.wait(lambda: page.texts("#targets .name") == ["target-0"])
    assert not page.is_shown("#view-cluster .trouble")
