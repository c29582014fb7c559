"""Who takes part in a simulated call: each a real core, with what its shell would do, and no socket."""

from functools import cache
from math import inf
from random import Random
from typing import TYPE_CHECKING, Protocol

from antiphon.client.call import AudioReceived, ClientCall, Closed, Connected
from antiphon.client.call import Event as ClientEvent
from antiphon_backend.core import BackendSession, CallChanged, CallCore, CallOffered, Slots
from antiphon_backend.core import CallState as SpokenState
from antiphon_common.core import Path
from antiphon_common.frame_connection import ConnectionCounters
from antiphon_common.link import LinkKeys, Owner
from antiphon_common.routing import RouteTokens
from antiphon_common.sockaddr import encode_address
from antiphon_relay.flows import Datagram, Ingress
from antiphon_relay.forwarder import Forwarder
from antiphon_transceiver.backends import BackendLink
from antiphon_transceiver.backends.call import LinkCounters
from antiphon_transceiver.switchboard import Event as SwitchboardEvent
from antiphon_transceiver.switchboard import Switchboard
from support.certificates import certificate
from support.impairment import ImpairedLink, Impairment
from support.voice import DOWN, FRAME_SECONDS, FRAME_TICKS, UP, opus_packet

if TYPE_CHECKING:
    from support.world import World

Address = tuple[str, int]

INGRESS = 1
MEDIA = ("192.0.2.1", 3478)
CODECS = ("opus", "pcm16/24000")
BACKEND_SLOTS = 1000
REDIAL_SECONDS = 0.2

STORY_SECONDS = 3.0
"""Less than the credit, so that the end of each story is cut off."""

encoded = cache(encode_address)
"""The kernel's form of an address."""

path_from = cache(Path.of)


class Actor(Protocol):
    """What the world's loop needs of anybody: to be woken at `due`, and drained after each touch. `queued` is when the
    loop will look at it."""

    due: float
    queued: float

    def handle_timeout(self, now: float) -> None: ...

    def drain(self) -> None:
        """Send on what the core has to say."""

    def poll_timeout(self) -> float | None: ...


class Client:
    """A caller that says numbered packets and keeps what comes back. Change `address` for a NAT rebinding."""

    def __init__(
        self, world: "World", core: ClientCall, number: int, address: Address, impairment: Impairment, random: Random
    ) -> None:
        self.core = core
        self.number = number
        self.call_id = f"rtc_{number}"
        self.uplink = ImpairedLink(impairment, random)
        self.downlink = ImpairedLink(impairment, random)
        self.events: list[ClientEvent] = []
        self.heard: list[AudioReceived] = []
        self.next_frame: float | None = None
        self.said: list[bytes] = []
        self.connected = False
        self.closed: Closed | None = None
        self.present = True
        """False once the client has vanished: it neither sends nor hears."""
        self.paths: set[Path] = set()
        """Every path it ever had; its call may be on no other."""
        self.honest = True
        """False for one that claims another's address, where it hears nothing."""
        self.legible = True
        """Whether what it hears are still packets of `opus_packet`: not if they were decoded on the way."""
        self.home = b""
        """The encoded link address of the transceiver that has its call."""
        self.due = self.queued = inf
        self._world = world
        self.address = address

    @property
    def address(self) -> Address:
        return self._address

    @address.setter
    def address(self, address: Address) -> None:
        path = path_from(*address, ingress=INGRESS)
        self._address = address
        self.paths.add(path)
        self.key = path.encode()

    @property
    def at_home(self) -> bool:
        """Whether what is sent from its address is its own call's, and nobody else's."""
        return self.connected and self.honest and self.present and self.closed is None

    def talk(self) -> None:
        """Begin to say a packet each 20 ms."""
        self.next_frame = self._world.now
        self._world.touch(self)

    def vanish(self) -> None:
        """Lose the network for good, without a word."""
        self.present = False
        self._world.touch(self)

    def poll_timeout(self) -> float | None:
        if self.core.closed is not None or not self.present:
            return None
        deadline = self.core.poll_timeout()
        if self.next_frame is None or (deadline is not None and deadline < self.next_frame):
            return deadline
        return self.next_frame

    def handle_timeout(self, now: float) -> None:
        if self.next_frame is not None and now >= self.next_frame:
            packet = opus_packet(len(self.said), UP | self.number)
            self.core.send_audio(packet, len(self.said) * FRAME_TICKS, now)
            self.said.append(packet)
            self.next_frame += FRAME_SECONDS
        self.core.handle_timeout(now)

    def receive(self, data: bytes) -> None:
        if self.present:
            self.core.receive_datagram(data, path_from(*MEDIA), self._world.now)
            self._world.touch(self)

    def drain(self) -> None:
        core = self.core
        while (transmit := core.poll_transmit()) is not None:
            if self.present:
                self._world.send_up(self, transmit.data)
        while (event := core.poll_event()) is not None:
            self.events.append(event)
            if isinstance(event, AudioReceived):
                self.heard.append(event)
                self._world.watch.client_heard(self, event)
            elif isinstance(event, Connected):
                self.connected = True
            elif isinstance(event, Closed):
                self.closed = event
                self.next_frame = None


class Relay:
    """A forwarder at its link address. It may forget everything, or die."""

    def __init__(self, world: "World", number: int) -> None:
        self.address = (f"10.0.0.{number}", 7000)
        self.alive = True
        self.due = self.queued = inf
        self._world = world
        self.forget()

    def forget(self) -> None:
        """Start anew, with nothing but the keys; the wall clock may have been set meanwhile."""
        world = self._world
        self.ingress = Ingress(INGRESS, 16)
        self.core = Forwarder(
            [self.ingress],
            16,
            RouteTokens(world.keys.route),
            world.networks,
            LinkKeys(world.keys.link),
            world.random.randbytes,
            unix_offset=world.clock.offset(world.now),
        )
        self._world.touch(self)

    def die(self) -> None:
        self.alive = False
        self._world.touch(self)

    def receive_media(self, data: bytes, source: Address) -> None:
        if self.alive:
            self.core.forward_uplink(self.ingress, [(data, encoded(*source))], self._world.now)
            self._world.touch(self)

    def receive_link(self, data: bytes, source: Address) -> None:
        if self.alive:
            self.core.forward_downlink([(data, encoded(*source))], self._world.now)
            self._world.touch(self)

    def poll_timeout(self) -> float | None:
        return self.core.poll_timeout() if self.alive else None

    def handle_timeout(self, now: float) -> None:
        self.core.handle_timeout(now)

    def drain(self) -> None:
        for data, target in _take(self.core.link_outbox):
            self._world.deliver_to_transceiver(data, target, self.address)
        for data, target in _take(self.ingress.outbox):
            self._world.send_down(data, target)


class Transceiver:
    """A switchboard at its link address, and one connection to a backend of its own."""

    def __init__(self, world: "World", number: int) -> None:
        self.address = (f"10.0.1.{number}", 7000)
        self.encoded_address = encode_address(*self.address)
        owner = Owner(0, world.networks.host_of(0, self.address[0]), self.address[1])
        offset = world.clock.offset(world.now)
        self.switchboard = Switchboard(
            owner,
            RouteTokens(world.keys.route),
            LinkKeys(world.keys.link),
            certificate("transceiver"),
            world.random.randbytes,
            unix_offset=offset,
            ntp_offset=offset,
        )
        self.events: list[SwitchboardEvent] = []
        self.due = self.queued = inf
        self._world = world
        self.connect()

    @property
    def serves(self) -> bool:
        """Whether its backend takes calls now."""
        return self.link.greeted and not self.backend.gone

    def connect(self) -> None:
        """Dial the backend."""
        now = self._world.now
        self.link = BackendLink(LinkCounters(), now)
        self.backend = Backend(self._world, self)
        self._world.touch(self)
        self._world.touch(self.backend)

    def lose_backend(self) -> None:
        """The backend goes away, and comes back a moment later."""
        self.backend.gone = True
        self.backend.session.lost()
        self.link.lost()
        self._deliver_frames()
        self._world.later(REDIAL_SECONDS, self.connect)

    def receive(self, data: bytes, relay: Address) -> None:
        self.switchboard.receive_datagram(data, relay, self._world.now)
        self._world.touch(self)

    def receive_message(self, message: bytes) -> None:
        """Take one message of the backend."""
        self.link.receive_message(message, self._world.now)
        self._deliver_frames()

    def poll_timeout(self) -> float | None:
        deadlines = (self.switchboard.poll_timeout(), self.link.poll_timeout())
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def handle_timeout(self, now: float) -> None:
        self.switchboard.handle_timeout(now)
        if self.link.closing is None:
            self.link.handle_timeout(now)
            self._deliver_frames()

    def drain(self) -> None:
        board, world = self.switchboard, self._world
        while (transmit := board.poll_transmit()) is not None:
            world.deliver_to_relay(transmit.data, transmit.relay, self.address)
        while (event := board.poll_event()) is not None:
            self.events.append(event)
        while (message := self.link.poll_transmit()) is not None:
            world.deliver_to_backend(self.backend, message)

    def _deliver_frames(self) -> None:
        while (delivery := self.link.poll_event()) is not None:
            delivery.call.sink(delivery.frame, self._world.now)
        self._world.touch(self)


class Backend:
    """A model: what a call's session asks for, it does.

    `loopback` returns every frame; `stories` tells one after the other, as far ahead as credit lets it, and breaks some
    of them off; `silent` only listens.
    """

    def __init__(self, world: "World", transceiver: Transceiver) -> None:
        self.session = BackendSession(Slots(BACKEND_SLOTS), CODECS, ConnectionCounters(), world.now)
        self.transceiver = transceiver
        self.gone = False
        self.due = self.queued = inf
        self._world = world
        self._told: dict[CallCore, int] = {}
        """How many packets of stories each call was told."""

    def receive(self, message: bytes) -> None:
        if not self.gone:
            self.session.receive_message(message, self._world.now)
            self._world.touch(self)

    def poll_timeout(self) -> float | None:
        return None if self.gone else self.session.poll_timeout()

    def handle_timeout(self, now: float) -> None:
        self.session.handle_timeout(now)

    def drain(self) -> None:
        if self.gone:
            return
        while (event := self.session.poll_event()) is not None:
            if isinstance(event, CallOffered):
                event.call.start_response()
                if event.call.started.session.get("behaviour") == "stories":
                    self._told[event.call] = 0
                    self._world.later(STORY_SECONDS, self._break_off, event.call)
            elif isinstance(event, CallChanged):
                self._look_at(event.call)
        while (message := self.session.poll_transmit()) is not None:
            self._world.deliver_from_backend(self.transceiver, self, message)

    def hang_up(self, call_id: str) -> None:
        """End a call once what was said of it has been played."""
        for call in self._calls(call_id):
            call.hang_up()
        self._world.touch(self)

    def _look_at(self, call: CallCore) -> None:
        behaviour = call.started.session.get("behaviour", "loopback")
        while call.audio.frames:
            frame = call.audio.frames.popleft()
            self._world.watch.backend_heard(self, call, frame)
            if behaviour == "loopback" and frame.data and call.reason is None:
                call.say(frame.data)
        if call.reason is not None:
            self._told.pop(call, None)
        elif behaviour == "stories":
            self._tell(call)

    def _tell(self, call: CallCore) -> None:
        if call.state is not SpokenState.ACCEPTED:
            return
        tag, number = DOWN | int(call.started.call_id.removeprefix("rtc_")), self._told[call]
        while call.say(packet := opus_packet(number, tag)) == len(packet):
            number += 1
        self._told[call] = number

    def _break_off(self, call: CallCore) -> None:
        """Let the caller interrupt, and begin the next story."""
        if call in self._told and call.state is SpokenState.ACCEPTED and not self.gone:
            call.clear()
            call.start_response()
            self._tell(call)
            self._world.later(STORY_SECONDS, self._break_off, call)
            self._world.touch(self)

    def _calls(self, call_id: str) -> list[CallCore]:
        return [call for call in self.session._calls.values() if call.started.call_id == call_id]


def _take(outbox: list[Datagram]) -> list[Datagram]:
    taken = outbox[:]
    outbox.clear()
    return taken
