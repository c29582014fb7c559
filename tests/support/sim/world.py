"""Whole calls in memory: the real cores of clients, relays, transceivers and backends under virtual time, without
sockets.

Datagrams of clients cross an impaired network, those between services a perfect one. All randomness comes from one
seed. The same seed gives the same datagrams, which `digest` shows.
"""

import heapq
import itertools
from collections.abc import Callable
from hashlib import blake2b
from ipaddress import IPv4Network
from math import inf
from random import Random
from struct import Struct
from typing import Any, NamedTuple

from antiphon.client.call import ClientCall
from antiphon_backend.core import CallCore
from antiphon_common.control import CallAccepted, CallRequest, Setup
from antiphon_common.core import Path
from antiphon_common.keys import SECRET_SIZE, Key, KeyRing
from antiphon_common.routing import ClusterNetworks
from antiphon_common.settings import ClusterNetwork
from antiphon_signaling.sdp import read_offer, write_answer
from antiphon_transceiver.backends import BackendConnection
from antiphon_transceiver.call import Call
from antiphon_transceiver.dtls import Certificate
from antiphon_transceiver.rtp import RtpOptions
from antiphon_transceiver.srtp import SrtpProfile
from support.net.impairment import PERFECT, Impairment
from support.net.middleboxes import Spreader
from support.peers.certificates import certificate
from support.sim.actors import INGRESS, MEDIA, UNIX_START, Actor, Address, SimulatedClient, SimulatedRelay, encoded
from support.sim.caller_codecs import OpusCaller
from support.sim.servers import BACKEND_DELAY, SimulatedBackend, SimulatedTransceiver
from support.sim.speech_source import opus_packet
from support.sim.step_invariants import StepInvariants

__all__ = [
    "INGRESS",
    "MEDIA",
    "SimulatedClient",
    "SimulatedRelay",
    "SimulatedTransceiver",
    "World",
    "certificate",
    "opus_packet",
]

MAX_STEPS_AT_ONCE = 10_000
"""Steps without time passing after which something must be asking for a timeout in the past again and again."""

_TIME = Struct("!d")

TRANSCEIVER_NETWORK = IPv4Network("10.0.1.0/24")


class Rotation(NamedTuple):
    """Another key is used from `mint_at` on, in seconds of the simulation. The first key may retire at `retire_at`."""

    mint_at: float
    retire_at: float | None

    def apply(self, keys: KeyRing, secret: bytes) -> KeyRing:
        retire_after = None if self.retire_at is None else int(UNIX_START + self.retire_at)
        retiring = [key._replace(retire_after=retire_after) for key in keys.keys]
        return KeyRing([*retiring, Key(1, secret, mint_from=int(UNIX_START + self.mint_at))])


class World:
    """All actors of a simulation. `now` is in seconds and begins at zero. Start clients with `call`, then `run`."""

    def __init__(
        self,
        seed: int = 0,
        *,
        relays: int = 1,
        ingresses: int = 1,
        transceivers: int = 1,
        backends: int = 1,
        spray: bool = False,
        rotation: Rotation | None = None,
    ) -> None:
        self.now = 0.0
        self.steps = 0
        self.random = Random(seed)
        self.digest = blake2b(digest_size=16)
        """Of every datagram and message, in order, and of the times of what happened."""
        self.keys = KeyRing.generate(self.random.randbytes)
        if rotation is not None:
            self.keys = rotation.apply(self.keys, self.random.randbytes(SECRET_SIZE))
        self.networks = ClusterNetworks((ClusterNetwork(0, TRANSCEIVER_NETWORK, 1, 65535),))
        self.invariants = StepInvariants(self)
        self.clients: list[SimulatedClient] = []
        self.observe_datagram: Callable[[SimulatedClient, bytes, bool], None] | None = None
        """Called with every datagram to (False) and from (True) a client."""
        self.observers: list[Callable[[], None]] = []
        """Called after every step, to check what must always hold."""
        self._agenda: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = itertools.count()
        self._touched: dict[Actor, None] = {}
        self.ingresses = {INGRESS + number: (f"192.0.2.{1 + number}", MEDIA[1]) for number in range(ingresses)}
        """Their ids, and where callers reach them; relays take turns to have them."""
        ids = itertools.cycle(self.ingresses)
        self.relays = [SimulatedRelay(self, number, next(ids)) for number in range(1, relays + 1)]
        self.transceivers = [SimulatedTransceiver(self, number, backends) for number in range(1, transceivers + 1)]
        self._spreader = Spreader(Random(seed), spray=spray)
        self._relay_at = {relay.address: relay for relay in self.relays}
        self._transceiver_at = {there.encoded_address: there for there in self.transceivers}
        self.run(4 * BACKEND_DELAY)

    # Making calls

    def call(
        self,
        transceiver: int = 0,
        *,
        address: Address | None = None,
        impairment: Impairment = PERFECT,
        rewrite: Callable[[str], str] = lambda answer: answer,
        presents: Certificate | None = None,
        behaviour: str = "loopback",
        audio_format: str = "opus",
        setup: Setup = "actpass",
        srtp_profiles: tuple[SrtpProfile, ...] = tuple(SrtpProfile),
        codec: OpusCaller | None = None,
        options: RtpOptions | None = None,
        data_channels: bool = False,
    ) -> SimulatedClient:
        """Start a call: the offer is answered at once, and the client begins to connect.

        `rewrite` may change the answer. `presents` names a certificate that differs from the offer's. `behaviour` is
        that of the backend.
        """
        number = self.invariants.next_call()
        core = ClientCall(
            certificate("client"),
            self.random.randbytes,
            self.now,
            setup=setup,
            srtp_profiles=srtp_profiles,
            options=options,
            data_channels=data_channels,
        )
        address = address or (f"203.0.113.{number + 1}", 40000)
        codec = codec or OpusCaller()
        client = SimulatedClient(self, core, number, address, impairment, Random(self.random.getrandbits(64)), codec)
        offer = read_offer(codec.offer(core.offer()).encode())
        if presents is not None:
            core.certificate = presents
        session = {"behaviour": behaviour}
        accepted = self.place(transceiver, offer.call_request(client.call_id, "tenant", session), audio_format)
        answer = write_answer(offer, accepted, [*self.ingresses.values()], 1).encode().decode()
        core.accept(rewrite(answer), self.now)
        self.clients.append(client)
        call = self.find(client)
        assert call is not None
        client.home = self.transceivers[transceiver].encoded_address
        client.numbered = codec.numbered and call.backend.format == "opus"
        self.invariants.call_placed(client, call)
        self.drain()
        return client

    def restart_ice(self, client: SimulatedClient) -> None:
        """Restart ICE on a client."""
        offer = read_offer(client.codec.offer(client.core.restart_ice()).encode())
        call = self.find(client)
        assert call is not None
        router = next(there.router for there in self.transceivers if call in list(there.router))
        accepted = router.restart_ice(call, offer.ice, self.now)
        assert accepted is not None
        client.core.accept(write_answer(offer, accepted, [*self.ingresses.values()], 1).encode().decode(), self.now)
        self.drain()

    def place(self, transceiver: int, request: CallRequest, audio_format: str = "opus") -> CallAccepted:
        there = self.transceivers[transceiver]
        router = there.router

        there.selector.preferred_format = audio_format
        backend = there.selector.open(request.call_id, request.tenant, request.session, {}, self.now)
        return router.place(request, backend, self.now)

    def find(self, client: SimulatedClient) -> Call | None:
        """Return the transceiver's half of a client's call, or None after its end."""
        found = (there.router.find(client.call_id, "tenant") for there in self.transceivers)
        return next((call for call in found if call is not None), None)

    def backend_call(self, client: SimulatedClient) -> CallCore | None:
        """Return the backend's half of a client's call, or None without an accepted one."""
        for there in self.transceivers:
            found = there.find_backend_call(client.call_id)
            if found is not None:
                backend, call = found
                self.touch(backend)
                return call
        return None

    @property
    def relay(self) -> Any:
        """The core of the first relay."""
        return self.relays[0].core

    # Time

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Let time pass, at most `seconds`, until `until` holds. Return whether it holds."""
        limit, steps, agenda = self.now + seconds, 0, self._agenda
        self.drain()
        while not until():
            due = agenda[0][0] if agenda else inf
            if due > limit:
                self.now = limit
                return False
            steps = steps + 1 if due <= self.now else 0
            assert steps < MAX_STEPS_AT_ONCE, f"something never stops wanting to be called at {due}"
            self.now = now = max(self.now, due)
            self.digest.update(_TIME.pack(now))
            while agenda and agenda[0][0] <= now:
                _, _, action, arguments = heapq.heappop(agenda)
                action(*arguments)
            self._drain_touched()
            self.steps += 1
            for observe in self.observers:
                observe()
        return True

    def later(self, delay: float, action: Callable[..., None], *arguments: Any) -> None:
        """Call `action` after `delay` seconds."""
        heapq.heappush(self._agenda, (self.now + delay, next(self._order), action, arguments))

    def touch(self, actor: Actor) -> None:
        """Schedule an actor to be drained after a direct action on it."""
        self._touched[actor] = None

    def drain(self) -> None:
        """Drain all cores. Call it after a direct action on one of them."""
        self._touched.update(dict.fromkeys(self._actors()))
        self._drain_touched()

    def _drain_touched(self) -> None:
        touched = self._touched
        drained: dict[Actor, None] = {}
        while touched:
            actor = next(iter(touched))
            del touched[actor]
            drained[actor] = None
            actor.drain()
            actor.due = actor.poll_timeout()
            if actor.due < actor.queued:
                actor.queued = actor.due
                self._at(actor.due, self._wake, actor, actor.due)
        self.invariants.check(drained)

    def _wake(self, actor: Actor, queued: float) -> None:
        """Handle an actor's timeout, unless its deadline moved to later since this was queued."""
        if queued != actor.queued:
            return
        actor.queued = inf
        if actor.due <= self.now:
            actor.handle_timeout(self.now)
        self.touch(actor)

    def _actors(self) -> list[Actor]:
        backends = [backend for there in self.transceivers for backend in there.backends]
        return [*self.clients, *self.transceivers, *backends, *self.relays]

    # Datagrams and messages

    def send_up(self, client: SimulatedClient, data: bytes, path: Path | None) -> None:
        """Send a client's datagram through its network to an address of the answer."""
        self.digest.update(data)
        if self.observe_datagram is not None:
            self.observe_datagram(client, data, True)
        for arrival in client.uplink.arrivals(len(data), self.now):
            self._at(arrival, self.send_to_relay, data, client.address, self._ingress_at(path))

    def _ingress_at(self, path: Path | None) -> int:
        return INGRESS if path is None else INGRESS + path.address[-1] - 1

    def send_to_relay(self, data: bytes, source: Address, ingress: int = INGRESS) -> None:
        """Deliver a datagram with any source address to a public address at once."""
        alive = [relay for relay in self.relays if relay.alive and relay.ingress.id == ingress]
        if alive:
            self._spreader.choose(encoded(*source)[2:8], alive).receive_media(data, source)

    def send_down(self, data: bytes, target: bytes, ingress: int) -> None:
        """Send a relay's datagram through the network of the client at its target."""
        self.digest.update(data)
        for client in self.clients:
            if encoded(*client.address) == target and client.honest:
                if self.observe_datagram is not None:
                    self.observe_datagram(client, data, False)
                for arrival in client.downlink.arrivals(len(data), self.now):
                    self._at(arrival, client.receive, data, self.ingresses[ingress])

    def deliver_to_transceiver(self, data: bytes, target: bytes, relay: Address) -> None:
        self.digest.update(data)
        there = self._transceiver_at.get(target)
        if there is not None:
            there.receive(data, relay)

    def deliver_to_relay(self, data: bytes, target: Address, source: Address) -> None:
        self.digest.update(data)
        self._relay_at[target].receive_link(data, source)

    def deliver_to_backend(self, backend: SimulatedBackend, link: BackendConnection, message: bytes) -> None:
        self.digest.update(message)
        self.later(BACKEND_DELAY, backend.receive, link, message)

    def deliver_from_backend(self, there: SimulatedTransceiver, link: BackendConnection, message: bytes) -> None:
        self.digest.update(message)
        self.later(BACKEND_DELAY, self._receive_from_backend, there, link, message)

    def receive_from_backend(self, there: SimulatedTransceiver, message: bytes) -> None:
        """Deliver one message of a backend to its transceiver."""
        there.receive_message(there.backends[0].connection, message)

    def _receive_from_backend(self, there: SimulatedTransceiver, link: BackendConnection, message: bytes) -> None:
        if link in there.selector.connections:
            there.receive_message(link, message)

    def _at(self, when: float, action: Callable[..., None], *arguments: Any) -> None:
        heapq.heappush(self._agenda, (when, next(self._order), action, arguments))
