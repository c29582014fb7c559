"""Callers and relays of a simulation: real cores, with the work of their shells and without sockets."""

from functools import cache
from math import inf
from random import Random
from typing import TYPE_CHECKING, Protocol

from antiphon.client.call import AudioReceived, ClientCall, ClientCallEvent, ClientClosed, ClientConnected
from antiphon_common.core import Path
from antiphon_common.link import LinkKeys
from antiphon_common.routing import RouteTokens
from antiphon_common.sockaddr import encode_address
from antiphon_relay.flows import Datagram, Ingress
from antiphon_relay.forwarder import Forwarder
from antiphon_transceiver.sctp import MessageReceived
from support.net.impairment import ImpairedLink, Impairment
from support.sim.caller_codecs import OpusCaller
from support.sim.speech_source import FRAME_SECONDS, UP, opus_packet

if TYPE_CHECKING:
    from support.sim.world import World

Address = tuple[str, int]

INGRESS = 1
MEDIA = ("192.0.2.1", 3478)
"""Where callers reach the first ingress; the second is at 192.0.2.2, and so on."""

UNIX_START = 1_800_000_000.0
"""Unix time at the beginning of a world, in seconds, on machines without clock jumps."""

encoded = cache(encode_address)
"""The kernel's form of an address."""

path_from = cache(Path.of)


class Actor(Protocol):
    """The interface of the world's loop: it wakes an actor at `due`, and drains it after each touch.

    `queued` is the time for which a wake-up is scheduled.
    """

    due: float
    queued: float

    def handle_timeout(self, now: float) -> None: ...

    def drain(self) -> None:
        """Send the core's datagrams and handle its events."""

    def poll_timeout(self) -> float: ...


class SimulatedClient:
    """A caller that sends numbered packets and keeps those that it receives. Set `address` for a NAT rebinding."""

    def __init__(
        self,
        world: "World",
        core: ClientCall,
        number: int,
        address: Address,
        impairment: Impairment,
        random: Random,
        codec: OpusCaller,
    ) -> None:
        self.core = core
        self.codec = codec
        self.number = number
        self.call_id = f"rtc_{number}"
        self.uplink = ImpairedLink(impairment, random)
        self.downlink = ImpairedLink(impairment, random)
        self.events: list[ClientCallEvent] = []
        self.received: list[AudioReceived] = []
        self.next_frame: float | None = None
        self.sent: list[bytes] = []
        """The packets sent, in their Opus form."""
        self.connected = False
        self.closed: ClientClosed | None = None
        self.present = True
        """False once the client has vanished: it neither sends nor receives."""
        self.paths: set[Path] = set()
        """Every path it has had. Its call may use no other."""
        self.honest = True
        """False for a client with a spoofed address, at which it receives nothing."""
        self.numbered = True
        """Whether it receives packets with numbers, those of `opus_packet`: not if they were transcoded."""
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
        self._address = address
        self.paths.update(path_from(*address, ingress=ingress) for ingress in self._world.ingresses)
        self.key = path_from(*address, ingress=INGRESS).encode()

    @property
    def at_home(self) -> bool:
        """Whether packets from its address belong to its own call only."""
        return self.connected and self.honest and self.present and self.closed is None

    def talk(self) -> None:
        """Begin to send a packet every 20 ms."""
        self.next_frame = self._world.now
        self._world.touch(self)

    def set_clock(self, seconds: float) -> None:
        """Set the wall clock of its RTCP reports forward by `seconds`, or back."""
        self.core.sender.statistics.ntp_offset += seconds

    def vanish(self) -> None:
        """Lose the network permanently."""
        self.present = False
        self._world.touch(self)

    def poll_timeout(self) -> float:
        if self.core.closed is not None or not self.present:
            return inf
        deadline = self.core.poll_timeout()
        return deadline if self.next_frame is None else min(deadline, self.next_frame)

    def handle_timeout(self, now: float) -> None:
        if self.next_frame is not None and now >= self.next_frame:
            number, speaker = len(self.sent), UP | self.number
            packet = self.codec.packet(number, speaker)
            self.core.send_audio(packet.payload, packet.timestamp, now, packet.payload_type)
            self.sent.append(opus_packet(number, speaker))
            self.next_frame += FRAME_SECONDS
        self.core.handle_timeout(now)

    def receive(self, data: bytes, source: Address = MEDIA) -> None:
        if self.present:
            self.core.receive_datagram(data, path_from(*source), self._world.now)
            self._world.touch(self)

    def drain(self) -> None:
        core = self.core
        while (transmit := core.poll_transmit()) is not None:
            if self.present:
                self._world.send_up(self, transmit.data, transmit.path)
        while (event := core.poll_event()) is not None:
            self.events.append(event)
            if isinstance(event, AudioReceived):
                self.received.append(event)
                self._world.invariants.client_received_audio(self, event)
            elif isinstance(event, MessageReceived):
                self._world.invariants.client_received_message(self, event)
            elif isinstance(event, ClientConnected):
                self.connected = True
            elif isinstance(event, ClientClosed):
                self.closed = event
                self.next_frame = None


class SimulatedRelay:
    """A relay's core at its link address. It can `forget` its state, or `die`."""

    def __init__(self, world: "World", number: int, ingress: int) -> None:
        self.address = (f"10.0.0.{number}", 7000)
        self.alive = True
        self.due = self.queued = inf
        self._unix_offset = UNIX_START
        self._world = world
        self._ingress = ingress
        self.forget()

    def forget(self) -> None:
        """Restart without state, except for the keys."""
        world = self._world
        self.ingress = Ingress(self._ingress, 16)
        self.core = Forwarder(
            [self.ingress],
            16,
            RouteTokens(world.keys.route),
            world.networks,
            LinkKeys(world.keys.link),
            world.random.randbytes,
            unix_now=world.now + self._unix_offset,
        )
        self._world.touch(self)

    def set_clock(self, seconds: float) -> None:
        """Set the wall clock forward by `seconds`, or back."""
        self._unix_offset += seconds

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

    def poll_timeout(self) -> float:
        return self.core.poll_timeout() if self.alive else inf

    def handle_timeout(self, now: float) -> None:
        self.core.handle_timeout(now, now + self._unix_offset)

    def drain(self) -> None:
        for data, target in _take(self.core.link_outbox):
            self._world.deliver_to_transceiver(data, target, self.address)
        for data, target in _take(self.ingress.outbox):
            if self.ingress.away:
                continue  # the kernel sends nothing from an address that is not there
            self._world.send_down(data, target, self._ingress)


def _take(outbox: list[Datagram]) -> list[Datagram]:
    taken = outbox[:]
    outbox.clear()
    return taken
