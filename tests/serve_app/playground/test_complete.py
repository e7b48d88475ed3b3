"""Text streams in by its authors, controls reach the engine, and nothing on the page trusts the text."""

import pytest

from tests.serve_app.browser import CONTROL, ENTER, ESCAPE, Page
from tests.serve_app.fakes import TEXT, TOKENIZER, FakeClient
from tests.serve_app.playground.conftest import Open

SHEET = "#view-complete .sheet"
NOTE = "#view-complete .note [role=status]"
TROUBLE = "#view-complete .trouble"


def write(page: Page) -> None:
    """Press the button and wait for the end."""
    page.click("#write")
    page.wait(lambda: "Seed" in page.text(NOTE) or page.is_shown(TROUBLE))


def test_text_streams_in_token_by_token_by_its_authors(page: Page, fake: FakeClient) -> None:
    write(page)
    ids = TOKENIZER.encode(TEXT)
    assert page.text(SHEET) == str(page.one("#prompt").get_property("value")) + TEXT
    assert page.texts(f"{SHEET} .token")[:9] == [TOKENIZER.decode((i,), skip_special_tokens=False) for i in ids[:9]]
    assert page.texts(f"{SHEET} .own")[0] == TOKENIZER.decode((ids[3],), skip_special_tokens=False)
    colours = "return ['drafted', 'own'].map((a) => getComputedStyle(document.querySelector(`.token.${a}`)).color)"
    drafted, own = page.driver.execute_script(colours)
    assert drafted != own
    assert page.text("#view-complete .acceptance") == "75 %"
    assert page.text("#view-complete .count") == str(len(ids))
    assert page.problems() == []


def test_controls_reach_the_engine(page: Page, fake: FakeClient) -> None:
    controls = {
        "temperature": 0.5, "top-p": 0.9, "top-k": 12, "min-p": 0.05, "max-tokens": 7, "seed": 11, "length": 3,
        "repetition": 1.1, "presence": 0.5, "frequency": -0.5, "alternatives": 2, "stop-strings": "river\nsaw\\nit",
    }  # fmt: skip
    for name, value in controls.items():
        page.set(f"#{name}", value)
    write(page)
    params = fake.requests[0].params
    assert (params.temperature, params.top_p, params.top_k, params.min_p) == (0.5, 0.9, 12, 0.05)
    assert (params.max_new_tokens, params.seed, params.num_assistant_tokens) == (7, 11, 3)
    assert (params.repetition_penalty, params.presence_penalty, params.frequency_penalty) == (1.1, 0.5, -0.5)
    assert (params.stop_strings, params.logprobs) == (("river", "saw\nit"), 2)
    assert "Seed 11." in page.text(NOTE)


def test_text_ends_before_a_stop_string(page: Page, fake: FakeClient) -> None:
    page.set("#stop-strings", "river at")
    write(page)
    assert "".join(page.texts(f"{SHEET} .token")) == " The ship went down the "
    assert "the model ended the text" in page.text(NOTE)


def test_a_value_out_of_bounds_is_shown_not_sent(page: Page, fake: FakeClient) -> None:
    page.set("#top-k", -3)
    page.driver.execute_script("document.querySelector('details').removeAttribute('open')")
    page.click("#write")
    page.wait(lambda: page.focused() == "top-k")
    assert fake.requests == []


def test_without_drafting_all_is_the_targets_own(page: Page, fake: FakeClient) -> None:
    page.click("#drafting")
    write(page)
    assert fake.requests[0].params.num_assistant_tokens == 0
    assert page.texts(f"{SHEET} .drafted") == []
    assert "".join(page.texts(f"{SHEET} .own")) == TEXT
    assert page.text("#view-complete .acceptance") == "–"


def test_a_seed_that_was_drawn_can_be_kept(page: Page, fake: FakeClient) -> None:
    write(page)
    page.click("#view-complete .quiet")
    page.click("#write")
    page.wait(lambda: len(fake.requests) == 2 and page.is_shown("#view-complete .quiet"))
    assert fake.requests[0].params.seed == fake.requests[1].params.seed


@pytest.mark.parametrize("way", ["button", "key"])
def test_stopping_takes_the_request_back(page: Page, fake: FakeClient, way: str) -> None:
    fake.pause = 0.3
    page.click("#write")
    page.wait(lambda: len(page.texts(f"{SHEET} .own")) > 1)
    page.click("#stop") if way == "button" else page.press("#prompt", ESCAPE)
    page.wait(lambda: "you stopped it" in page.text(NOTE))
    page.wait(lambda: not fake.running)
    assert fake.taken_back
    text = page.text(SHEET)
    assert not text.endswith(TEXT)
    assert (page.text("#write"), page.one("#stop").is_enabled()) == ("Write", False)


def test_a_new_text_takes_the_place_of_the_old(page: Page, fake: FakeClient) -> None:
    fake.pause = 0.3
    page.click("#write")
    page.wait(lambda: len(page.texts(f"{SHEET} .own")) > 1)
    fake.pause, fake.text = 0.0, " Another."
    write(page)
    assert "".join(page.texts(f"{SHEET} .token")) == " Another."
    page.wait(lambda: len(fake.taken_back) == 1)


def test_it_works_by_keyboard(page: Page) -> None:
    page.press("#prompt", " far away", CONTROL + ENTER)
    page.wait(lambda: "Seed" in page.text(NOTE))
    assert page.text(SHEET).endswith("lane far away" + TEXT)


def test_markup_in_text_stays_text(page: Page, fake: FakeClient) -> None:
    fake.text = "<img src=x onerror=\"document.title='hacked'\"><script>document.title='hacked'</script><b>bold</b>"
    page.set("#prompt", "<i>prompt</i>")
    write(page)
    assert page.text(SHEET) == "<i>prompt</i>" + fake.text
    page.driver.execute_script("document.querySelectorAll('.token').forEach((token) => token.click())")
    foreign = "return document.querySelectorAll('#view-complete .sheet *:not(span), #card img, #card script').length"
    assert page.driver.execute_script(foreign) == 0
    assert page.driver.title == "Complete · Slipstream"


def test_a_busy_cluster_is_tried_again_when_it_said(page: Page, fake: FakeClient) -> None:
    fake.is_overloaded = True
    write(page)
    assert "busy" in page.text(f"{TROUBLE} [role=alert]")
    fake.is_overloaded = False
    page.wait(lambda: page.text(f"{TROUBLE} button") == "Try again")  # it has counted down what Retry-After asked for
    page.click(f"{TROUBLE} button")
    page.wait(lambda: page.text(SHEET).endswith(TEXT))
    assert not page.is_shown(TROUBLE)


def test_a_failure_midway_leaves_the_text_and_says_why(page: Page, fake: FakeClient) -> None:
    fake.error = "out of luck"
    write(page)
    assert "out of luck" in page.text(f"{TROUBLE} [role=alert]")
    assert page.texts(f"{SHEET} .token")
    assert page.text("#write") == "Write"
    assert page.one(SHEET).get_attribute("aria-busy") == "false"


def test_a_request_that_cannot_be_is_not_offered_again(page: Page, fake: FakeClient) -> None:
    page.set("#prompt", "")
    write(page)
    assert "at least one character" in page.text(f"{TROUBLE} [role=alert]")
    assert not page.is_shown(f"{TROUBLE} button")
    assert page.problems() == []


def test_the_api_page_shows_the_fields(open_page: Open) -> None:
    page = open_page()
    page.driver.get(f"{page.url}/docs")
    page.wait(lambda: "num_assistant_tokens" in page.text("#docs"))
    assert "POST /v1/completions" in page.text("#docs")
    assert page.problems() == []
