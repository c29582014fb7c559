"""A relay with worker processes under traffic: workers die once or repeatedly, and keys change."""

import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from ipaddress import ip_network
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio
from prometheus_client import CollectorRegistry

from antiphon_common.keys import Key, KeyRing
from antiphon_common.settings import Address, ClusterNetwork, Media, RelaySettings, SharedSettings
from antiphon_common.shell.system_calls import BATCH
from antiphon_common.shell.udp import BatchSocket
from antiphon_relay.shell.service import RelayPorts, serve_relay
from support.fakes.link_owner import LinkOwner, connected, exchange, settle
from support.processes.services import Service
from support.sim.relay_harness import binding_request

KEYS = KeyRing.generate(os.urandom)
WORKERS = 2
CALLS = 24
GROWING = 3
RTP = b"\x80rtp"
SPACING = 0.01
"""Seconds between two packets of a call."""


class WorkerCall:
    """A client that counts which of its packets echoed back."""

    def __init__(self, media: tuple[str, int], stack: ExitStack) -> None:
        self.socket = stack.enter_context(connected(*media))
        self.sent = 0
        self.echoed: set[int] = set()
        self.longest_gap = 0.0
        self._last = trio.current_time()

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.socket.getsockname()
        return host, port

    @property
    def lost(self) -> int:
        return self.sent - len(self.echoed)

    def send(self) -> None:
        self.socket.send(RTP + self.sent.to_bytes(4, "big"))
        self.sent += 1

    def reset_losses(self) -> None:
        """Count losses from now on."""
        self.echoed = set(range(self.sent))

    async def listen(self) -> None:
        self._last = trio.current_time()
        while True:
            await trio.lowlevel.wait_readable(self.socket)
            data = self.socket.recv(2048)
            if not data.startswith(RTP):
                continue
            self.echoed.add(int.from_bytes(data[-4:], "big"))
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
async def running(keys: KeyRing = KEYS, owners: KeyRing = KEYS) -> AsyncIterator[Running]:
    """Run a relay with `keys`, and a transceiver with `owners`."""
    with BatchSocket.open(("127.0.0.1", 0)) as link:
        owner = LinkOwner(owners, link)
        registry = CollectorRegistry()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(owner.run)
            control = await nursery.start(owner.serve_control)
            settings = RelaySettings(media=(Media(Address("127.0.0.1", 0)),), workers=WORKERS)
            shared = SharedSettings(
                transceiver_network=(ClusterNetwork(0, ip_network("127.0.0.0/24"), 1, 65535),), transceiver=(control,)
            )

            async def serve(*, task_status: trio.TaskStatus[RelayPorts]) -> None:
                await serve_relay(settings, shared, keys, registry=registry, task_status=task_status)

            yield Running(await nursery.start(serve), owner, registry)
            nursery.cancel_scope.cancel()
    assert workers() == []


def workers(supervisor: int | None = None) -> list[int]:
    """Return the worker processes of a process, by default of this one; the standby worker is among them."""
    pid = supervisor or os.getpid()
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(pid) for pid in children if b"worker_process" in Path(f"/proc/{pid}/cmdline").read_bytes()]


async def next_worker(link: Address, *others: int | None) -> int:
    """Wait until a process other than these has a link socket open; return it."""
    await settle(lambda: worker_of(link) not in (None, *others))
    found = worker_of(link)
    assert found is not None
    return found


def worker_of(link: Address) -> int | None:
    """Return the process that has a link socket open, other than this one, if there is one."""
    inode = next(
        line.split()[9]
        for line in Path("/proc/net/udp").read_text().splitlines()
        if line.split()[1].endswith(f":{link.port:04X}")
    )
    return next((pid for pid in workers() if f"socket:[{inode}]" in open_files(pid)), None)


def open_files(pid: int) -> set[str]:
    """Return the open files of a process; none once it has ended."""
    opened = set()
    with suppress(OSError):
        for file in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                opened.add(os.readlink(file))
    return opened


def kill(pid: int | None) -> None:
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


async def make_calls(relay: Running, stack: ExitStack) -> dict[Address, list[WorkerCall]]:
    """Set calls up, and return them by the worker that has them."""
    calls = [WorkerCall(relay.media, stack) for _ in range(CALLS)]
    for call in calls:
        await exchange(call.socket, binding_request(relay.owner.token()))
    by_port = {path.port: link for path, link in relay.owner.paths.items()}
    return {link: [call for call in calls if by_port[call.address[1]] == link] for link in relay.ports.link}


async def talk(calls: list[WorkerCall], seconds: float) -> None:
    """Send at regular intervals."""
    for _ in range(round(seconds / SPACING)):
        for call in calls:
            call.send()
        await trio.sleep(SPACING)


async def talk_on(calls: list[WorkerCall]) -> None:
    while True:
        await talk(calls, 1)


def busy_workers(relay: Running) -> set[int]:
    """Return the workers that occupy a slot."""
    return {pid for link in relay.ports.link if (pid := worker_of(link)) is not None}


def logged(caplog: pytest.LogCaptureFixture, what: str) -> int:
    """Return the number of log lines that contain a text."""
    return sum(what in record.message for record in caplog.records)


def ends(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """Return the log records of workers that ended."""
    return [vars(record) for record in caplog.records if record.message == "a worker ended"]


def doubles(pauses: list[float]) -> bool:
    """Return True if each of the last pauses is twice as long as the one before."""
    last = pauses[-GROWING:]
    return len(last) == GROWING and all(later == 2 * earlier > 0 for earlier, later in pairwise(last))


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
                kill(killed)
                await talk(every, 0.5)
                await settle(lambda link=link, boot=boot: relay.owner.boots[link] != boot)
                await talk(every, 0.3)
                assert worker_of(link) != killed
                await settle(lambda others=others: not any(call.lost for call in others))
                await settle(lambda calls=calls: all(call.sent - 1 in call.echoed for call in calls))
                lost, gap = sum(call.lost for call in calls), max(call.longest_gap for call in calls)
                print(f"a killed worker: longest gap {gap * 1000:.0f} ms, {lost} packets lost that it had in hand")
                assert lost <= BATCH
                for call in calls:
                    call.reset_losses()
                assert relay.figure("antiphon_relay_uplink_total") >= uplink
            assert set(relay.owner.paths.values()) == set(relay.ports.link)
            assert relay.figure("antiphon_relay_worker_restarts_total") == WORKERS
            await settle(lambda: relay.figure("antiphon_relay_workers") == WORKERS)
            nursery.cancel_scope.cancel()


async def test_a_worker_that_hangs_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    async with running() as relay:
        with ExitStack() as stack:
            await make_calls(relay, stack)
            link = relay.ports.link[0]
            hung = worker_of(link)
            assert hung is not None
            os.kill(hung, signal.SIGSTOP)
            await settle(lambda: logged(caplog, "a worker hangs") == 1, seconds=30)
            await next_worker(link, hung)
            for call in (calls := (await make_calls(relay, stack))[link]):
                assert await exchange(call.socket, RTP) == RTP
            assert calls


async def test_the_pause_of_a_crash_loop_doubles_and_other_workers_continue(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running() as relay, trio.open_nursery() as nursery:
        with ExitStack() as stack:
            by_link = await make_calls(relay, stack)
            bad, good = relay.ports.link
            for call in (*by_link[bad], *by_link[good]):
                nursery.start_soon(call.listen)
            steady, worker = worker_of(good), worker_of(bad)
            nursery.start_soon(talk_on, by_link[good])
            began, deaths = trio.current_time(), 0
            with trio.fail_after(30):
                while not doubles(pauses := [death["next_in"] for death in ends(caplog)]):
                    kill(worker)
                    deaths += 1
                    worker = await next_worker(bad, worker)
            assert trio.current_time() - began >= sum(pauses)
            assert [(end["code"], end["link"]) for end in ends(caplog)] == [(-signal.SIGKILL, str(bad))] * deaths
            assert relay.figure("antiphon_relay_worker_restarts_total") == deaths
            for call in by_link[bad]:
                call.reset_losses()
            await settle(lambda: relay.figure("antiphon_relay_workers") == WORKERS)
            await talk(by_link[bad], 0.3)
            await settle(lambda: all(call.sent - 1 in call.echoed for call in by_link[bad]))
            assert worker_of(good) == steady
            await settle(lambda: all(call.lost <= 1 for call in by_link[good]))  # one is on its way
            nursery.cancel_scope.cancel()


async def test_workers_start_again_once_processes_can_be_started(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with running() as relay:
        await settle(lambda: len(workers()) > WORKERS)
        for interpreter, complaint in (
            ("/nowhere", "no worker can be started"),
            ("/bin/false", "standby worker ended"),
        ):
            with monkeypatch.context() as patch:
                patch.setattr(sys, "executable", interpreter)
                caplog.clear()
                for pid in workers():
                    kill(pid)
                await settle(lambda: relay.figure("antiphon_relay_workers") == 0)
                await settle(lambda complaint=complaint: logged(caplog, complaint) > 1)
            for link in relay.ports.link:
                await next_worker(link)
            with connected(*relay.media) as client:
                assert await exchange(client, request := binding_request(relay.owner.token())) == request
            await settle(lambda: len(workers()) > WORKERS)


async def test_running_workers_receive_new_keys(caplog: pytest.LogCaptureFixture) -> None:
    old, new = Key(0, os.urandom(32)), Key(1, os.urandom(32))
    keys, owners = KeyRing([old]), KeyRing([old])
    async with running(keys, owners) as relay, trio.open_nursery() as nursery:
        with ExitStack() as stack:
            every = [call for calls in (await make_calls(relay, stack)).values() for call in calls]
            before = busy_workers(relay)
            request, *stale = [binding_request(relay.owner.token(nonce)) for nonce in range(200)]
            for call in every:
                nursery.start_soon(call.listen)
            nursery.start_soon(talk_on, every)

            async def until(condition: Callable[[], bool]) -> None:
                """Let every client send checks until a condition holds."""
                with trio.fail_after(30):
                    while not condition():
                        for call in every:
                            call.socket.send(request)
                        await trio.sleep(0.1)

            keys.replace(KeyRing([old, new]))
            await until(lambda: [relay.owner.key_ids[link] for link in relay.ports.link] == [new.id] * WORKERS)
            owners.replace(KeyRing([new]))
            with connected(*relay.media) as late:
                assert await exchange(late, fresh := binding_request(relay.owner.token())) == fresh
            keys.replace(KeyRing([new]))
            with connected(*relay.media) as client:

                def refused() -> bool:
                    client.send(stale.pop())  # a token that was read is cached
                    return relay.figure("antiphon_relay_bad_token_total") > 0

                await until(refused)
            sent = [call.sent for call in every]
            await until(lambda: all(call.sent > before + 50 for call, before in zip(every, sent, strict=True)))
            await settle(lambda: all(call.lost <= 1 for call in every))
            assert busy_workers(relay) == before
            assert relay.figure("antiphon_relay_link_bad_tag_total") == 0
            assert not logged(caplog, "worker")
            nursery.cancel_scope.cancel()


async def test_a_standby_worker_that_dies_is_replaced_and_an_idle_relay_continues() -> None:
    async with running() as relay:
        busy = busy_workers(relay)
        await settle(lambda: len(workers()) > WORKERS)
        (standby,) = set(workers()) - busy
        kill(standby)
        await settle(lambda: standby not in workers() and len(workers()) > WORKERS)
        assert busy < set(workers())
        with connected(*relay.media) as client:
            assert await exchange(client, request := binding_request(relay.owner.token())) == request


async def test_workers_run_on_the_processors_of_the_relays_present_affinity() -> None:
    processors = os.sched_getaffinity(0)
    async with running() as relay:
        cores = [os.sched_getaffinity(pid) for pid in busy_workers(relay)]
        assert all(len(each) == 1 for each in cores)
        assert len(set().union(*cores)) == min(WORKERS, len(processors))
        remaining = {max(processors)}
        os.sched_setaffinity(0, remaining)
        try:
            for link in relay.ports.link:
                kill(killed := worker_of(link))
                worker = await next_worker(link, killed)
                await settle(lambda worker=worker: os.sched_getaffinity(worker) == remaining)
        finally:
            os.sched_setaffinity(0, processors)


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
    """Return True if a process runs; a zombie does not."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
