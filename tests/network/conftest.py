"""The option for the duration of the long call."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--minutes", type=int, default=1, help="how long the long call plays")


@pytest.fixture(scope="session")
def minutes(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--minutes", 1))
