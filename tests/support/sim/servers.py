"""Transceivers and backends of a simulation: real cores with the work of their shells, without sockets."""

from math import inf
from typing import TYPE_CHECKING, Any

from antiphon_backend.core import CallChanged, CallCore, CallOffered, CallState, Slots, TransceiverConnection
from antiphon_backend.waiting_events import EventFrame
from antiphon_common.frame_connection import ConnectionCounters
from antiphon_common.frames import ClientEvent
from antiphon_common.json_objects import unpack
from antiphon_common.link import LinkKeys
from antiphon_common.routing import Owner, RouteTokens
from antiphon_common.sockaddr import encode_address
from antiphon_transceiver.backends import BackendConnection, BackendSelector
from antiphon_transceiver.backends.call import BackendCounters
from antiphon_transceiver.call_router import CallRouter, Event
from support.peers.certificates import certificate
from support.sim.actors import UNIX_START, Address
from support.sim.sequenced_events import SEQUENCED_EVENT
from support.sim.speech_source import DOWN, opus_packet

if TYPE_CHECKING:
    from support.sim.world import World

BACKEND_DELAY = 0.0005
"""Seconds that a message takes between a transceiver and a backend."""

CODECS = ("opus", "pcm16/24000")
BACKEND_SLOTS = 1000
REDIAL_SECONDS = 0.2

STORY_SECONDS = 3.0
"""Less than the credit, so that the end of each story is not played."""


class SimulatedTransceiver:
    """A call router at its link address, and a connection to each address of its backend."""

    def __init__(self, world: "World", number: int, backends: int) -> None:
        self.address = (f"10.0.1.{number}", 7000)
        self.encoded_address = encode_address(*self.address)
        owner = Owner(0, world.networks.host_of(0, self.address[0]), self.address[1])
        self._unix_offset = UNIX_START
        self.router = CallRouter(
            owner,
            RouteTokens(world.keys.route),
            LinkKeys(world.keys.link),
            certificate("transceiver"),
            world.random.randbytes,
            unix_now=world.now + self._unix_offset,
            ntp_offset=self._unix_offset,
        )
        self.events: list[Event] = []
        self.due = self.queued = inf
        self._world = world
        self.selector = BackendSelector("opus", BackendCounters())
        self.story_lengths: dict[str, int] = {}
        """Number of story packets sent to each call, by all backend addresses together."""
        self.backends = [SimulatedBackend(world, self) for _ in range(backends)]

    @property
    def serves(self) -> bool:
        """Whether its backend accepts calls now."""
        return self.selector.free_slots(self._world.now) > 0

    def set_clock(self, seconds: float) -> None:
        """Set the wall clock forward by `seconds`, or back."""
        self._unix_offset += seconds

    def find_backend_call(self, call_id: str) -> "tuple[SimulatedBackend, CallCore] | None":
        """Return the backend's half of a call, and the backend that has it."""
        for backend in self.backends:
            for call in backend.calls(call_id):
                return backend, call
        return None

    def hang_up(self, call_id: str) -> None:
        """Have the backend end a call once its audio has been played."""
        found = self.find_backend_call(call_id)
        if found is not None:
            backend, call = found
            call.hang_up()
            self._world.touch(backend)

    def connection_lost(self, connection: BackendConnection) -> None:
        """Handle the loss of a backend connection."""
        self.selector.connection_lost(connection, self._world.now)
        self._deliver()

    def receive(self, data: bytes, relay: Address) -> None:
        self.router.receive_datagram(data, relay, self._world.now)
        self._world.touch(self)

    def receive_message(self, connection: BackendConnection, message: bytes) -> None:
        """Receive one message of the backend."""
        connection.receive_message(message, self._world.now)
        self.selector.collect(connection, self._world.now)
        self._deliver()

    def poll_timeout(self) -> float:
        timeouts = (connection.poll_timeout() for connection in self.selector.connections)
        return min(self.router.poll_timeout(), self.selector.poll_timeout(), *timeouts)

    def handle_timeout(self, now: float) -> None:
        self.router.handle_timeout(now, now + self._unix_offset)
        for backend in self.backends:
            backend.keep_alive(now)
        if self.selector.poll_timeout() <= now:
            self.selector.handle_timeout(now)
            self._deliver()

    def drain(self) -> None:
        router, world = self.router, self._world
        while (transmit := router.poll_transmit()) is not None:
            world.deliver_to_relay(transmit.data, transmit.relay, self.address)
        while (event := router.poll_event()) is not None:
            self.events.append(event)
        for backend in self.backends:
            connection = backend.connection
            while connection in self.selector.connections and (message := connection.poll_transmit()) is not None:
                world.deliver_to_backend(backend, connection, message)

    def _deliver(self) -> None:
        while (delivery := self.selector.poll_event()) is not None:
            self.router.receive_frame(delivery.call, delivery.frame, self._world.now)
        self._world.touch(self)


class SimulatedBackend:
    """One address of a backend, which behaves as a call's session requests.

    `loopback` returns every frame. `stories` sends one response after another up to the credit and interrupts some.
    `silent` sends no audio. All of them read sequenced events and ignore other events.
    """

    def __init__(self, world: "World", transceiver: SimulatedTransceiver) -> None:
        self.transceiver = transceiver
        self.due = self.queued = inf
        self._world = world
        self.connect()

    @property
    def lives(self) -> bool:
        """Whether it is connected and reads messages."""
        return self.connection in self.transceiver.selector.connections and not self.hung

    def connect(self) -> None:
        """Start the backend and connect the transceiver to it."""
        self.hung = False
        self._offered: list[CallCore] = []
        self._away = REDIAL_SECONDS
        self.session = TransceiverConnection(Slots(BACKEND_SLOTS), CODECS, ConnectionCounters(), self._world.now)
        self.connection = BackendConnection(self.transceiver.selector.counters, self._world.now)
        self.transceiver.selector.connections.append(self.connection)
        self._world.touch(self.transceiver)
        self._world.touch(self)

    def die(self, away: float = REDIAL_SECONDS) -> None:
        """Stop at once, and start again after `away` seconds. The kernel reports the loss to the transceiver."""
        if self.connection not in self.transceiver.selector.connections:
            return
        self._report_loss()
        self.session.lost()
        while self.session.poll_event() is not None:
            pass
        self.transceiver.connection_lost(self.connection)
        self._world.later(away, self.connect)

    def hang(self, away: float = REDIAL_SECONDS) -> None:
        """Stop processing without closing, until the transceiver closes the connection."""
        self._away = away
        self.hung = True
        self._world.later(2 * BACKEND_DELAY, self._report_loss)

    def _report_loss(self) -> None:
        self._world.invariants.backend_lost(call.call_id for call in self.connection.open_calls)

    def keep_alive(self, now: float) -> None:
        """Handle due timeouts of the transceiver's end of the connection."""
        if self.connection in self.transceiver.selector.connections:
            self.connection.handle_timeout(now)
            if self.connection.closing is not None:
                self.die(self._away)

    def calls(self, call_id: str) -> list[CallCore]:
        """Return the calls of this id that have not ended, while the backend is alive."""
        calls = self._offered if self.lives else ()
        return [call for call in calls if call.started.call_id == call_id and call.state is not CallState.OVER]

    def receive(self, connection: BackendConnection, message: bytes) -> None:
        if connection is self.connection and self.lives:
            self.session.receive_message(message, self._world.now)
            self._world.touch(self)

    def poll_timeout(self) -> float:
        return self.session.poll_timeout() if self.lives else inf

    def handle_timeout(self, now: float) -> None:
        self.session.handle_timeout(now)

    def drain(self) -> None:
        if not self.lives:
            return
        while (event := self.session.poll_event()) is not None:
            if isinstance(event, CallOffered):
                self._offered.append(event.call)
                self._take(event.call)
            elif isinstance(event, CallChanged):
                self._look_at(event.call)
        while (message := self.session.poll_transmit()) is not None:
            self._world.deliver_from_backend(self.transceiver, self.connection, message)

    def _take(self, call: CallCore) -> None:
        call.start_response()
        if _behaviour(call) == "stories":
            self.transceiver.story_lengths.setdefault(call.started.call_id, 0)
            self._world.later(STORY_SECONDS, self._break_off, call)

    def _look_at(self, call: CallCore) -> None:
        behaviour, invariants = _behaviour(call), self._world.invariants
        while call.audio.frames:
            frame = call.audio.frames.popleft()
            invariants.backend_received_audio(call, frame)
            if behaviour == "loopback" and frame.data and call.reason is None:
                call.send_audio(frame.data)
        while call.events.frames and (event := _sequenced_event(call.events.frames[0])) is not None:
            call.events.pop()
            if event:
                invariants.backend_received_event(call, event)
        if behaviour == "stories" and call.reason is None:
            self._send_story(call)

    def _send_story(self, call: CallCore) -> None:
        if call.state is not CallState.ACCEPTED:
            return
        call_id, lengths = call.started.call_id, self.transceiver.story_lengths
        tag, number = DOWN | int(call_id.removeprefix("rtc_")), lengths[call_id]
        while call.send_audio(packet := opus_packet(number, tag)) == len(packet):
            number += 1
        lengths[call_id] = number

    def _break_off(self, call: CallCore) -> None:
        """Clear the played story as an interruption does, and start the next one."""
        if call.state is CallState.ACCEPTED and self.lives:
            call.clear()
            call.start_response()
            self._send_story(call)
            self._world.later(STORY_SECONDS, self._break_off, call)
            self._world.touch(self)


def _sequenced_event(frame: EventFrame) -> dict[str, Any] | None:
    """Return a sequenced event, an empty dict for a frame to be skipped, or None for another event."""
    if not isinstance(frame, ClientEvent):
        return {}
    event = unpack(frame.event)
    return event if event.get("type") == SEQUENCED_EVENT else None


def _behaviour(call: CallCore) -> object:
    return unpack(call.started.session).get("behaviour", "loopback")
