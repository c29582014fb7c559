"""The Trio shell of test clients: one task for any number of calls, each with a UDP socket."""

import select
import socket
from collections.abc import Callable, Sequence
from math import inf

import trio

from antiphon.client.call import ClientCall, ClientCallEvent, ClientClosed
from antiphon_common.core import Path
from antiphon_common.shell.loop_pacer import LoopPacer
from antiphon_common.timers import DeadlineQueue

FRAME_SECONDS = 0.02
FRAME_TICKS = 960
"""One packet of 20 ms, in ticks of 48 kHz."""

MAX_DATAGRAM = 2048
TICK = 0.001
"""Seconds between two reads under load. Measured delays are inaccurate by as much."""

READ_BUDGET = 16
"""Datagrams that are read from one socket before the next socket."""

MAX_REMEMBERED = 256
"""Server addresses whose paths are cached. An installation advertises a handful."""

Listener = Callable[[ClientCallEvent, float], None]


class DrivenCall:
    """A call, its socket, and the speech that it sends. Add it to a `CallDriver`.

    `packets_sent` and `packets_received` count datagrams. `listener` is called with each event of the call.
    """

    def __init__(self, core: ClientCall, listener: Listener, local: tuple[str, int] = ("0.0.0.0", 0)) -> None:
        self.core = core
        self.listener = listener
        self.packets_sent = 0
        self.packets_received = 0
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.bind(local)
        self.speech_sent = 0
        self.next_frame = inf
        self._speech: Sequence[bytes] = ()
        self._sent_at: list[float] = []

    def start_speech(self, packets: Sequence[bytes], start: float) -> None:
        """Send one packet each 20 ms from `start` on. After the last packet, continue with the first one."""
        self._speech = packets
        self._sent_at = [-inf] * len(packets)
        self.next_frame = start

    def sent_at(self, index: int) -> float:
        """Return when packet `index` of the speech was last sent."""
        return self._sent_at[index]

    def stop_speech(self) -> None:
        """Stop sending packets of the speech."""
        self.next_frame = inf

    def poll_timeout(self) -> float:
        return min(self.core.poll_timeout(), self.next_frame)

    def send_due_audio(self, now: float) -> None:
        """Send the packets of the speech that are due by `now`."""
        while self.next_frame <= now:
            index = self.speech_sent % len(self._speech)
            self.core.send_audio(self._speech[index], self.speech_sent * FRAME_TICKS, now)
            self._sent_at[index] = now
            self.speech_sent += 1
            self.next_frame += FRAME_SECONDS


class CallDriver:
    """Serves any number of calls in one task. `run` it, `add` each call, and `touch` a call after a local action."""

    def __init__(self) -> None:
        self.send_failures = 0
        self._paths: dict[tuple[str, int], Path] = {}
        self._addresses: dict[Path, tuple[str, int]] = {}
        self._epoll = select.epoll()
        self._by_descriptor: dict[int, DrivenCall] = {}
        self._deadlines: DeadlineQueue[DrivenCall] = DeadlineQueue()
        self._pacer = LoopPacer(self._epoll.fileno(), tick=TICK)

    def add(self, call: DrivenCall) -> None:
        """Serve a call from now on."""
        self._by_descriptor[call.socket.fileno()] = call
        self._epoll.register(call.socket.fileno(), select.EPOLLIN)
        self.touch(call)

    def remove(self, call: DrivenCall) -> None:
        """Remove a call and close its socket."""
        if self._by_descriptor.pop(call.socket.fileno(), None) is not None:
            self._deadlines.set(call, inf)
            self._epoll.unregister(call.socket.fileno())
            call.socket.close()

    def touch(self, call: DrivenCall) -> None:
        """Send the datagrams of a call after a local action on it."""
        self._flush(call, trio.current_time())
        self._pacer.wake_by(self._deadlines.next())

    async def run(self) -> None:
        """Serve every call until cancelled."""
        try:
            moved = False
            while True:
                await self._pacer.wait(self._deadlines.next(), moved=moved)
                readable = self._epoll.poll(0)
                for descriptor, _ in readable:
                    self._receive(self._by_descriptor[descriptor])
                self._handle_timeouts(trio.current_time())
                moved = bool(readable)
        finally:
            for call in list(self._by_descriptor.values()):
                self.remove(call)
            self._epoll.close()

    def _receive(self, call: DrivenCall) -> None:
        for _ in range(READ_BUDGET):
            try:
                data, source = call.socket.recvfrom(MAX_DATAGRAM)
            except OSError:
                break
            now = trio.current_time()
            call.packets_received += 1
            call.core.receive_datagram(data, self._path_of(source), now)
        self._flush(call, trio.current_time())

    def _handle_timeouts(self, now: float) -> None:
        for call in self._deadlines.pop_due(now):
            call.send_due_audio(now)
            call.core.handle_timeout(now)
            self._flush(call, now)

    def _flush(self, call: DrivenCall, now: float) -> None:
        core = call.core
        while (transmit := core.poll_transmit()) is not None:
            assert transmit.path is not None
            try:
                call.socket.sendto(transmit.data, self._address_of(transmit.path))
            except OSError:
                self.send_failures += 1
            else:
                call.packets_sent += 1
        while (event := core.poll_event()) is not None:
            if isinstance(event, ClientClosed):
                call.stop_speech()
            call.listener(event, now)
        self._deadlines.set(call, call.poll_timeout())

    def _path_of(self, source: tuple[str, int]) -> Path:
        path = self._paths.get(source)
        if path is None:
            if len(self._paths) >= MAX_REMEMBERED:
                self._paths.clear()
            path = self._paths[source] = Path.of(*source)
        return path

    def _address_of(self, path: Path) -> tuple[str, int]:
        address = self._addresses.get(path)
        if address is None:
            if len(self._addresses) >= MAX_REMEMBERED:
                self._addresses.clear()
            address = self._addresses[path] = (path.host, path.port)
        return address
