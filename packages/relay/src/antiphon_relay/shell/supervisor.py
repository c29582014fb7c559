"""Runs the workers of a relay, each in a process and on a processor of its own.

The supervisor opens every socket once and keeps it open: for each worker slot one socket of each public address, and
one of the link. A worker receives the sockets of one slot. When it dies, packets wait in the kernel until the standby
worker has received the same sockets. No flow of another slot is touched, and the link address stays the same.
"""

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from math import inf
from secrets import randbelow

import trio
from prometheus_client import CollectorRegistry

from antiphon_common.keys import KeyRing
from antiphon_common.metrics import SummedMetrics, export_counters, export_gauge
from antiphon_common.settings import Address, RelaySettings, SharedSettings
from antiphon_common.shell.udp import BatchSocket
from antiphon_relay.shell.public_sockets import (
    AdvertisedAddress,
    PublicSocket,
    PublicSocketError,
    open_again,
    open_public_sockets,
)
from antiphon_relay.shell.worker_ipc import (
    MAX_DESCRIPTORS,
    SetKeys,
    SetTransceivers,
    StartWorker,
    WorkerChannel,
    WorkerStatus,
)

HEALTHY_SECONDS = 3.0
"""How long a slot counts as healthy after a status, which comes twice a second: a worker is replaced in less."""
STATUS_WAIT_SECONDS, MAX_MISSED = 1.0, 5
"""A worker hangs, and is replaced, when this many waits in a row brought no status. A machine that slept makes only one
wait long."""
STABLE_SECONDS = 1.0
"""A worker that ran for this long is no part of a crash loop: its successor starts at once."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds before the next worker of a crash loop starts; doubled each time."""
STANDBY_PAUSE = 0.3
"""Seconds before the next standby worker warms up. That takes a processor, which the worker before needs to start."""
KEY_CHECK_SECONDS = 1.0
"""Between two checks whether the keys have changed."""

WARM_UP = ("antiphon_relay.shell.redis_cache",)
"""Modules that workers import beforehand where there is a Redis: it takes half a second."""

log = logging.getLogger(__name__)


class _WorkerProcess:
    """A worker process, on standby or forwarding. It ends when its channel closes."""

    def __init__(self, shared: SharedSettings) -> None:
        """Start the process. Raises OSError when the machine has no room for another process."""
        self.channel, theirs = WorkerChannel.pair()
        modules = WARM_UP if shared.redis is not None else ()
        with theirs:
            command = [
                sys.executable,
                "-m",
                "antiphon_relay.shell.worker_process",
                str(theirs.fileno()),
                shared.log,
                *modules,
            ]
            try:
                # not in a thread of Trio's: the worker would end with the thread that started it
                self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
            except OSError:
                self.channel.close()
                raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def end(self) -> int:
        """End the process if it still runs; return its exit code."""
        self.channel.close()
        self._process.kill()
        return self._process.wait()


class _WorkerSlot:
    """The sockets of one worker, and the worker that has them at present."""

    def __init__(self, index: int, public_sockets: list[PublicSocket], link: BatchSocket) -> None:
        self.index = index
        self.public_sockets = public_sockets
        self.link = link
        self.worker: _WorkerProcess | None = None
        self.status: WorkerStatus | None = None
        """The last status of the present worker; None until it forwards."""
        self.healthy_until = -inf

    @property
    def descriptors(self) -> tuple[int, ...]:
        return *(public.socket.fileno() for public in self.public_sockets), self.link.fileno()

    def healthy(self) -> bool:
        return trio.current_time() < self.healthy_until


class _BackOff:
    """The pause before the next worker of a slot, or the next standby worker, once one has ended."""

    def __init__(self) -> None:
        self._pause = 0.0
        self._started = trio.current_time()

    def start(self) -> None:
        """Note that a worker starts."""
        self._started = trio.current_time()

    def end(self) -> float:
        """Note that the worker has ended; return the seconds to wait."""
        stable = trio.current_time() - self._started >= STABLE_SECONDS
        self._pause = 0.0 if stable else min(LONGEST_PAUSE, max(FIRST_PAUSE, 2 * self._pause))
        return self._pause


class SupervisorCounters:
    """Workers replaced so far (`restarts`). They are exported as `antiphon_relay_worker_*`."""

    __slots__ = ("restarts",)

    def __init__(self) -> None:
        self.restarts = 0


class Supervisor:
    """Keeps every worker slot of a relay filled while it `run`s.

    The sums of all workers' metrics go into `registry`; `stack` closes the sockets.
    """

    def __init__(
        self,
        settings: RelaySettings,
        workers: int,
        shared: SharedSettings,
        keys: KeyRing,
        registry: CollectorRegistry,
        stack: ExitStack,
    ) -> None:
        self.counters = SupervisorCounters()
        self._shared = shared
        self._keys = keys
        self._secrets = keys.format()
        self._transceivers: tuple[tuple[str, int], ...] = ()
        self._slots = _open_slots(settings, workers, stack)
        self._metrics = SummedMetrics()
        self._ended_uplink = 0
        self._wanted = trio.open_memory_channel[None](0)
        self._standby = trio.open_memory_channel[_WorkerProcess](workers)
        self._first_core = randbelow(os.cpu_count() or 1)  # spreads the relays of one host over its processors
        registry.register(self._metrics)
        export_counters(registry, "antiphon_relay_worker", self.counters)
        export_gauge(
            registry,
            "antiphon_relay_workers",
            "Workers that forward",
            lambda: sum(slot.status is not None for slot in self._slots),
        )

    @property
    def public_sockets(self) -> list[PublicSocket]:
        """The public sockets of one slot: those of all others have the same addresses."""
        return self._slots[0].public_sockets

    @property
    def links(self) -> list[Address]:
        """The link address of each slot."""
        return [Address(*slot.link.address) for slot in self._slots]

    def healthy(self) -> bool:
        """False while a worker is missing, silent or stalled."""
        return all(slot.healthy() for slot in self._slots)

    def uplink(self) -> int:
        """Return how many packets of clients were forwarded so far, by the last status of each worker."""
        return self._ended_uplink + sum(slot.status.uplink for slot in self._slots if slot.status is not None)

    def set_transceivers(self, addresses: Sequence[Address]) -> None:
        """Have every worker send HELLO to these link addresses."""
        self._transceivers = tuple(addresses)
        self._send_to_workers(SetTransceivers(self._transceivers))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled; started once every worker forwards."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_standby)
            async with trio.open_nursery() as starting:
                for slot in self._slots:
                    starting.start_soon(nursery.start, self._keep_filled, slot)
            nursery.start_soon(self._watch_keys)
            task_status.started()

    async def _keep_standby(self) -> None:
        """Keep one worker on standby for the slot that needs one next."""
        back_off = _BackOff()
        while True:
            back_off.start()
            try:
                standby = _WorkerProcess(self._shared)
            except OSError as error:
                pause = back_off.end()
                log.error("no worker can be started", extra={"reason": str(error), "next_in": pause})  # noqa: TRY400
                await trio.sleep(pause)
                continue
            if await self._is_wanted(standby):
                self._standby[0].send_nowait(standby)
                if not self._wanted[1].statistics().tasks_waiting_send:
                    await trio.sleep(STANDBY_PAUSE)
            else:
                pause = back_off.end()
                code = standby.end()
                log.error("the standby worker ended", extra={"pid": standby.pid, "code": code, "next_in": pause})
                await trio.sleep(pause)

    async def _is_wanted(self, standby: _WorkerProcess) -> bool:
        """Wait until a slot needs the standby worker; return False if it ends before."""
        wanted = False
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_when_dead, standby, nursery.cancel_scope)
                await self._wanted[1].receive()
                wanted = True
                nursery.cancel_scope.cancel()
        finally:
            if not wanted:
                standby.end()
        return wanted

    async def _keep_filled(
        self, slot: _WorkerSlot, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Run one worker after another in a slot; started once the first has sent its status."""
        back_off = _BackOff()
        started = _once(task_status.started)
        while True:
            await self._wanted[0].send(None)
            worker = await self._standby[1].receive()
            back_off.start()
            try:
                await self._run_worker(slot, worker, started)
            finally:
                code = worker.end()
                self._clear(slot)
            pause = back_off.end()
            link = str(Address(*slot.link.address))
            log.error("a worker ended", extra={"pid": worker.pid, "code": code, "link": link, "next_in": pause})
            self.counters.restarts += 1
            await trio.sleep(pause)

    async def _run_worker(self, slot: _WorkerSlot, worker: _WorkerProcess, started: Callable[[], None]) -> None:
        """Pass the slot's sockets to a worker, and take its status messages until it ends or hangs."""
        slot.worker = worker
        worker.channel.send(self._start_message(slot), slot.descriptors)
        missed = 0
        while missed < MAX_MISSED:
            missed += 1
            with trio.move_on_after(STATUS_WAIT_SECONDS):
                received = await worker.channel.receive()
                if received is None:
                    return
                status, _ = received
                if isinstance(status, WorkerStatus):
                    missed = 0
                    self._take_status(slot, status)
                    started()
        log.error("a worker hangs", extra={"pid": worker.pid})

    def _take_status(self, slot: _WorkerSlot, status: WorkerStatus) -> None:
        slot.status = status
        if status.healthy:
            slot.healthy_until = trio.current_time() + HEALTHY_SECONDS
        self._metrics.update(slot.index, status.metrics)

    def _start_message(self, slot: _WorkerSlot) -> StartWorker:
        cores = sorted(os.sched_getaffinity(0))  # an orchestrator may change them while the relay runs
        return StartWorker(
            core=cores[(self._first_core + slot.index) % len(cores)],
            public=tuple(AdvertisedAddress(public.ingress.id, *public.advertised) for public in slot.public_sockets),
            networks=tuple(map(str, self._shared.transceiver_network)),
            cluster=self._shared.cluster,
            redis=self._shared.redis,
            secrets=self._secrets,
            transceivers=self._transceivers,
        )

    def _clear(self, slot: _WorkerSlot) -> None:
        if slot.status is not None:
            self._ended_uplink += slot.status.uplink
        self._metrics.remove(slot.index)
        slot.worker = slot.status = None

    async def _watch_keys(self) -> None:
        """Send new keys to the workers once the secret file has changed."""
        while True:
            await trio.sleep(KEY_CHECK_SECONDS)
            if self._keys.format() != self._secrets:
                self._secrets = self._keys.format()
                self._send_to_workers(SetKeys(self._secrets))

    def _send_to_workers(self, message: SetTransceivers | SetKeys) -> None:
        for slot in self._slots:
            if slot.worker is not None:
                slot.worker.channel.send(message)


async def _cancel_when_dead(standby: _WorkerProcess, scope: trio.CancelScope) -> None:
    await standby.channel.wait_readable()  # a standby worker sends nothing
    scope.cancel()


def _open_slots(settings: RelaySettings, workers: int, stack: ExitStack) -> list[_WorkerSlot]:
    """Open the sockets of every slot. Where the link has a port, the slots have this port and the following ones."""
    first = open_public_sockets(settings.media, stack, shared=workers > 1)
    if len(first) + 1 > MAX_DESCRIPTORS:
        raise PublicSocketError(f"--media: {len(first)} addresses are more than a worker can have: name fewer")
    slots = []
    for index in range(workers):
        host, port = settings.relay_link
        link = stack.enter_context(BatchSocket.open((host, port + index if port else 0)))
        slots.append(_WorkerSlot(index, open_again(first, stack) if index else first, link))
    return slots


def _once(act: Callable[[], None]) -> Callable[[], None]:
    """Return a function that calls `act` the first time that it is called itself."""
    left = [act]

    def call() -> None:
        if left:
            left.pop()()

    return call
