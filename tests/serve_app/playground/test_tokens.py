"""What each token tells: its author, its likelihood, and what else was likely, by mouse, by finger and by keyboard."""

import math

import pytest

from tests.serve_app.browser import ESCAPE, HOME, LEFT, PHONE, RIGHT, Page
from tests.serve_app.fakes import TEXT, TOKENIZER, FakeClient
from tests.serve_app.playground.conftest import Open

SHEET = "#view-complete .sheet"


@pytest.fixture
def written(page: Page, fake: FakeClient) -> Page:
    """A page with a text on it."""
    page.set("#max-tokens", 12)
    page.click("#write")
    page.wait(lambda: "Seed" in page.text("#view-complete .note"))
    return page


def test_pointing_at_a_token_shows_what_is_known(written: Page) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(written.driver).move_to_element(written.all(f"{SHEET} .token")[1]).perform()
    written.wait(lambda: written.is_shown("#card"))
    token_id = TOKENIZER.encode(TEXT)[1]
    card = written.text("#card")
    assert f"token {token_id}" in card
    assert "drafted, and accepted" in card
    assert f"{100 * math.exp(-0.5):.1f} %" in card
    assert written.texts("#card li > :last-child") == ["60.7 %", "13.5 %"]
    ActionChains(written.driver).move_to_element(written.one("#write")).perform()
    written.wait(lambda: not written.is_shown("#card"))


def test_a_finger_can_do_it_too(open_page: Open, fake: FakeClient) -> None:
    page = open_page()
    page.look(width=PHONE)
    page.click("#write")
    page.wait(lambda: "Seed" in page.text("#view-complete .note"))
    page.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    try:
        token = page.all(f"{SHEET} .own")[0]
        page.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", token)
        box = page.driver.execute_script("return arguments[0].getBoundingClientRect().toJSON()", token)
        point = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        page.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [point]})
        page.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        page.wait(lambda: page.is_shown("#card"))
        assert "the target’s own" in page.text("#card")
        card = page.driver.execute_script("return document.getElementById('card').getBoundingClientRect().toJSON()")
        assert card["left"] >= 0
        assert card["right"] <= PHONE
    finally:
        page.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})


def test_arrow_keys_go_along_the_text_and_are_heard(written: Page) -> None:
    written.press(SHEET, HOME)
    first, second = written.texts(f"{SHEET} .token")[:2]
    written.wait(lambda: written.texts(".looked-at") == [first])
    written.press(SHEET, RIGHT)
    assert written.texts(".looked-at") == [second]
    assert written.text("#spoken").startswith(second.replace(" ", "␣") + ": drafted")
    assert "60.7 %" in written.text("#spoken")
    written.press(SHEET, LEFT)
    assert written.texts(".looked-at") == [first]
    written.press(SHEET, ESCAPE)
    assert not written.is_shown("#card")


def test_tokens_that_only_together_make_a_character(page: Page, fake: FakeClient) -> None:
    fake.text = " 日"
    page.click("#write")
    page.wait(lambda: "Seed" in page.text("#view-complete .note"))
    assert "".join(page.texts(f"{SHEET} .token")) == " 日"
    num_tokens = len(TOKENIZER.encode(" 日"))
    num_spans = len(page.all(f"{SHEET} .token"))
    assert num_spans < num_tokens
    page.all(f"{SHEET} .token")[-1].click()
    assert f"the last of {num_tokens - num_spans + 1} tokens" in page.text("#card")


def test_colours_can_tell_how_likely_a_token_was(written: Page) -> None:
    def shadow() -> str:
        return str(written.one(f"{SHEET} .drafted").value_of_css_property("box-shadow"))

    assert shadow() == "none"
    written.set("#colours", "likely")
    assert shadow() != "none"
    assert written.is_shown("#view-complete .by-likely")
    assert not written.is_shown("#view-complete .by-author")
    written.set("#colours", "none")
    assert shadow() == "none"
