"""The playground in a real browser, before a real cluster: the same text sooner, a chat, and figures that move."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.conformance.conftest import ClusterServer
from tests.serve_app.browser import MISSING, WHY_SKIPPED, Page, open_browser


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    """One browser for all tests here."""
    if MISSING:
        pytest.skip(WHY_SKIPPED)
    with open_browser() as driver:
        yield driver


def test_drafting_does_not_show_but_in_the_colours(driver: Any, served: ClusterServer) -> None:
    page = Page(driver, served.url, "compare")
    page.set("#max-tokens", 40)
    page.set("#seed", 7)
    page.click("#write")
    page.wait(lambda: page.is_shown("#verdict") or page.is_shown("#view-compare .trouble"))
    assert page.text("#verdict-text") == "The texts are identical."
    drafted, plain = ("".join(page.texts(f".column:nth-child({place}) .token")) for place in (1, 2))
    assert drafted == plain != ""
    assert page.texts(".column:nth-child(1) .token.drafted")
    assert page.texts(".column:nth-child(2) .token.drafted") == []


def test_a_chat_and_what_its_tokens_know(driver: Any, served: ClusterServer) -> None:
    page = Page(driver, served.url, "chat")
    page.set("#max-tokens", 24)
    page.set("#temperature", 0)
    page.set("#message", "Tell me of the old house.")
    page.click("#send")
    page.wait(lambda: "Seed" in page.text("#view-chat > .note") or page.is_shown("#view-chat .trouble"))
    assert not page.is_shown("#view-chat .trouble"), page.text("#view-chat .trouble")
    page.click("#log .assistant .token")
    token = page.text("#log .assistant .token").replace(" ", "␣").replace("\n", "⏎")
    assert page.texts("#card li > :first-child")[0] == token  # greedy: the likeliest token is the one that stands there
    assert len(page.texts("#card li")) == 5
    assert page.problems() == []


def test_the_cluster_as_it_is(driver: Any, served: ClusterServer) -> None:
    page = Page(driver, served.url, "cluster")
    page.wait(lambda: len(page.texts("#targets .name")) == len(page.texts("#drafts .name")) == 1)
    assert page.texts("#targets .state") == page.texts("#drafts .state") == ["serving"]
    assert "float32" in page.text("#targets dl")
    page.wait(lambda: page.texts("#positions b"))
