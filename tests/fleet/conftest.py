"""How strict to be."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--due", action="store_true", help="fail on any gap above what is due, on a machine left alone")
