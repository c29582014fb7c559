"""Runs the workers of a relay, each in a process and on a processor of its own.

The supervisor opens every socket once and keeps it open: one of each public address and one of the link for each place.
A worker is handed the sockets of a place. When it dies, packets wait in the kernel until the warm spare has taken the
same sockets over; nobody else's flow is touched, and the link address stays what it was.
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
from antiphon_relay.shell.public_sockets import MediaError, MediaSocket, open_again, open_media
from antiphon_relay.shell.worker_ipc import MAX_DESCRIPTORS, Adopt, Channel, Know, Media, Rekey, Report

HEALTHY_SECONDS = 3.0
"""How long a place counts as healthy after a report, which comes twice a second: a worker is replaced in less."""
LOOK_SECONDS, HUNG_LOOKS = 1.0, 5
"""A worker of which nothing is heard in so many looks hangs, and is replaced. A machine that slept makes a single look
long."""
LASTING_SECONDS = 1.0
"""A worker that lives so long is no part of a crash loop: the next begins at once."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Before the next worker of a crash loop begins; doubled each time."""
SPARE_PAUSE = 0.3
"""Before the next spare warms up, which takes a processor for a while that the one before needs to begin."""
REKEY_SECONDS = 1.0
"""Between two looks whether the keys have changed."""

WARM_UP = ("antiphon_relay.shell.redis_cache",)
"""What workers import beforehand where there is a Redis: it takes half a second."""

log = logging.getLogger(__name__)


class _Process:
    """A worker process, warm or warming up. It ends with its channel."""

    def __init__(self, shared: SharedSettings) -> None:
        """Start it; raise OSError when the machine has no room for another process."""
        self.channel, theirs = Channel.pair()
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
                # not by a thread of Trio's: the worker would end with the thread that has started it
                self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
            except OSError:
                self.channel.close()
                raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def end(self) -> int:
        """Make sure that it is gone; return its exit code."""
        self.channel.close()
        self._process.kill()
        return self._process.wait()


class _Place:
    """The sockets of one worker, and the worker that has them now."""

    def __init__(self, index: int, media: list[MediaSocket], link: BatchSocket) -> None:
        self.index = index
        self.media = media
        self.link = link
        self.worker: _Process | None = None
        self.report: Report | None = None
        """The last of the worker that is there; None until it forwards."""
        self.healthy_until = -inf

    @property
    def descriptors(self) -> tuple[int, ...]:
        return *(media.socket.fileno() for media in self.media), self.link.fileno()

    def healthy(self) -> bool:
        return trio.current_time() < self.healthy_until


class _BackOff:
    """How long to wait for the next worker of a place, or the next spare, once one has ended."""

    def __init__(self) -> None:
        self._pause = 0.0
        self._began = trio.current_time()

    def begin(self) -> None:
        """Note that one begins."""
        self._began = trio.current_time()

    def end(self) -> float:
        """Note that it has ended; return the seconds to wait."""
        lasted = trio.current_time() - self._began >= LASTING_SECONDS
        self._pause = 0.0 if lasted else min(LONGEST_PAUSE, max(FIRST_PAUSE, 2 * self._pause))
        return self._pause


class SupervisorCounters:
    __slots__ = ("restarts",)

    def __init__(self) -> None:
        self.restarts = 0


class Supervisor:
    """Keeps the places of a relay filled while it `run`s. The metrics of all workers, summed, go into `registry`; the
    sockets are closed by `stack`."""

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
        self._known: tuple[tuple[str, int], ...] = ()
        self._places = _open_places(settings, workers, stack)
        self._metrics = SummedMetrics()
        self._ended_uplink = 0
        self._wanted = trio.open_memory_channel[None](0)
        self._spares = trio.open_memory_channel[_Process](workers)
        self._first_core = randbelow(os.cpu_count() or 1)  # relays of one host know nothing of each other
        registry.register(self._metrics)
        export_counters(registry, "antiphon_relay_worker", self.counters)
        export_gauge(
            registry,
            "antiphon_relay_workers",
            "Workers that forward",
            lambda: sum(place.report is not None for place in self._places),
        )

    @property
    def media(self) -> list[MediaSocket]:
        """The public sockets of one place: all others have the same addresses."""
        return self._places[0].media

    @property
    def links(self) -> list[Address]:
        return [Address(*place.link.address) for place in self._places]

    def healthy(self) -> bool:
        """False while a worker is missing, silent or stalled."""
        return all(place.healthy() for place in self._places)

    def uplink(self) -> int:
        """How many packets of clients were forwarded so far, as last reported."""
        return self._ended_uplink + sum(place.report.uplink for place in self._places if place.report is not None)

    def know(self, addresses: Sequence[Address]) -> None:
        """Have every worker send HELLO to these link addresses."""
        self._known = tuple(addresses)
        self._tell(Know(self._known))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled; started once every worker forwards."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_spare)
            async with trio.open_nursery() as starting:
                for place in self._places:
                    starting.start_soon(nursery.start, self._hold, place)
            nursery.start_soon(self._watch_keys)
            task_status.started()

    async def _keep_spare(self) -> None:
        """Have a worker ready for the place that needs one next."""
        back_off = _BackOff()
        while True:
            back_off.begin()
            try:
                spare = _Process(self._shared)
            except OSError as error:
                pause = back_off.end()
                log.error("no worker can be started", extra={"reason": str(error), "next_in": pause})  # noqa: TRY400
                await trio.sleep(pause)
                continue
            if await self._is_wanted(spare):
                self._spares[0].send_nowait(spare)
                if not self._wanted[1].statistics().tasks_waiting_send:
                    await trio.sleep(SPARE_PAUSE)
            else:
                pause = back_off.end()
                log.error("the spare worker ended", extra={"pid": spare.pid, "code": spare.end(), "next_in": pause})
                await trio.sleep(pause)

    async def _is_wanted(self, spare: _Process) -> bool:
        """Wait until a place needs the spare; False once it has ended before."""
        wanted = False
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_when_dead, spare, nursery.cancel_scope)
                await self._wanted[1].receive()
                wanted = True
                nursery.cancel_scope.cancel()
        finally:
            if not wanted:
                spare.end()
        return wanted

    async def _hold(self, place: _Place, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Give a place one worker after another; started once the first has reported."""
        back_off = _BackOff()
        started = _once(task_status.started)
        while True:
            await self._wanted[0].send(None)
            worker = await self._spares[1].receive()
            back_off.begin()
            try:
                await self._employ(place, worker, started)
            finally:
                code = worker.end()
                self._vacate(place)
            pause = back_off.end()
            link = str(Address(*place.link.address))
            log.error("a worker ended", extra={"pid": worker.pid, "code": code, "link": link, "next_in": pause})
            self.counters.restarts += 1
            await trio.sleep(pause)

    async def _employ(self, place: _Place, worker: _Process, started: Callable[[], None]) -> None:
        """Hand a place over, and listen to the worker until it is gone, or hangs."""
        place.worker = worker
        worker.channel.send(self._adopt(place), place.descriptors)
        silent = 0
        while silent < HUNG_LOOKS:
            silent += 1
            with trio.move_on_after(LOOK_SECONDS):
                received = await worker.channel.receive()
                if received is None:
                    return
                report, _ = received
                if isinstance(report, Report):
                    silent = 0
                    self._take_report(place, report)
                    started()
        log.error("a worker hangs", extra={"pid": worker.pid})

    def _take_report(self, place: _Place, report: Report) -> None:
        place.report = report
        if report.healthy:
            place.healthy_until = trio.current_time() + HEALTHY_SECONDS
        self._metrics.update(place.index, report.metrics)

    def _adopt(self, place: _Place) -> Adopt:
        cores = sorted(os.sched_getaffinity(0))  # an orchestrator may change what is ours
        return Adopt(
            core=cores[(self._first_core + place.index) % len(cores)],
            media=tuple(Media(media.ingress.id, *media.advertised) for media in place.media),
            networks=tuple(map(str, self._shared.transceiver_network)),
            cluster=self._shared.cluster,
            redis=self._shared.redis,
            secrets=self._secrets,
            known=self._known,
        )

    def _vacate(self, place: _Place) -> None:
        if place.report is not None:
            self._ended_uplink += place.report.uplink
        self._metrics.remove(place.index)
        place.worker = place.report = None

    async def _watch_keys(self) -> None:
        """Pass new keys on once the secret file has brought some."""
        while True:
            await trio.sleep(REKEY_SECONDS)
            if self._keys.format() != self._secrets:
                self._secrets = self._keys.format()
                self._tell(Rekey(self._secrets))

    def _tell(self, message: Know | Rekey) -> None:
        for place in self._places:
            if place.worker is not None:
                place.worker.channel.send(message)


async def _cancel_when_dead(spare: _Process, scope: trio.CancelScope) -> None:
    await spare.channel.wait_readable()  # a spare says nothing
    scope.cancel()


def _open_places(settings: RelaySettings, workers: int, stack: ExitStack) -> list[_Place]:
    """Open the sockets of every place. With a port for the link, the others follow it."""
    first = open_media(settings.media, stack, shared=workers > 1)
    if len(first) + 1 > MAX_DESCRIPTORS:
        raise MediaError(f"--media: {len(first)} addresses are more than a worker can be handed: name fewer")
    places = []
    for index in range(workers):
        host, port = settings.relay_link
        link = stack.enter_context(BatchSocket.open((host, port + index if port else 0)))
        places.append(_Place(index, open_again(first, stack) if index else first, link))
    return places


def _once(act: Callable[[], None]) -> Callable[[], None]:
    """Return what acts when it is called for the first time."""
    left = [act]

    def call() -> None:
        if left:
            left.pop()()

    return call
