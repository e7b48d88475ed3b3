"""One text twice, with and without drafting: the same or not, and which was sooner."""

from collections.abc import AsyncIterator

import pytest

from actors.engine.request import Delta, Request
from tests.serve_app.browser import Page
from tests.serve_app.fakes import TEXT, FakeClient
from tests.serve_app.playground.conftest import Open


class UnevenClient(FakeClient):
    """Takes four times as long without drafting, and can then say something else."""

    plain_text = TEXT

    async def generate(self, request: Request, model: str) -> AsyncIterator[Delta]:
        is_drafted = request.params.num_assistant_tokens != 0
        self.text = TEXT if is_drafted else self.plain_text
        self.pause = 0.02 if is_drafted else 0.08
        async for delta in super().generate(request, model):
            yield delta


@pytest.fixture
def fake() -> FakeClient:
    """In place of the usual one."""
    return UnevenClient()


def compare(page: Page) -> None:
    """Press the button and wait for the verdict."""
    page.click("#write")
    page.wait(lambda: page.is_shown("#verdict"))


def columns(page: Page) -> list[str]:
    """The two texts."""
    return ["".join(page.texts(f".column:nth-child({place}) .token")) for place in (1, 2)]


def test_the_same_text_sooner(open_page: Open, fake: FakeClient) -> None:
    page = open_page("compare")
    compare(page)
    drafted, plain = (request.params for request in fake.requests)
    assert drafted.seed == plain.seed
    assert (drafted.num_assistant_tokens, plain.num_assistant_tokens) == (4, 0)
    assert columns(page) == [TEXT, TEXT]
    assert page.text("#verdict-text") == "The texts are identical."
    speed = page.text("#verdict-speed")
    assert float(speed.split("×")[0]) > 1
    assert "instead of" in speed
    assert page.texts(".column:nth-child(2) .token.drafted") == []
    assert not page.is_shown("#verdict-fair")
    assert page.problems() == []


def test_texts_that_part_are_told_with_the_place(open_page: Open, fake: FakeClient) -> None:
    assert isinstance(fake, UnevenClient)
    fake.plain_text = TEXT.replace("river", "road ")
    page = open_page("compare")
    compare(page)
    place = TEXT.index("river") + 1
    assert page.text("#verdict-text") == f"The texts part behind {place} characters."
    assert len(page.texts(".differs")) == 2


def test_a_race_runs_both_at_once(open_page: Open, fake: FakeClient) -> None:
    page = open_page("compare")
    page.click("#race")
    page.click("#write")
    page.wait(lambda: len(fake.running) == 2)
    page.wait(lambda: page.is_shown("#verdict"))
    assert page.is_shown("#verdict-fair")


def test_stopping_takes_both_back(open_page: Open, fake: FakeClient) -> None:
    page = open_page("compare")
    page.click("#race")
    page.click("#write")
    page.wait(lambda: len(fake.running) == 2)
    page.click("#stop")
    page.wait(lambda: not fake.running)
    assert len(fake.taken_back) == 2
    assert not page.is_shown("#verdict")
