"""aioice's full agent, over loopback sockets, against our lite agent and against our controlling one."""

import asyncio
import os
import select
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import aioice
import pytest

from antiphon_common.control import IceParameters
from antiphon_common.core import Path
from antiphon_common.demux import Protocol, classify
from antiphon_transceiver import ice
from antiphon_transceiver.ice import ControllingAgent

OURS = IceParameters("ServerUfragOf23IceChars", "server-password-of-32-characters".replace("-", "+"))
THEIRS = IceParameters("clnt", "client+password+24+chars")
TIME_LIMIT = 15.0
HOSTS = ["127.0.0.1", "::1"]

Result = TypeVar("Result")


class Shell:
    """One UDP socket with one of our agents, driven from the thread of the test. It keeps datagrams other than STUN."""

    def __init__(self, agent: ice.ControlledAgent | ControllingAgent, host: str) -> None:
        self.agent = agent
        self.events: list[object] = []
        self.received: list[bytes] = []
        self.socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((host, 0))
        self.socket.setblocking(False)
        self.path = Path.of(*self.socket.getsockname()[:2])

    def run(self, until: Callable[[], bool]) -> None:
        """Serve the socket and the timers until `until` holds."""
        limit = time.monotonic() + TIME_LIMIT
        while not until():
            now = time.monotonic()
            assert now < limit, f"gave up; {self.events}"
            self.agent.handle_timeout(now)
            self._drain()
            deadline = min(self.agent.poll_timeout(), now + 0.01)
            if select.select([self.socket], [], [], max(deadline - now, 0))[0]:
                data, address = self.socket.recvfrom(2048)
                if classify(data) == Protocol.STUN:
                    self.agent.receive_datagram(data, Path.of(*address[:2]), time.monotonic())
                else:
                    self.received.append(data)
            self._drain()

    def send(self, data: bytes, path: Path) -> None:
        self.socket.sendto(data, (path.host, path.port))

    def _drain(self) -> None:
        while (event := self.agent.poll_event()) is not None:
            self.events.append(event)
        while (transmit := self.agent.poll_transmit()) is not None:
            assert transmit.path is not None
            self.send(transmit.data, transmit.path)


@contextmanager
def opened(agent: ice.ControlledAgent | ControllingAgent, host: str) -> Iterator[Shell]:
    shell = Shell(agent, host)
    with shell.socket:
        yield shell


@contextmanager
def elsewhere(work: Callable[[], Awaitable[Result]]) -> Iterator[Future[Result]]:
    """Run asyncio code in another thread."""

    async def main() -> Result:
        return await asyncio.wait_for(work(), TIME_LIMIT)

    with ThreadPoolExecutor(1) as executor:
        yield executor.submit(asyncio.run, main())


async def full_agent(*, controlling: bool) -> aioice.Connection:
    connection = aioice.Connection(controlling, local_username=THEIRS.ufrag, local_password=THEIRS.password)
    connection.remote_username, connection.remote_password = OURS.ufrag, OURS.password
    await connection.gather_candidates()
    return connection


async def add_candidate(connection: aioice.Connection, path: Path) -> None:
    line = f"1 1 udp 2130706431 {path.host} {path.port} typ host"
    await connection.add_remote_candidate(aioice.Candidate.from_sdp(line))
    await connection.add_remote_candidate(None)


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let aioice, which skips loopback, gather on one loopback address, with consent checks ten times as fast."""
    address: str = request.param
    monkeypatch.setattr("aioice.ice.get_host_addresses", lambda use_ipv4, use_ipv6: [address])
    monkeypatch.setattr("aioice.ice.CONSENT_INTERVAL", 0.5)
    return address


@pytest.mark.parametrize("controlling", [True, False], ids=["controlling", "controlled after a role conflict"])
def test_a_full_agent_connects_to_our_lite_agent(host: str, controlling: bool) -> None:
    agent = ice.ControlledAgent(OURS, THEIRS, os.urandom)
    consented: Future[None] = Future()

    async def call() -> bytes:
        connection = await full_agent(controlling=controlling)
        connection.remote_is_lite = controlling
        await add_candidate(connection, shell.path)
        await connection.connect()
        await connection.send(b"\x80uplink")
        echo = await connection.recv()
        await asyncio.wrap_future(consented)
        await connection.close()
        return echo

    with opened(agent, host) as shell, elsewhere(call) as result:
        shell.run(lambda: bool(shell.received))
        assert shell.received == [b"\x80uplink"]
        assert agent.selected is not None
        assert agent.is_validated(agent.selected)
        answered = agent.counters.answered
        shell.send(b"\x80downlink", agent.selected)
        shell.run(lambda: agent.counters.answered >= answered + 3)
        consented.set_result(None)
        shell.run(result.done)
        assert result.result() == b"\x80downlink"
    assert (agent.counters.role_conflicts > 0) is not controlling
    assert ice.PathSelected(agent.selected) in shell.events
    assert agent.counters.bad_integrity == agent.counters.malformed == 0


@pytest.mark.parametrize("trickled", [True, False], ids=["our candidate known", "we are peer-reflexive"])
def test_our_controlling_agent_connects_to_a_full_agent(host: str, trickled: bool) -> None:
    agent = ControllingAgent(OURS, os.urandom, consent_interval=0.3)
    candidates: Future[list[Path]] = Future()

    async def call() -> bytes:
        connection = await full_agent(controlling=False)
        candidates.set_result([Path.of(candidate.host, candidate.port) for candidate in connection.local_candidates])
        if trickled:
            await add_candidate(connection, shell.path)
        await connection.connect()
        await connection.send(b"\x80from aioice")
        data = await connection.recv()
        await connection.close()
        return data

    with opened(agent, host) as shell, elsewhere(call) as result:
        agent.start(THEIRS, candidates.result(TIME_LIMIT), time.monotonic())
        shell.run(lambda: agent.selected is not None and bool(shell.received))
        assert agent.selected is not None
        assert agent.mapped == (shell.path.address, shell.path.port)
        checks = agent.counters.checks_sent
        shell.run(lambda: agent.counters.checks_sent >= checks + 3)
        shell.send(b"\x80to aioice", agent.selected)
        shell.run(result.done)
        assert result.result() == b"\x80to aioice"
    outcomes = [event for event in shell.events if isinstance(event, ice.PathSelected | ice.IceFailed)]
    assert outcomes == [ice.PathSelected(agent.selected)]
    assert agent.counters.unauthenticated == agent.counters.malformed == 0
