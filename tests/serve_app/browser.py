"""A real browser, driven as a person would: Chromium without a window, where the machine has one."""

import importlib.util
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

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
WHY_SKIPPED = f"not on this machine: {', '.join(MISSING)}"
PATIENCE = 90.0  # seconds; machines that run tests are busy
PHONE = 390
DESKTOP = 1280
CONTROL, ENTER, ESCAPE, LEFT, RIGHT, HOME, TAB = "\ue009", "\ue007", "\ue00c", "\ue012", "\ue014", "\ue011", "\ue004"


class Page:
    """The playground in one tab.

    Args:
        driver: of a browser.
        url: of the server.
        view: the one to open.
    """

    def __init__(self, driver: Any, url: str, view: str = "complete") -> None:
        self.driver = driver
        self.url = url
        driver.get("about:blank")  # so that an address with another view is a new page, too
        driver.get(f"{url}/#{view}")
        self.wait(lambda: "Looking" not in self.text("#state"))

    def all(self, selector: str) -> list[Any]:
        """The elements that fit."""
        return list(self.driver.find_elements("css selector", selector))

    def one(self, selector: str) -> Any:
        """The first element that fits."""
        return self.driver.find_element("css selector", selector)

    def text(self, selector: str) -> str:
        """What a person reads there, shown or not."""
        return str(self.one(selector).get_property("textContent"))

    def texts(self, selector: str) -> list[str]:
        """The same of all that fit, in one call."""
        script = "return [...document.querySelectorAll(arguments[0])].map((element) => element.textContent)"
        return list(self.driver.execute_script(script, selector))

    def is_shown(self, selector: str) -> bool:
        """Whether a person sees it."""
        return bool(self.one(selector).is_displayed())

    def set(self, selector: str, value: object) -> None:
        """Set a control as a person would leave it."""
        script = """
            arguments[0].closest("details")?.setAttribute("open", "");
            arguments[0].value = arguments[1];
            arguments[0].dispatchEvent(new Event("input", {bubbles: true}));
        """
        self.driver.execute_script(script, self.one(selector), str(value))

    def click(self, selector: str) -> None:
        """Press it, wherever the page is scrolled to."""
        element = self.one(selector)
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def press(self, selector: str, *keys: str) -> None:
        """Type while it has the focus."""
        self.one(selector).send_keys(*keys)

    def type(self, *keys: str) -> None:
        """Type where the focus is."""
        self.driver.switch_to.active_element.send_keys(*keys)

    def focused(self) -> str:
        """Id, or else class, of what has the focus."""
        script = "const one = document.activeElement; return one.id || one.className || one.tagName"
        return str(self.driver.execute_script(script))

    def wait(self, is_true: Callable[[], object]) -> None:
        """Wait until it is so."""
        from selenium.common.exceptions import StaleElementReferenceException
        from selenium.webdriver.support.wait import WebDriverWait

        ignored = [StaleElementReferenceException]
        WebDriverWait(self.driver, PATIENCE, 0.05, ignored_exceptions=ignored).until(lambda _: is_true())

    def problems(self) -> list[str]:
        """What the browser complained about, but for answers that are errors."""
        return [
            entry["message"] for entry in self.driver.get_log("browser") if "Failed to load" not in entry["message"]
        ]

    def look(self, *, width: int = DESKTOP, is_dark: bool = False, is_still: bool = False) -> None:
        """Make the window this wide, prefer dark pages, prefer reduced motion."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [
            {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce" if is_still else "no-preference"},
        ]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def violations(self) -> list[str]:
        """What axe-core finds wrong, a line each."""
        from selenium_axe_python.axe import Axe

        axe: Any = Axe(self.driver)
        axe.inject()
        found = axe.run()["violations"]
        return [f"{entry['id']}: {node['html'][:160]}" for entry in found for node in entry["nodes"]]


@contextmanager
def open_browser() -> Iterator[Any]:
    """The driver of a headless browser."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_script_timeout(PATIENCE)
    try:
        yield driver
    finally:
        driver.quit()
