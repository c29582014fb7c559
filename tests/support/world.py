"""Whole calls in memory: clients, a relay, transceivers and a backend, all of them the real cores, under virtual time.

Only sockets are missing. Datagrams of clients cross an impaired network, those between services a perfect one.
"""

import functools
import heapq
import itertools
from collections.abc import Callable
from ipaddress import IPv4Network
from random import Random

from antiphon.client.call import ClientCall, Connected
from antiphon.client.call import Event as ClientEvent
from antiphon_backend.core import BackendSession, CallOffered, Slots
from antiphon_common.control import CallAccepted, CallRequest
from antiphon_common.core import Path
from antiphon_common.frame_connection import ConnectionCounters
from antiphon_common.keys import KeyRing
from antiphon_common.link import LinkKeys, Owner
from antiphon_common.routing import ClusterNetworks, RouteTokens
from antiphon_common.settings import ClusterNetwork
from antiphon_relay.flows import Ingress
from antiphon_relay.forwarder import LINK, Forwarder
from antiphon_signaling.sdp import read_offer, write_answer
from antiphon_transceiver.backends import BackendLink, InboundFrame
from antiphon_transceiver.backends.call import LinkCounters
from antiphon_transceiver.call import Call
from antiphon_transceiver.dtls import Certificate
from antiphon_transceiver.switchboard import Event as SwitchboardEvent
from antiphon_transceiver.switchboard import Switchboard
from support.impairment import PERFECT, ImpairedLink, Impairment

INGRESS = 1
MEDIA = ("192.0.2.1", 3478)
RELAY_LINK = ("10.0.0.1", 7000)
FRAME_SECONDS, FRAME_TICKS = 0.02, 960
BACKEND_DELAY = 0.0005
MAX_STEPS_AT_ONCE = 10_000


@functools.cache
def certificate(name: str) -> Certificate:
    """Return the certificate that `name` has in this run of the tests."""
    return Certificate.generate()


class Client:
    """A caller that says numbered packets and keeps what comes back. Change `address` for a NAT rebinding."""

    def __init__(self, world: "World", core: ClientCall, address: tuple[str, int], impairment: Impairment) -> None:
        self.core = core
        self.address = address
        self.uplink = ImpairedLink(impairment, world.random)
        self.downlink = ImpairedLink(impairment, world.random)
        self.events: list[ClientEvent] = []
        self.next_frame: float | None = None
        self.said: list[bytes] = []

    @property
    def connected(self) -> bool:
        return any(isinstance(event, Connected) for event in self.events)

    def poll_timeout(self) -> float | None:
        if self.core.closed is not None:
            return None
        deadlines = (self.core.poll_timeout(), self.next_frame)
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def handle_timeout(self, now: float) -> None:
        if self.next_frame is not None and now >= self.next_frame:
            packet = opus_packet(len(self.said))
            self.core.send_audio(packet, len(self.said) * FRAME_TICKS, now)
            self.said.append(packet)
            self.next_frame += FRAME_SECONDS
        self.core.handle_timeout(now)


def opus_packet(number: int) -> bytes:
    """Return bytes that pass for 20 ms of Opus (CELT, fullband, one frame) and carry a number."""
    return bytes((31 << 3,)) + number.to_bytes(4, "big") * 10


class Transceiver:
    """A switchboard, its link address, and one connection to a loopback backend."""

    def __init__(self, world: "World", number: int) -> None:
        self.address = (f"10.0.1.{number}", 7000)
        owner = Owner(0, world.networks.host_of(0, self.address[0]), self.address[1])
        self.switchboard = Switchboard(
            owner,
            RouteTokens(world.keys.route),
            LinkKeys(world.keys.link),
            certificate("transceiver"),
            world.random.randbytes,
            unix_offset=0.0,
            ntp_offset=0.0,
        )
        self.events: list[SwitchboardEvent] = []
        self.link = BackendLink(LinkCounters(), world.now)
        self.backend = BackendSession(Slots(1000), ("opus",), ConnectionCounters(), world.now)


class World:
    """Everything a call needs. `now` is in seconds and begins at zero."""

    def __init__(self, seed: int = 0, *, transceivers: int = 1) -> None:
        self.now = 0.0
        self.random = Random(seed)
        self.keys = KeyRing.generate(self.random.randbytes)
        self.networks = ClusterNetworks((ClusterNetwork(0, IPv4Network("10.0.1.0/24"), 1, 65535),))
        self.ingress = Ingress(INGRESS, 16)
        self.relay = Forwarder(
            [self.ingress],
            16,
            RouteTokens(self.keys.route),
            self.networks,
            LinkKeys(self.keys.link),
            self.random.randbytes,
            unix_offset=0.0,
        )
        self.transceivers = [Transceiver(self, number) for number in range(1, transceivers + 1)]
        self.clients: list[Client] = []
        self.observers: list[Callable[[], None]] = []
        """Called after every step, to check what must always hold."""
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self.drain()
        self.run(4 * BACKEND_DELAY)

    # Making calls

    def call(
        self,
        transceiver: int = 0,
        *,
        address: tuple[str, int] | None = None,
        impairment: Impairment = PERFECT,
        rewrite: Callable[[str], str] = lambda answer: answer,
        presents: Certificate | None = None,
    ) -> Client:
        """Let a client call: its offer is answered at once, and it begins to connect. `rewrite` may tamper with the
        answer; `presents` is another certificate than the offer announces."""
        core = ClientCall(certificate("client"), self.random.randbytes, self.now)
        client = Client(self, core, address or (f"203.0.113.{len(self.clients) + 1}", 40000), impairment)
        offer = read_offer(core.offer().encode())
        if presents is not None:
            core.certificate = presents
        call_id = f"rtc_{len(self.clients)}"
        accepted = self.place(transceiver, offer.call_request(call_id, "tenant", {}))
        answer = write_answer(offer, accepted, [MEDIA], 1).encode().decode()
        core.accept(rewrite(answer), self.now)
        self.clients.append(client)
        self.drain()
        return client

    def restart_ice(self, client: Client) -> None:
        """Let a client restart ICE."""
        offer = read_offer(client.core.restart_ice().encode())
        call = self.find(client)
        assert call is not None
        switchboard = next(there.switchboard for there in self.transceivers if call in list(there.switchboard))
        accepted = switchboard.restart_ice(call, offer.ice, self.now)
        client.core.accept(write_answer(offer, accepted, [MEDIA], 1).encode().decode(), self.now)
        self.drain()

    def place(self, transceiver: int, request: CallRequest) -> CallAccepted:
        there = self.transceivers[transceiver]
        switchboard = there.switchboard

        def sink(frame: InboundFrame, now: float) -> None:
            found = switchboard.find(request.call_id, request.tenant)
            if found is not None:
                switchboard.receive_frame(found, frame, now)

        audio_format = there.link.choose_format("opus")
        assert audio_format is not None
        backend = there.link.open(audio_format, request.call_id, request.tenant, {}, {}, sink, self.now)
        return switchboard.place(request, backend, self.now)

    def find(self, client: Client) -> Call | None:
        """Return the transceiver's half of a client's call while it runs."""
        call_id = f"rtc_{self.clients.index(client)}"
        found = (there.switchboard.find(call_id, "tenant") for there in self.transceivers)
        return next((call for call in found if call is not None), None)

    # Time

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Let time pass, at most `seconds`, until `until` holds; tell whether it does."""
        limit, steps = self.now + seconds, 0
        while not until():
            due = self._next_due()
            if due is None or due > limit:
                self.now = limit
                return False
            steps = steps + 1 if due <= self.now else 0
            assert steps < MAX_STEPS_AT_ONCE, f"something never stops wanting to be called at {due}"
            self.now = max(self.now, due)
            self._step()
            for observe in self.observers:
                observe()
        return True

    def later(self, delay: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (self.now + delay, next(self._order), action))

    def _next_due(self) -> float | None:
        due: list[float | None] = [self._agenda[0][0]] if self._agenda else []
        due += [client.poll_timeout() for client in self.clients]
        due += [there.switchboard.poll_timeout() for there in self.transceivers]
        due.append(self.relay.poll_timeout())
        return min((at for at in due if at is not None), default=None)

    def _step(self) -> None:
        if self._agenda and self._agenda[0][0] <= self.now:
            heapq.heappop(self._agenda)[2]()
        else:
            for client in self.clients:
                deadline = client.poll_timeout()
                if deadline is not None and deadline <= self.now:
                    client.handle_timeout(self.now)
            for there in self.transceivers:
                deadline = there.switchboard.poll_timeout()
                if deadline is not None and deadline <= self.now:
                    there.switchboard.handle_timeout(self.now)
            if self.relay.poll_timeout() <= self.now:
                self.relay.handle_timeout(self.now)
        self.drain()

    # Datagrams and messages

    def drain(self) -> None:
        """Send on what every core has to say; call it after touching one by hand."""
        for client in self.clients:
            self._drain_client(client)
        for there in self.transceivers:
            self._drain_transceiver(there)

    def send_to_relay(self, data: bytes, source: tuple[str, int]) -> None:
        """Bring a datagram to the public address, now, from whatever address it claims to come from."""
        self.relay.receive_datagram(data, Path.of(*source, ingress=INGRESS), self.now)
        self._drain_relay()

    def _drain_client(self, client: Client) -> None:
        while (transmit := client.core.poll_transmit()) is not None:
            data = transmit.data
            for arrival in client.uplink.arrivals(len(data), self.now):
                self.later(arrival - self.now, functools.partial(self.send_to_relay, data, client.address))
        while (event := client.core.poll_event()) is not None:
            client.events.append(event)

    def _drain_relay(self) -> None:
        while (transmit := self.relay.poll_transmit()) is not None:
            assert transmit.path is not None
            target = (transmit.path.host, transmit.path.port)
            if transmit.path.ingress == LINK:
                for there in self.transceivers:
                    if there.address == target:
                        there.switchboard.receive_datagram(transmit.data, RELAY_LINK, self.now)
                        self._drain_transceiver(there)
            else:
                self._send_to_client(transmit.data, target)

    def _send_to_client(self, data: bytes, target: tuple[str, int]) -> None:
        for client in self.clients:
            if client.address == target:
                for arrival in client.downlink.arrivals(len(data), self.now):
                    self.later(arrival - self.now, functools.partial(self._receive_at_client, client, data))

    def _receive_at_client(self, client: Client, data: bytes) -> None:
        client.core.receive_datagram(data, Path.of(*MEDIA), self.now)

    def _drain_transceiver(self, there: Transceiver) -> None:
        while (transmit := there.switchboard.poll_transmit()) is not None:
            path = Path.of(*there.address, ingress=LINK)
            self.later(0.0, functools.partial(self._receive_at_relay_link, transmit.data, path))
        while (event := there.switchboard.poll_event()) is not None:
            there.events.append(event)
        self._drain_backend(there)

    def _receive_at_relay_link(self, data: bytes, path: Path) -> None:
        self.relay.receive_datagram(data, path, self.now)
        self._drain_relay()

    def _drain_backend(self, there: Transceiver) -> None:
        while (message := there.link.poll_transmit()) is not None:
            self.later(BACKEND_DELAY, functools.partial(self._receive_at_backend, there, message))
        while (message := there.backend.poll_transmit()) is not None:
            self.later(BACKEND_DELAY, functools.partial(self.receive_from_backend, there, message))

    def _receive_at_backend(self, there: Transceiver, message: bytes) -> None:
        there.backend.receive_message(message, self.now)
        while (event := there.backend.poll_event()) is not None:
            call = event.call
            if isinstance(event, CallOffered):
                call.start_response()
            while call.reason is None and call.audio.frames:
                frame = call.audio.frames.popleft()
                if frame.data:
                    call.say(frame.data)

    def receive_from_backend(self, there: Transceiver, message: bytes) -> None:
        """Give a transceiver one message of its backend."""
        there.link.receive_message(message, self.now)
        while (delivery := there.link.poll_event()) is not None:
            delivery.call.sink(delivery.frame, self.now)
