"""One browser for all tests of the playground, and a fresh page on a fresh server for each."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.serve_app.browser import MISSING, WHY_SKIPPED, Page, open_browser
from tests.serve_app.conftest import Server

Open = Callable[..., Page]


@pytest.fixture(scope="package")
def driver() -> Iterator[Any]:
    """The browser."""
    if MISSING:
        pytest.skip(WHY_SKIPPED)
    with open_browser() as driver:
        yield driver


@pytest.fixture
def open_page(driver: Any, server: Server) -> Iterator[Open]:
    """Opens a view of the playground; what one test left in the tab is gone for the next."""

    def opener(view: str = "complete") -> Page:
        return Page(driver, f"http://127.0.0.1:{server.port}", view)

    yield opener
    driver.execute_script("sessionStorage.clear(); localStorage.clear()")
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@pytest.fixture
def page(open_page: Open) -> Page:
    """The view that goes on with a text."""
    return open_page()
