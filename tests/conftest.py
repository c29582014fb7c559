"""Fixtures of several folders of tests."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Playwright


@pytest.fixture(scope="session")
def playwright() -> Iterator["Playwright"]:
    """The one Playwright instance of this thread. Tests of single packages run without it installed."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright
