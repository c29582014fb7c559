"""A relay in several processes: each dies in turn, under traffic."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from ipaddress import ip_network
from pathlib import Path

import trio
from prometheus_client import CollectorRegistry

from antiphon_common.keys import KeyRing
from antiphon_common.settings import Address, ClusterNetwork, Media, RelaySettings, SharedSettings
from antiphon_common.shell.calls import BATCH
from antiphon_common.shell.udp import BatchSocket
from antiphon_relay.service import RelayPorts, serve_relay
from support.link_owner import LinkOwner, connected, exchange, settle
from support.processes import Service
from support.relaying import binding_request

KEYS = KeyRing.generate(os.urandom)
WORKERS = 2
CALLS = 24
SPACING = 0.01
"""Seconds between two packets of a call."""


class Call:
    """A client that counts which of its packets came back."""

    def __init__(self, media: tuple[str, int], stack: ExitStack) -> None:
        self.socket = stack.enter_context(connected(*media))
        self.sent = 0
        self.came: set[int] = set()
        self.longest_gap = 0.0
        self._last = trio.current_time()

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.socket.getsockname()
        return host, port

    @property
    def lost(self) -> int:
        return self.sent - len(self.came)

    def send(self) -> None:
        self.socket.send(b"\x80rtp" + self.sent.to_bytes(4, "big"))
        self.sent += 1

    def forgive(self) -> None:
        """Begin to count anew."""
        self.came = set(range(self.sent))

    async def listen(self) -> None:
        self._last = trio.current_time()
        while True:
            await trio.lowlevel.wait_readable(self.socket)
            self.came.add(int.from_bytes(self.socket.recv(2048)[-4:], "big"))
            now = trio.current_time()
            self.longest_gap = max(self.longest_gap, now - self._last)
            self._last = now


class Running:
    """A relay with workers and one transceiver."""

    def __init__(self, ports: RelayPorts, owner: LinkOwner, registry: CollectorRegistry) -> None:
        self.ports = ports
        self.owner = owner
        self.registry = registry

    @property
    def media(self) -> tuple[str, int]:
        return self.ports.media[0].host, self.ports.media[0].port

    def figure(self, name: str) -> float:
        value = self.registry.get_sample_value(name)
        assert value is not None, name
        return value


@asynccontextmanager
async def running() -> AsyncIterator[Running]:
    with BatchSocket.open(("127.0.0.1", 0)) as link:
        owner = LinkOwner(KEYS, link)
        registry = CollectorRegistry()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(owner.run)
            control = await nursery.start(owner.serve_control)
            settings = RelaySettings(media=(Media(Address("127.0.0.1", 0)),), workers=WORKERS)
            shared = SharedSettings(
                transceiver_network=(ClusterNetwork(0, ip_network("127.0.0.0/24"), 1, 65535),), transceiver=(control,)
            )

            async def serve(*, task_status: trio.TaskStatus[RelayPorts]) -> None:
                await serve_relay(settings, shared, KEYS, registry=registry, task_status=task_status)

            yield Running(await nursery.start(serve), owner, registry)
            nursery.cancel_scope.cancel()
    assert workers() == []


def workers(supervisor: int | None = None) -> list[int]:
    """Return the worker processes of a process, by default of this one; the spare is among them."""
    pid = supervisor or os.getpid()
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(pid) for pid in children if b"worker_process" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def worker_of(link: Address) -> int:
    """Return the process that has a link socket open, other than this one."""
    inode = next(
        line.split()[9]
        for line in Path("/proc/net/udp").read_text().splitlines()
        if line.split()[1].endswith(f":{link.port:04X}")
    )
    return next(pid for pid in workers() if f"socket:[{inode}]" in open_files(pid))


def open_files(pid: int) -> set[str]:
    return {os.readlink(file) for file in Path(f"/proc/{pid}/fd").iterdir()}


async def make_calls(relay: Running, stack: ExitStack) -> dict[Address, list[Call]]:
    """Set calls up, and return them by the worker that has them."""
    calls = [Call(relay.media, stack) for _ in range(CALLS)]
    for call in calls:
        await exchange(call.socket, binding_request(relay.owner.token()))
    by_port = {path.port: link for path, link in relay.owner.paths.items()}
    return {link: [call for call in calls if by_port[call.address[1]] == link] for link in relay.ports.link}


async def talk(calls: list[Call], seconds: float) -> None:
    """Send regularly, however busy the machine is."""
    for _ in range(round(seconds / SPACING)):
        for call in calls:
            call.send()
        await trio.sleep(SPACING)


async def test_killed_workers_are_replaced_and_no_packet_is_lost() -> None:
    async with running() as relay, trio.open_nursery() as nursery:
        with ExitStack() as stack:
            by_link = await make_calls(relay, stack)
            assert len(by_link) == WORKERS
            assert all(by_link.values())
            every = [call for calls in by_link.values() for call in calls]
            for call in every:
                nursery.start_soon(call.listen)
            await talk(every, 0.3)
            for link, calls in by_link.items():
                others = [call for call in every if call not in calls]
                killed, boot = worker_of(link), relay.owner.boots[link]
                uplink = relay.figure("antiphon_relay_uplink_total")
                os.kill(killed, signal.SIGKILL)
                await talk(every, 0.5)
                await settle(lambda link=link, boot=boot: relay.owner.boots[link] != boot)
                await talk(every, 0.3)
                assert worker_of(link) != killed
                await settle(lambda others=others: not any(call.lost for call in others))
                await settle(lambda calls=calls: all(call.sent - 1 in call.came for call in calls))
                lost, gap = sum(call.lost for call in calls), max(call.longest_gap for call in calls)
                print(f"a killed worker: longest gap {gap * 1000:.0f} ms, {lost} packets lost that it had in hand")
                assert lost <= BATCH
                for call in calls:
                    call.forgive()
                assert relay.figure("antiphon_relay_uplink_total") >= uplink
            assert set(relay.owner.paths.values()) == set(relay.ports.link)
            assert relay.figure("antiphon_relay_worker_restarts_total") == WORKERS
            await settle(lambda: relay.figure("antiphon_relay_workers") == WORKERS)
            nursery.cancel_scope.cancel()


async def test_a_spare_that_dies_is_replaced_and_an_idle_relay_goes_on() -> None:
    async with running() as relay:
        busy = {worker_of(link) for link in relay.ports.link}
        await settle(lambda: len(workers()) > WORKERS)
        (spare,) = set(workers()) - busy
        os.kill(spare, signal.SIGKILL)
        await settle(lambda: spare not in workers() and len(workers()) > WORKERS)
        assert busy < set(workers())
        with connected(*relay.media) as client:
            assert await exchange(client, request := binding_request(relay.owner.token())) == request


async def test_workers_end_with_their_supervisor() -> None:
    service = Service("antiphon_relay", "--media", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--workers", str(WORKERS))
    try:
        await trio.to_thread.run_sync(service.wait_ready)
        left = workers(service.pid)
        assert len(left) >= WORKERS
        os.kill(service.pid, signal.SIGKILL)
        await settle(lambda: not any(is_running(pid) for pid in left))
    finally:
        service.stop(check=False)


def is_running(pid: int) -> bool:
    """Whether a process is there, and not just its remains that nobody has asked for."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
