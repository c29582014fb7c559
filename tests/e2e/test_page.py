"""The talk page in Chromium."""

import time
import urllib.request
from collections.abc import Callable, Iterator

import pytest

from support.peers.browser import TalkPage
from support.processes.services import Deployment, all_in_one

FREED_SECONDS = 1.0
SWING = 20
"""Least range, of 100, over which speech moves a level meter."""


@pytest.fixture(scope="module")
def deployment() -> Iterator[Deployment]:
    """All in one, with room for one call."""
    with all_in_one("--capacity", "1") as deployment:
        yield deployment


@pytest.fixture
def tab(deployment: Deployment, new_tab: Callable[[], TalkPage]) -> Iterator[TalkPage]:
    tab = new_tab()
    tab.open(deployment.url)
    yield tab
    tab.page.close()
    wait_until(lambda: deployment.calls() == 0)


def test_one_button_begins_and_ends_a_call(deployment: Deployment, tab: TalkPage) -> None:
    assert tab.state == "idle"
    assert (tab.text("#talk-label"), tab.text("#state")) == ("Talk", "Ready when you are.")
    assert (tab.level("local"), tab.level("remote")) == (0, 0)
    tab.talk()
    assert tab.text("#talk-label") == "Hang up"
    assert "Connected" in tab.text("#state")
    assert deployment.calls() == 1
    tab.page.wait_for_function("() => /^\\d+ ms$/.test(document.getElementById('round-trip').textContent)")
    tab.hang_up()
    wait_until(lambda: deployment.calls() == 0, FREED_SECONDS)
    assert tab.text("#talk-label") == "Talk"
    assert "ended" in tab.text("#state")
    assert not tab.page.is_visible("#problem")
    assert (tab.level("local"), tab.level("remote")) == (0, 0)


def test_level_meters_follow_both_sides(tab: TalkPage) -> None:
    tab.talk()
    levels: list[tuple[int, int]] = []

    def moved() -> bool:
        """Read both meters. Return whether each has moved by more than `SWING` so far."""
        levels.append((tab.level("local"), tab.level("remote")))
        return all(max(side) - min(side) > SWING for side in zip(*levels, strict=True))

    wait_until(moved)


def test_a_second_call_follows_the_first(tab: TalkPage) -> None:
    tab.talk()
    first = tab.call_id
    tab.hang_up()
    tab.talk()
    assert tab.call_id != first


def test_closing_the_tab_ends_the_call(deployment: Deployment, new_tab: Callable[[], TalkPage]) -> None:
    tab = new_tab()
    tab.open(deployment.url)
    tab.talk()
    tab.page.close(run_before_unload=True)
    wait_until(lambda: deployment.calls() == 0, FREED_SECONDS)


def test_the_page_reports_a_busy_server(tab: TalkPage, new_tab: Callable[[], TalkPage]) -> None:
    tab.talk()
    late = new_tab()
    late.open(tab.page.url.partition("/?")[0])
    late.press()
    late.wait_state("ended")
    assert "busy" in late.text("#problem")
    tab.hang_up()
    late.talk()
    assert not late.page.is_visible("#problem")
    late.page.close()


def test_a_call_ended_by_the_server_ends_on_the_page(deployment: Deployment, tab: TalkPage) -> None:
    tab.talk()
    hang_up = urllib.request.Request(f"{deployment.url}/v1/realtime/calls/{tab.call_id}/hangup", method="POST")
    with urllib.request.urlopen(hang_up, timeout=5) as answer:
        assert answer.status == 200
    tab.wait_state("ended")
    assert not tab.page.is_visible("#problem")


def test_the_page_reports_an_unreachable_server(new_tab: Callable[[], TalkPage]) -> None:
    tab = new_tab()
    with all_in_one() as deployment:
        tab.open(deployment.url)
    tab.press()
    tab.wait_state("ended")
    assert "cannot be reached" in tab.text("#problem")
    tab.page.close()


def test_the_page_reports_an_unknown_backend(deployment: Deployment, tab: TalkPage) -> None:
    tab.open(deployment.url, "model=nobody")
    tab.press()
    tab.wait_state("ended")
    assert "nobody" in tab.text("#problem")


def wait_until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not so after {seconds:g} s"
