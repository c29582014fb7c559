"""Floods of those who have no call: a backend's junk, tokens of calls that are over, and connections that stay idle."""

import time
from contextlib import ExitStack
from random import Random

import httpx
import msgspec
import pytest
import trio

from support.floods.idle_connections import allow_files, connect
from support.floods.invariants import assert_unharmed
from support.floods.junk_backend import KINDS, Report
from support.floods.packet_flood import STRANGERS, Flood, Sources, check
from support.floods.scenario import Sender, run_scenario
from support.floods.setup import Battlefield
from support.floods.spoofed_flood import Telephone, telephone
from support.peers.callers import ANSWER_SECONDS
from support.processes.line_process import LineProcess

SECONDS = 10.0

JUNK_RATE = 8_000_000.0
"""Bits a second from one backend to both transceivers."""

TOKENS = 200
REPLAY_RATE = 7_000_000.0
REPLAYERS = Sources(STRANGERS, addresses=50_000, ports=4)

IDLE = 2000
IDLE_SECONDS = 8.0
AT_ONCE = 20


@pytest.mark.parametrize("kind", KINDS)
async def test_junk_of_a_backend(field: Battlefield, junk_backend: LineProcess, kind: str) -> None:
    """A backend beside the one of the live calls sends what it should not to both transceivers."""

    async def send() -> Sender:
        answer = await trio.to_thread.run_sync(junk_backend.ask, f"{kind} {JUNK_RATE} {SECONDS}")
        report = msgspec.json.decode(answer, type=Report)
        remarks = f"{report.messages} messages over {report.connections} connections"
        return Sender(8 * report.bytes / report.seconds, report.cpu / report.seconds, remarks)

    async with telephone(field) as phone:
        impact = await run_scenario(field, phone, f"backend: {kind}", send)
    assert_unharmed(field, impact)


async def test_tokens_of_calls_that_are_over(field: Battlefield) -> None:
    """Checks with 200 stale tokens, replayed at 7 Mbit/s from random addresses."""
    random = Random(3)

    async with telephone(field) as phone:
        requests = [check(random, ufrag, "them", "password" * 3) for ufrag in await stale_tokens(field, phone)]
        size = sum(map(len, requests)) / len(requests)
        rate = REPLAY_RATE / 8 / size

        async def send() -> Sender:
            count = int(rate * SECONDS)
            flood = Flood(REPLAYERS, requests)
            sent = await trio.to_thread.run_sync(field.source.run, flood, field.port, rate, count)
            field.claimed.update(sent.by_source)
            return Sender(8 * size * sent.rate, 0.0, f"{sent.packets} checks, {sent.rate:.0f} a second")

        impact = await run_scenario(field, phone, "200 stale tokens", send)
    assert_unharmed(field, impact)
    assert impact.grown("relay_disowned") > 0
    assert field.strangers.amplification(field.claimed) <= 3


async def stale_tokens(field: Battlefield, phone: Telephone) -> list[str]:
    """Return the ufrags of 200 calls that were set up and ended."""
    ufrags: list[str] = []
    async with httpx.AsyncClient(base_url=field.deployment.url, timeout=ANSWER_SECONDS, trust_env=False) as http:
        while len(ufrags) < TOKENS:
            caller = phone.caller()
            await caller.offer(http)
            ufrags.append(caller.ice.ufrag)
            caller.hang_up()
            (await http.delete(f"/v1/realtime/calls/{caller.call_id}")).raise_for_status()
    return ufrags


async def test_two_thousand_idle_connections(field: Battlefield) -> None:
    """Nothing, half a request, the preface of HTTP/2, an upgrade to it, and WebSockets that never read."""
    connections = allow_files(IDLE)
    host, _, port = field.deployment.url.removeprefix("http://").partition(":")

    async def send() -> Sender:
        with ExitStack() as held:
            began, cpu = time.monotonic(), time.process_time()
            for number in range(connections):
                connect(held, (host, int(port)), number)
                if number % AT_ONCE == 0:
                    await trio.sleep(0.01)
            took = time.monotonic() - began
            busy = (time.process_time() - cpu) / took
            await trio.sleep(IDLE_SECONDS)
            return Sender(0.0, busy, f"{connections} connections within {took:.1f} s, then idle")

    async with telephone(field) as phone:
        impact = await run_scenario(field, phone, f"{connections} idle connections", send)
    assert_unharmed(field, impact)
