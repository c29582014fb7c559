"""Backends that fail and return during calls, from a seed and under virtual time, with real cores and playout.

No call ends while some address has a slot. No audio is repeated or reordered. The audio waiting for playout never
exceeds the credit.
"""

from collections import deque
from collections.abc import Callable
from math import inf
from random import Random

import pytest

from antiphon_backend.core import CallCore, CallOffered, CallState, Slots, TransceiverConnection
from antiphon_common import frames
from antiphon_common.frame_connection import ConnectionCounters
from antiphon_common.json_objects import unpack
from antiphon_transceiver.audio import Playout
from antiphon_transceiver.audio.playout import MAX_BUFFERED_MS
from antiphon_transceiver.backends import BackendConnection, BackendSelector, InboundFrame
from antiphon_transceiver.backends.call import BackendCounters

TICK = 0.01
FRAME_TICKS = 2
DELAY_TICKS = 1
CALLS = 8
SLOTS = 8
SECONDS = 40.0


def packet(number: int) -> bytes:
    """Return a valid Opus packet of 20 ms that contains a number."""
    return b"\x08" + number.to_bytes(4, "big")


class BackendCaller:
    """A call that sends numbered packets and plays the received ones."""

    def __init__(self, fleet: "BackendFleet", number: int) -> None:
        self.playout = Playout("opus")
        self.said = 0
        self.heard: list[int] = []
        self.ended: InboundFrame | None = None
        self._fleet = fleet
        self.parrot = number % 2 == 1
        self._response = 0
        session = {"model": "parrot" if self.parrot else "poet", "hasty": number % 4 == 0}
        self.call = fleet.selector.open(f"rtc_{number}", "acme", session, {}, fleet.now)

    def tick(self, number: int) -> None:
        if number % FRAME_TICKS == 0:
            self.call.send_audio(packet(self.said), self.said * 960)
            self.said += 1
        while (played := self.playout.poll(self._fleet.now)) is not None:
            self.heard.append(int.from_bytes(played.payload[1:], "big"))
        if drained := self.playout.take_drained():
            self.call.grant(drained)

    def receive(self, frame: InboundFrame) -> None:
        match frame:
            case frames.ResponseStarted():
                assert frame.response > self._response, "a number was used twice"
                self._response = frame.response
            case frames.Audio():
                assert frame.response == self._response
                self.playout.append(frame.response, frame.data)
            case frames.ResponseEnded():
                self.playout.end(frame.response)
            case frames.Clear():
                self.call.interrupted(frame.response, self.playout.clear(frame.response))
            case frames.Ended() | frames.Refused() | frames.BadFrame():
                self.ended = frame


class BackendAddress:
    """A process with a backend. A parrot sends received audio back. A poet sends audio as far ahead as the credit
    allows. A hasty poet starts the next response before the previous one was played."""

    def __init__(self, fleet: "BackendFleet") -> None:
        self.connected = self.hung = False
        self._fleet = fleet
        self._poems: dict[CallCore, int] = {}
        self._latest: dict[CallCore, int] = {}
        self._wires: tuple[deque[tuple[int, bytes]], ...] = ()
        self.connect()

    def connect(self) -> None:
        """Start the backend and connect the transceiver to it."""
        self.slots = Slots(SLOTS)
        self._handled: set[CallCore] = set()
        self.connected, self.hung = True, False
        self.session = TransceiverConnection(self.slots, ("opus",), ConnectionCounters(), self._fleet.now)
        self.connection = BackendConnection(self._fleet.selector.counters, self._fleet.now)
        self._wires = (deque(), deque())
        self._fleet.selector.connections.append(self.connection)

    def crash(self) -> None:
        """Stop at once; the kernel reports the loss to the transceiver."""
        if self.connected:
            self.connected = False
            self._fleet.selector.connection_lost(self.connection, self._fleet.now)
            self._fleet.deliver()
            self._poems.clear()

    def tick(self, number: int) -> None:
        if not self.connected:
            return
        up, down = self._wires
        self._move(number, self.connection.poll_transmit, up, self.session.receive_message, self.hung)
        self._run_handlers()
        self._move(number, self.session.poll_transmit, down, self.connection.receive_message, self.hung)
        self.connection.handle_timeout(self._fleet.now)
        self._fleet.selector.collect(self.connection, self._fleet.now)
        self._fleet.deliver()
        if not self.hung:
            self.session.handle_timeout(self._fleet.now)
        if self.connection.closing is not None:
            self.crash()
            self._fleet.later(1.0, self.connect)

    def _move(
        self,
        number: int,
        poll: Callable[[], bytes | None],
        wire: deque[tuple[int, bytes]],
        receive: Callable[[bytes, float], None],
        hung: bool,
    ) -> None:
        while (message := poll()) is not None:
            wire.append((number + DELAY_TICKS, message))
        while wire and wire[0][0] <= number and not hung:
            receive(wire.popleft()[1], self._fleet.now)

    def _run_handlers(self) -> None:
        if self.hung:
            return
        while (event := self.session.poll_event()) is not None:
            call = event.call
            if isinstance(event, CallOffered):
                self._handled.add(call)
                call.accept()
                session = unpack(call.started.session)
                if session["model"] == "poet":
                    self._poems[call] = 0
                    if session["hasty"]:
                        call.clear()
                call.start_response()
            self._listen(call)
            if call in self._poems:
                self._recite(call)
            if call.state is CallState.OVER and call in self._handled:
                self._handled.remove(call)
                self.session.finished()

    def _listen(self, call: CallCore) -> None:
        while call.audio.frames:
            frame = call.audio.frames.popleft()
            assert frame.position > self._latest.get(call, -1), "the caller's audio came out of order"
            assert frame.position * 1000 // 48000 >= call.started.resumed_ms - 20
            self._latest[call] = frame.position
            if call not in self._poems and call.state is CallState.ACCEPTED:
                call.send_audio(frame.data)

    def _recite(self, call: CallCore) -> None:
        while call.state is CallState.ACCEPTED and call.send_audio(line := packet(self._poems[call])) == len(line):
            self._poems[call] += 1


class BackendFleet:
    """The addresses of one backend, and their calls. `random` determines the faults."""

    def __init__(self, random: Random) -> None:
        self.now = 0.0
        self.random = random
        self.selector = BackendSelector("opus", BackendCounters())
        self._agenda: list[tuple[float, Callable[[], None]]] = []
        self.addresses = [BackendAddress(self) for _ in range(3)]
        self._ticks = 0
        self.callers: list[BackendCaller] = []

    def run(self, seconds: float, *, faults: bool = False) -> None:
        for _ in range(round(seconds / TICK)):
            self._ticks += 1
            self.now = self._ticks * TICK
            if faults and self._ticks % 10 == 0:
                self._maybe_break()
            self._agenda, due = [], self._agenda
            for at, action in due:
                if at > self.now:
                    self._agenda.append((at, action))
                else:
                    action()
            for caller in self.callers:
                caller.tick(self._ticks)
            for address in self.addresses:
                address.tick(self._ticks)
            if self.selector.poll_timeout() <= self.now:
                self.selector.handle_timeout(self.now)
                self.deliver()
            self._check()

    def later(self, delay: float, action: Callable[[], None]) -> None:
        self._agenda.append((self.now + delay, action))

    def deliver(self) -> None:
        while (delivery := self.selector.poll_event()) is not None:
            caller = next(caller for caller in self.callers if caller.call is delivery.call)
            caller.receive(delivery.frame)

    def _maybe_break(self) -> None:
        address = self.random.choice(self.addresses)
        chance = self.random.random()
        if not address.connected or address.hung or chance > 0.05:
            return
        if chance < 0.03:
            address.crash()
            self.later(self.random.uniform(0.1, 3.0), address.connect)
        else:
            address.hung = True

    def _check(self) -> None:
        for caller in self.callers:
            assert caller.ended is None, f"at {self.now}: {caller.call.call_id} heard {caller.ended}"
            assert caller.playout.buffered_ms <= MAX_BUFFERED_MS
        for address in self.addresses:
            assert address.slots.taken <= SLOTS


@pytest.mark.parametrize("seed", range(4))
def test_calls_continue_when_their_backends_crash_or_hang(seed: int) -> None:
    print("seed", seed)
    fleet = BackendFleet(Random(seed))
    fleet.run(0.1)
    fleet.callers = [BackendCaller(fleet, number) for number in range(CALLS)]
    fleet.run(SECONDS, faults=True)
    resumed = fleet.selector.counters.calls_resumed
    print(f"{resumed} resumptions")
    assert resumed > CALLS
    for address in fleet.addresses:
        if address.hung:
            fleet.later(0.0, address.crash)
    fleet.run(5)
    for caller in fleet.callers:
        if caller.parrot:
            assert caller.heard == sorted(set(caller.heard)), "twice or out of order"
            assert caller.heard[-1] > caller.said - 4 * 50
        assert len(caller.heard) > 0.5 * caller.said
        caller.call.end("hangup")
    fleet.run(0.1)
    assert fleet.selector.poll_timeout() == inf
    assert sum(connection.calls for connection in fleet.selector.connections) == 0
    assert [address.slots.taken for address in fleet.addresses if address.connected] == [0] * len(
        fleet.selector.connections
    )
