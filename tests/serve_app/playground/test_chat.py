"""A conversation: sent whole each time, stopped, written anew, begun anew."""

import pytest

from tests.serve_app.browser import CONTROL, ENTER, ESCAPE, Page
from tests.serve_app.fakes import TEXT, TOKENIZER, FakeClient
from tests.serve_app.playground.conftest import Open

NOTE = "#view-chat > .note"
ANSWER = "#log .assistant .tokens"


@pytest.fixture
def chat(open_page: Open) -> Page:
    """The view that talks."""
    return open_page("chat")


def say(page: Page, words: str) -> None:
    """Send a message and wait for the end of the answer."""
    page.set("#message", words)
    page.click("#send")
    page.wait(lambda: page.text(NOTE).startswith(("Writing", "")) and page.one("#send").is_enabled())
    page.wait(lambda: "Seed" in page.text(NOTE) or page.is_shown("#view-chat .trouble"))


def prompts(fake: FakeClient) -> list[str]:
    """What the model was given, request by request."""
    return [TOKENIZER.decode(request.prompt_token_ids, skip_special_tokens=False) for request in fake.requests]


def test_a_conversation_is_sent_whole(chat: Page, fake: FakeClient) -> None:
    chat.set("#system", "Be brief.")
    fake.text = " Aye."
    say(chat, "Is there a ship?")
    fake.text = " Far."
    say(chat, "Where?")
    assert chat.texts(ANSWER) == [" Aye.", " Far."]
    assert chat.texts("#log .user p") == ["Is there a ship?", "Where?"]
    places = [prompts(fake)[1].index(part) for part in ("Be brief.", "Is there a ship?", " Aye.", "Where?")]
    assert places == sorted(places)
    assert chat.text("#view-chat .count") == str(len(TOKENIZER.encode(" Far.")))
    assert chat.problems() == []


def test_tokens_of_an_answer_tell_what_they_know(chat: Page, fake: FakeClient) -> None:
    say(chat, "Go on.")
    assert chat.text(ANSWER) == TEXT
    assert chat.texts(f"{ANSWER} .drafted")
    chat.all(f"{ANSWER} .own")[0].click()
    assert "the target’s own" in chat.text("#card")
    assert chat.texts("#card li > :last-child") == ["60.7 %", "13.5 %"]


def test_an_answer_that_was_stopped_stays(chat: Page, fake: FakeClient) -> None:
    fake.pause = 0.3
    chat.press("#message", "Go on.", CONTROL + ENTER)
    chat.wait(lambda: len(chat.texts(f"{ANSWER} .own")) > 1)
    chat.press("#message", ESCAPE)
    chat.wait(lambda: "you stopped it" in chat.text(NOTE))
    chat.wait(lambda: fake.taken_back)
    begun = chat.text(ANSWER)
    assert TEXT.startswith(begun)
    fake.pause = 0.0
    say(chat, "And?")
    assert begun in prompts(fake)[1]


def test_an_answer_can_be_written_anew(chat: Page, fake: FakeClient) -> None:
    fake.text = " No."
    say(chat, "Well?")
    fake.text = " Yes."
    chat.click("#chat-again")
    chat.wait(lambda: chat.texts(ANSWER) == [" Yes."])
    assert len(fake.requests) == 2
    assert prompts(fake)[0] == prompts(fake)[1]


def test_a_new_chat_forgets(chat: Page, fake: FakeClient) -> None:
    fake.text = " No."
    say(chat, "Well?")
    chat.click("#chat-new")
    assert chat.texts("#log .message") == []
    say(chat, "Who?")
    assert "Well?" not in prompts(fake)[1]


def test_a_failure_can_be_tried_again(chat: Page, fake: FakeClient) -> None:
    fake.error = "out of luck"
    say(chat, "Well?")
    assert "out of luck" in chat.text("#view-chat .trouble")
    fake.error = ""
    chat.click("#view-chat .trouble button")
    chat.wait(lambda: chat.texts(ANSWER) == [TEXT])
    assert prompts(fake)[0] == prompts(fake)[1]
