import pytest
import trio

from antiphon_common.shell import clock


async def test_who_follows_the_wall_clock_learns_that_it_was_set(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, ahead, told = trio.current_time(), 1_800_000_000.0, list[float]()
    monkeypatch.setattr(clock, "time", lambda: trio.current_time() - began + ahead)
    before = clock.unix_offset()
    nursery.start_soon(clock.follow_wall_clock, told.append)
    await trio.sleep(2 * clock.LOOK_SECONDS)
    ahead -= 300
    await trio.sleep(2 * clock.LOOK_SECONDS)
    assert [told[0] - before, told[-1] - before] == pytest.approx([0, -300], abs=1e-3)
