"""Floods without a call: a backend's junk, tokens of ended calls, and idle connections."""

import time
from contextlib import ExitStack
from random import Random

import httpx
import msgspec
import pytest
import trio

from support.floods.idle_connections import allow_files, connect
from support.floods.invariants import assert_unharmed
from support.floods.junk_backend import KINDS, JunkReport
from support.floods.packet_flood import SPOOFED_NETWORK, Flood, SpoofedSources, check
from support.floods.scenario import FloodSender, run_scenario
from support.floods.setup import FloodSetup
from support.floods.spoofed_flood import CallFactory, call_factory
from support.peers.callers import ANSWER_SECONDS
from support.processes.line_process import LineProcess

SECONDS = 10.0

JUNK_RATE = 8_000_000.0
"""Bits per second from one backend to both transceivers."""

TOKENS = 200
REPLAY_RATE = 7_000_000.0
REPLAYERS = SpoofedSources(SPOOFED_NETWORK, addresses=50_000, ports=4)

IDLE = 2000
IDLE_SECONDS = 8.0
AT_ONCE = 20


@pytest.mark.parametrize("kind", KINDS)
async def test_junk_from_a_backend_does_not_harm_live_calls(
    setup: FloodSetup, junk_backend: LineProcess, kind: str
) -> None:
    """A backend without calls sends invalid frames to both transceivers."""

    async def send() -> FloodSender:
        answer = await trio.to_thread.run_sync(junk_backend.ask, f"{kind} {JUNK_RATE} {SECONDS}")
        report = msgspec.json.decode(answer, type=JunkReport)
        remarks = f"{report.messages} messages over {report.connections} connections"
        return FloodSender(8 * report.bytes / report.seconds, report.cpu / report.seconds, remarks)

    async with call_factory(setup) as factory:
        impact = await run_scenario(setup, factory, f"backend: {kind}", send)
    assert_unharmed(setup, impact)


async def test_checks_with_tokens_of_ended_calls_do_not_harm_live_calls(setup: FloodSetup) -> None:
    """Checks with 200 stale tokens are replayed at 7 Mbit/s from spoofed addresses."""
    random = Random(3)

    async with call_factory(setup) as factory:
        requests = [check(random, ufrag, "them", "password" * 3) for ufrag in await stale_tokens(setup, factory)]
        size = sum(map(len, requests)) / len(requests)
        rate = REPLAY_RATE / 8 / size

        async def send() -> FloodSender:
            count = int(rate * SECONDS)
            flood = Flood(REPLAYERS, requests)
            sent = await trio.to_thread.run_sync(setup.source.run, flood, setup.port, rate, count)
            setup.spoofed_bytes.update(sent.by_source)
            return FloodSender(8 * size * sent.rate, 0.0, f"{sent.packets} checks, {sent.rate:.0f} a second")

        impact = await run_scenario(setup, factory, "200 stale tokens", send)
    assert_unharmed(setup, impact)
    assert impact.grown("relay_disowned") > 0
    assert setup.backscatter.amplification(setup.spoofed_bytes) <= 3


async def stale_tokens(setup: FloodSetup, factory: CallFactory) -> list[str]:
    """Return the ufrags of 200 calls that were set up and ended."""
    ufrags: list[str] = []
    async with httpx.AsyncClient(base_url=setup.deployment.url, timeout=ANSWER_SECONDS, trust_env=False) as http:
        while len(ufrags) < TOKENS:
            caller = factory.caller()
            await caller.offer(http)
            ufrags.append(caller.ice.ufrag)
            caller.hang_up()
            (await http.delete(f"/v1/realtime/calls/{caller.call_id}")).raise_for_status()
    return ufrags


async def test_two_thousand_idle_connections_do_not_harm_live_calls(setup: FloodSetup) -> None:
    """They send nothing, half a request, the HTTP/2 preface, an h2c upgrade, or are WebSockets that never read."""
    connections = allow_files(IDLE)
    host, _, port = setup.deployment.url.removeprefix("http://").partition(":")

    async def send() -> FloodSender:
        with ExitStack() as held:
            began, cpu = time.monotonic(), time.process_time()
            for number in range(connections):
                connect(held, (host, int(port)), number)
                if number % AT_ONCE == 0:
                    await trio.sleep(0.01)
            took = time.monotonic() - began
            busy = (time.process_time() - cpu) / took
            await trio.sleep(IDLE_SECONDS)
            return FloodSender(0.0, busy, f"{connections} connections within {took:.1f} s, then idle")

    async with call_factory(setup) as factory:
        impact = await run_scenario(setup, factory, f"{connections} idle connections", send)
    assert_unharmed(setup, impact)
