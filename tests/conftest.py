"""What several folders of tests share."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Playwright


@pytest.fixture(scope="session")
def playwright() -> Iterator["Playwright"]:
    """The one Playwright that a thread can have. The tests of single packages run where it is not installed."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright
