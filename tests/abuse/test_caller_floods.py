"""Floods of one caller through the keys of its own call: what the ten live calls beside it notice."""

import msgspec
import pytest
import trio

from support.floods.flooding_caller import Report
from support.floods.invariants import assert_unharmed
from support.floods.scenario import Impact, Sender, run_scenario
from support.floods.setup import Battlefield
from support.floods.spoofed_flood import telephone
from support.processes.line_process import LineProcess

RATE = 1_000_000.0
"""Bits a second of UDP payload."""
SECONDS = 10.0

FASTEST = 4_500_000.0
"""Nearly all that the relay takes of one path: 500 packets a second."""


async def flooded(
    field: Battlefield, flood: str, *, model: str = "loopback", rate: float = RATE, seconds: float = SECONDS
) -> tuple[Impact, Report]:
    """Run the scenario of one flooding caller, a process of its own."""
    process = LineProcess("support.floods.flooding_caller", field.deployment.url, flood, model)
    reports: list[Report] = []

    async def send() -> Sender:
        answer = await trio.to_thread.run_sync(process.ask, f"{rate} {seconds}")
        report = msgspec.json.decode(answer, type=Report)
        reports.append(report)
        await trio.to_thread.run_sync(process.end)
        remarks = (
            f"{report.datagrams} datagrams, {report.calls} calls, {report.closed or 'not closed'}, "
            f"events {report.events}, feedback {report.feedback}, NACKs {report.nacks}, "
            f"throttled {report.throttled}, dropped {report.dropped}, {report.channels_ended}"
        )
        return Sender(8 * report.bytes / report.seconds, report.cpu / report.seconds, remarks)

    try:
        await trio.to_thread.run_sync(process.wait_ready)
        async with telephone(field) as phone:
            impact = await run_scenario(field, phone, f"{flood} at {rate / 1e6:g} Mbit/s", send)
    finally:
        process.kill()
    return impact, reports[0]


@pytest.mark.parametrize("flood", ["sctp-fragments", "rtcp", "dtls", "dtls-handshake", "tiny-events", "nested-events"])
async def test_a_caller_floods_its_own_call(field: Battlefield, flood: str) -> None:
    """SCTP chunks over held fragments, RTCP feedback, DTLS records and fragments, and events of one call."""
    impact, report = await flooded(field, flood)
    assert_unharmed(field, impact)
    assert report.datagrams > 0.8 * SECONDS * RATE / 8 / 1200 or report.closed
    assert not report.channels_ended, "the flood went on over an association that was closed"


async def test_a_caller_floods_with_sacks_over_outstanding_data(field: Battlefield) -> None:
    """The backend sends events that the caller does not acknowledge, but with gap blocks."""
    impact, report = await flooded(field, "sctp-sacks", model="events")
    assert_unharmed(field, impact)
    assert report.datagrams > 0.8 * SECONDS * RATE / 8 / 1200 or report.closed
    assert not report.channels_ended, "the flood went on over an association that was closed"


async def test_a_call_that_floods_beyond_its_budget_is_throttled_and_ended(field: Battlefield) -> None:
    impact, report = await flooded(field, "tiny-events", rate=FASTEST, seconds=16.0)
    assert_unharmed(field, impact)
    assert impact.grown("link_throttled") > 0
    assert impact.grown('reason="over_budget"') == 1
    assert report.closed
