"""Floods of one caller within its own call, and the quality of the ten live calls beside it."""

import msgspec
import pytest
import trio

from support.floods.flooding_caller import FloodReport
from support.floods.invariants import assert_unharmed
from support.floods.scenario import FloodSender, Impact, run_scenario
from support.floods.setup import FloodSetup
from support.floods.spoofed_flood import call_factory
from support.processes.line_process import LineProcess

RATE = 1_000_000.0
"""Bits per second of UDP payload."""
SECONDS = 10.0

FASTEST = 4_500_000.0
"""Bits per second: nearly the limit that the relay sets on one path, 500 packets per second."""


async def flooded(
    setup: FloodSetup, flood: str, *, model: str = "loopback", rate: float = RATE, seconds: float = SECONDS
) -> tuple[Impact, FloodReport]:
    """Run the scenario of one flooding caller, which is a separate process."""
    process = LineProcess("support.floods.flooding_caller", setup.deployment.url, flood, model)
    reports: list[FloodReport] = []

    async def send() -> FloodSender:
        answer = await trio.to_thread.run_sync(process.ask, f"{rate} {seconds}")
        report = msgspec.json.decode(answer, type=FloodReport)
        reports.append(report)
        await trio.to_thread.run_sync(process.end)
        remarks = (
            f"{report.datagrams} datagrams, {report.calls} calls, {report.closed or 'not closed'}, "
            f"events {report.events}, feedback {report.feedback}, NACKs {report.nacks}, "
            f"throttled {report.throttled}, dropped {report.dropped}, {report.channels_ended}"
        )
        return FloodSender(8 * report.bytes / report.seconds, report.cpu / report.seconds, remarks)

    try:
        await trio.to_thread.run_sync(process.wait_ready)
        async with call_factory(setup) as factory:
            impact = await run_scenario(setup, factory, f"{flood} at {rate / 1e6:g} Mbit/s", send)
    finally:
        process.kill()
    return impact, reports[0]


@pytest.mark.parametrize("flood", ["sctp-fragments", "rtcp", "dtls", "dtls-handshake", "tiny-events", "nested-events"])
async def test_a_flood_within_one_call_does_not_harm_other_calls(setup: FloodSetup, flood: str) -> None:
    """SCTP chunks over held fragments, RTCP feedback, DTLS records and fragments, and events of one call."""
    impact, report = await flooded(setup, flood)
    assert_unharmed(setup, impact)
    assert report.datagrams > 0.8 * SECONDS * RATE / 8 / 1200 or report.closed
    assert not report.channels_ended, "the flood went on over an association that was closed"


async def test_sacks_with_gap_blocks_over_outstanding_data_do_not_harm_other_calls(setup: FloodSetup) -> None:
    """The backend sends events. The caller acknowledges them in gap blocks only."""
    impact, report = await flooded(setup, "sctp-sacks", model="events")
    assert_unharmed(setup, impact)
    assert report.datagrams > 0.8 * SECONDS * RATE / 8 / 1200 or report.closed
    assert not report.channels_ended, "the flood went on over an association that was closed"


async def test_a_call_that_floods_beyond_its_budget_is_throttled_and_ended(setup: FloodSetup) -> None:
    impact, report = await flooded(setup, "tiny-events", rate=FASTEST, seconds=16.0)
    assert_unharmed(setup, impact)
    assert impact.grown("link_throttled") > 0
    assert impact.grown('reason="over_budget"') == 1
    assert report.closed
