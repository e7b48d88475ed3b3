"""The playground in a real browser: text streams in, by its authors, and nothing on the page trusts the text."""

import importlib.util
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.serve_app.conftest import Server
from tests.serve_app.fakes import TEXT, TOKENIZER, FakeClient

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
MISSING = [
    name
    for name, there in (
        ("a browser (chromium)", BROWSER),
        ("chromedriver", DRIVER),
        ("the Python package selenium", importlib.util.find_spec("selenium")),
    )
    if not there
]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not on this machine: {', '.join(MISSING)}")


class Page:
    """The playground, loaded."""

    def __init__(self, driver: Any, server: Server) -> None:
        self.driver = driver
        driver.get(f"http://127.0.0.1:{server.port}/")
        self.wait(lambda: "toy" in self.text("cluster"))

    def element(self, name: str) -> Any:
        """An element by its id."""
        return self.driver.find_element("id", name)

    def text(self, name: str) -> str:
        """What a person reads there."""
        return str(self.element(name).get_property("textContent"))

    def spans(self, author: str) -> list[str]:
        """Text of one author's pieces."""
        script = "return [...document.querySelectorAll(`#text .${arguments[0]}`)].map((span) => span.textContent)"
        return list(self.driver.execute_script(script, author))

    def set(self, name: str, value: object) -> None:
        """Set a control as a person would leave it."""
        script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input', {bubbles: true}))"
        self.driver.execute_script(script, self.element(name), str(value))

    def wait(self, is_true: Callable[[], bool]) -> None:
        """Wait until it is so."""
        from selenium.webdriver.support.wait import WebDriverWait

        WebDriverWait(self.driver, 10, poll_frequency=0.02).until(lambda _: is_true())

    def write(self) -> None:
        """Press the button and wait for the end."""
        self.element("write").click()
        self.wait(lambda: "Seed" in self.text("note") or self.element("error").is_displayed())

    def problems(self) -> list[str]:
        """What the browser complained about, but for answers that are errors."""
        return [
            entry["message"] for entry in self.driver.get_log("browser") if "Failed to load" not in entry["message"]
        ]


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    """One headless browser for all tests here."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(driver: Any, server: Server) -> Page:
    """The page on a fresh server."""
    return Page(driver, server)


def test_text_streams_in_by_its_authors(page: Page, fake: FakeClient) -> None:
    page.write()
    assert page.text("text") == page.text("prompt") + TEXT
    assert page.spans("drafted")[0] == " The shi"
    assert page.spans("own")[0] == "p"
    colours = "return ['drafted', 'own'].map((a) => getComputedStyle(document.querySelector(`#text .${a}`)).color)"
    drafted, own = page.driver.execute_script(colours)
    assert drafted != own
    assert page.text("acceptance") == "75 %"
    assert page.text("count") == str(len(TOKENIZER.encode(TEXT)))
    assert page.problems() == []


def test_controls_reach_the_engine(page: Page, fake: FakeClient) -> None:
    for name, value in (("temperature", 0.5), ("top-p", 0.9), ("max-tokens", 7), ("seed", 11), ("length", 3)):
        page.set(name, value)
    page.write()
    params = fake.requests[0].params
    assert (params.temperature, params.top_p, params.max_new_tokens) == (0.5, 0.9, 7)
    assert (params.seed, params.num_assistant_tokens) == (11, 3)
    assert "Seed 11." in page.text("note")


def test_without_drafting_all_is_the_targets_own(page: Page, fake: FakeClient) -> None:
    page.element("drafting").click()
    page.write()
    assert fake.requests[0].params.num_assistant_tokens == 0
    assert page.spans("drafted") == []
    assert page.spans("own") == [TEXT]
    assert page.text("acceptance") == "–"


@pytest.mark.parametrize("way", ["button", "key"])
def test_stopping_takes_the_request_back(page: Page, fake: FakeClient, way: str) -> None:
    fake.pause = 0.1
    page.element("write").click()
    page.wait(lambda: len(page.spans("own")) > 1)
    page.element("stop").click() if way == "button" else page.element("prompt").send_keys("\ue00c")
    page.wait(lambda: "you stopped it" in page.text("note"))
    page.wait(lambda: not fake.running)
    assert fake.taken_back
    assert page.text("text") != page.text("prompt") + TEXT
    assert page.element("write").text == "Write"


def test_it_works_by_keyboard(page: Page) -> None:
    page.element("prompt").send_keys(" far away", "\ue009\ue007")
    page.wait(lambda: "Seed" in page.text("note"))
    assert page.text("text").endswith("lane far away" + TEXT)


def test_markup_in_text_stays_text(page: Page, fake: FakeClient) -> None:
    fake.text = "<img src=x onerror=\"document.title='hacked'\"><script>document.title='hacked'</script><b>bold</b>"
    page.set("prompt", "<i>prompt</i>")
    page.write()
    assert page.text("text") == "<i>prompt</i>" + fake.text
    assert page.driver.execute_script("return document.querySelectorAll('#text *:not(span)').length") == 0
    assert page.driver.title == "Slipstream"


def test_errors_are_told_kindly(page: Page, fake: FakeClient) -> None:
    fake.is_overloaded = True
    page.write()
    assert "busy" in page.text("error")
    fake.is_overloaded = False
    fake.error = "out of luck"
    page.write()
    page.wait(lambda: "out of luck" in page.text("error"))
    fake.error = ""
    page.set("prompt", "")
    page.element("write").click()
    page.wait(lambda: "at least one character" in page.text("error"))
    assert page.element("write").text == "Write"
    assert page.problems() == []


def test_the_api_page_shows_the_fields(page: Page, server: Server) -> None:
    page.driver.get(f"http://127.0.0.1:{server.port}/docs")
    page.wait(lambda: "num_assistant_tokens" in page.text("docs"))
    assert "POST /v1/completions" in page.text("docs")
    assert page.problems() == []


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_sticks_out_sideways(page: Page, width: int) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        page.write()
        assert page.driver.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
