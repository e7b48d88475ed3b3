"""For everyone: axe-core finds nothing, the keyboard reaches all, nothing sticks out, and pages look as preferred."""

import importlib.util

import pytest

from tests.serve_app.browser import DESKTOP, ENTER, PHONE, TAB, Page
from tests.serve_app.fakes import FakeClient
from tests.serve_app.playground.conftest import Open

VIEWS = ("complete", "chat", "compare", "cluster")


def fill(page: Page, view: str) -> None:
    """Bring all of a view onto the page."""
    page.driver.execute_script("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    if view == "chat":
        page.set("#message", "Well?")
        page.click("#send")
    elif view != "cluster":
        page.click("#write")
    done = {
        "complete": lambda: "Seed" in page.text("#view-complete .note"),
        "chat": lambda: "Seed" in page.text("#view-chat > .note"),
        "compare": lambda: page.is_shown("#verdict"),
        "cluster": lambda: page.texts("#targets .name"),
    }
    page.wait(done[view])
    if view != "cluster":
        page.click(f"#view-{view} .token")


@pytest.mark.skipif(not importlib.util.find_spec("selenium_axe_python"), reason="selenium-axe-python is not installed")
@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_nothing_in_light_dark_and_on_a_phone(open_page: Open, view: str) -> None:
    page = open_page(view)
    page.look()
    fill(page, view)
    for is_dark, width in ((False, DESKTOP), (True, DESKTOP), (False, PHONE)):
        page.look(width=width, is_dark=is_dark)
        assert page.violations() == [], f"dark: {is_dark}, width: {width}"


@pytest.mark.skipif(not importlib.util.find_spec("selenium_axe_python"), reason="selenium-axe-python is not installed")
def test_axe_finds_nothing_in_errors_dialogs_and_the_api_page(open_page: Open, fake: FakeClient) -> None:
    page = open_page()
    fake.error = "out of luck"
    page.click("#write")
    page.wait(lambda: page.is_shown("#view-complete .trouble"))
    for is_dark in (False, True):
        page.look(is_dark=is_dark)
        assert page.violations() == []
    page.click("#key-button")
    assert page.violations() == []
    page.driver.get(f"{page.url}/docs")
    page.wait(lambda: "POST /v1/completions" in page.text("#docs"))
    assert page.violations() == []


@pytest.mark.parametrize("view", VIEWS)
def test_nothing_sticks_out_sideways(open_page: Open, view: str) -> None:
    page = open_page(view)
    fill(page, view)
    for width in (320, PHONE, 768, DESKTOP):
        page.look(width=width)
        assert page.driver.execute_script("return document.documentElement.scrollWidth") <= width


def test_the_keyboard_goes_through_the_page_in_order(page: Page) -> None:
    page.driver.execute_script("document.getElementById('skip').focus()")
    seen = [page.focused()]
    for _ in range(40):
        page.type(TAB)
        seen.append(page.focused())
        outline = page.driver.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", seen[-1]
        if seen[-1] == "colours":
            break
    stops = ["skip", "key-button", "theme-button", "prompt", "write", "sheet tokens", "temperature", "seed", "length"]
    places = [seen.index(stop) for stop in stops]
    assert places == sorted(places)


def test_the_first_stop_leads_to_the_content(page: Page) -> None:
    page.driver.execute_script("document.getElementById('skip').focus()")
    page.type(ENTER)
    assert page.focused() == "main"
    assert page.is_shown("#view-complete")


def test_dark_as_preferred_or_as_chosen(page: Page) -> None:
    def paper() -> str:
        return str(page.one("body").value_of_css_property("background-color"))

    light = paper()
    page.look(is_dark=True)
    dark = paper()
    assert light != dark
    page.wait(lambda: page.one("#theme-button").get_attribute("aria-pressed") == "true")
    page.click("#theme-button")
    assert paper() == light
    page.driver.refresh()  # the choice outlives the page, the system's preference notwithstanding
    page.wait(lambda: paper() == light)
    page.look(is_dark=False)
    page.click("#theme-button")
    assert paper() == dark


def test_nothing_moves_where_that_is_not_wanted(page: Page, fake: FakeClient) -> None:
    fake.pause = 0.3
    page.click("#write")
    page.wait(lambda: page.one("#view-complete .sheet").get_attribute("aria-busy") == "true")
    motion = "return getComputedStyle(document.querySelector('#view-complete .sheet'), '::after').animationName"
    assert page.driver.execute_script(motion) == "blink"
    page.look(is_still=True)
    assert page.driver.execute_script(motion) == "none"
    page.click("#stop")
