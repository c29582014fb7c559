"""An attacker that reads every datagram between clients and relays and sends datagrams from any source address.

It cannot modify or drop datagrams (RFC 3552 §3.5). It has no keys, and its network is no faster than that of its
victims. During a handshake it sends no plaintext DTLS records that the peer might send, and it starts no handshake
from the address of a client whose own is not complete: DTLS does not protect a handshake from that
(RFC 6347 §4.1.2.7). It does send messages that the peer's role never sends.
"""

from collections import deque
from random import Random
from typing import NamedTuple

from antiphon_common.demux import Protocol, classify
from antiphon_common.stun import AttributeType, Message, MessageClass
from antiphon_transceiver.dtls.messages import HandshakeType
from antiphon_transceiver.dtls.record import HEADER_SIZE, ContentType
from support.sim.actors import Address, SimulatedClient
from support.sim.world import World

MAX_CAPTURED = 256
REPLAY_DELAY = 0.5
"""Seconds after which a captured datagram may be replayed: longer than the delay of any path."""

SPOOFED_SOURCES = 50_000
"""Number of source addresses that belong to no client."""

_ICE_CHARS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


class CapturedDatagram(NamedTuple):
    """A datagram to or from a client, and the time of its sending."""

    client: SimulatedClient
    data: bytes
    at: float


class OffPathAttacker:
    """Sends a random attack about every `interval` seconds until `stop`. `attacks` counts them."""

    def __init__(self, world: World, random: Random, interval: float) -> None:
        self.attacks = 0
        self.active = True
        self._world = world
        self._random = random
        self._interval = interval
        self._up: deque[CapturedDatagram] = deque(maxlen=MAX_CAPTURED)
        self._down: deque[CapturedDatagram] = deque(maxlen=MAX_CAPTURED)
        self._hellos: deque[tuple[SimulatedClient, bytes, bool]] = deque(maxlen=MAX_CAPTURED)
        """ClientHellos, and whether they were sent by the client."""
        world.observe_datagram = self._capture
        world.later(interval, self._attack)

    def stop(self) -> None:
        self.active = False
        self._world.observe_datagram = None

    def _capture(self, client: SimulatedClient, data: bytes, upwards: bool) -> None:
        (self._up if upwards else self._down).append(CapturedDatagram(client, data, self._world.now))
        if data[0] == ContentType.HANDSHAKE and data[HEADER_SIZE] == HandshakeType.CLIENT_HELLO:
            self._hellos.append((client, data, upwards))

    def _attack(self) -> None:
        if not self.active:
            return
        self.attacks += 1
        choices = [self._junk, self._guess_token, self._junk_to_link]
        slow = self._world.now - REPLAY_DELAY
        if self._up and self._up[0].at < slow:
            choices += [self._replay_up, self._replay_up, self._corrupt_up, self._check_with_token_of_another]
        if self._down and self._down[0].at < slow:
            choices += [self._replay_down, self._corrupt_down]
        if any(not client.connected for client, *_ in self._hellos):
            choices += [self._reflect_client_hello] * 3
        self._random.choice(choices)()
        self._world.later(self._interval * self._random.uniform(0.5, 1.5), self._attack)

    # Towards the relays

    def _junk(self) -> None:
        self._world.send_to_relay(self._noise(), self._any_source())

    def _replay_up(self) -> None:
        client, data = self._choose_captured(self._up)
        source = self._any_source() if self._random.random() < 0.5 else client.address
        if self._may_reach(source, client):
            self._world.send_to_relay(data, source)

    def _corrupt_up(self) -> None:
        client, data = self._choose_captured(self._up)
        if client.connected or classify(data) != Protocol.DTLS:
            self._world.send_to_relay(self._corrupt(data), client.address)

    def _guess_token(self) -> None:
        """Send a check with a random ufrag of valid form."""
        ufrag = "".join(self._random.choices(_ICE_CHARS, k=22)) + self._random.choice("AQgw")
        self._world.send_to_relay(self._request(ufrag), self._any_source())

    def _check_with_token_of_another(self) -> None:
        """Send a check with a client's ufrag, which can be read, but without its password."""
        client, data = self._choose_captured(self._up)
        if data[:2] == b"\0\1":
            username = Message.decode(data).username
            if username is not None:
                request = self._request(username.decode().partition(":")[0])
                self._world.send_to_relay(
                    request, client.address if self._random.random() < 0.5 else self._any_source()
                )

    def _junk_to_link(self) -> None:
        """Send junk to the link sockets, from outside the network of transceivers."""
        header = bytes((0x10 | self._random.getrandbits(2), 0, 17, 0)) + self._random.randbytes(28)
        relay = self._random.choice(self._world.relays)
        relay.receive_link(header + self._noise(), self._spoofed_source())
        self._random.choice(self._world.transceivers).receive(header + self._noise(), relay.address)

    # Towards the clients, with the relay's address

    def _replay_down(self) -> None:
        client, data = self._choose_captured(self._down)
        client.receive(data)

    def _corrupt_down(self) -> None:
        client, data = self._choose_captured(self._down)
        if client.connected or classify(data) != Protocol.DTLS:
            client.receive(self._corrupt(data))

    # Towards either side of a handshake

    def _reflect_client_hello(self) -> None:
        """Reflect a ClientHello to its sender, with the address of its receiver."""
        waiting = [hello for hello in self._hellos if not hello[0].connected]
        client, data, upwards = self._random.choice(waiting)
        if upwards:
            client.receive(data)
        else:
            self._world.send_to_relay(data, client.address)

    # Parts

    def _choose_captured(self, captured: deque[CapturedDatagram]) -> tuple[SimulatedClient, bytes]:
        """Return a captured datagram that has arrived, or was lost, by now."""
        slow = self._world.now - REPLAY_DELAY
        chosen = self._random.choice([datagram for datagram in captured if datagram.at < slow])
        return chosen.client, chosen.data

    def _may_reach(self, source: Address, client: SimulatedClient) -> bool:
        """Return whether a datagram from `source` can start no handshake with another client during its own."""
        others = (other for other in self._world.clients if other.address == source and other is not client)
        return all(other.connected for other in others)

    def _any_source(self) -> Address:
        clients = self._world.clients
        return (
            self._random.choice(clients).address if clients and self._random.random() < 0.4 else self._spoofed_source()
        )

    def _spoofed_source(self) -> Address:
        number = self._random.randrange(SPOOFED_SOURCES)
        return f"198.18.{number >> 8}.{number & 255}", 1024 + number

    def _noise(self) -> bytes:
        """Return random bytes, most of them with the first byte of a protocol of RFC 7983, but never of DTLS."""
        first = self._random.choice((0, 1, 3, 64, 100, 128, 143, 191, 255))
        return bytes((first,)) + self._random.randbytes(self._random.choice((0, 1, 11, 19, 60, 200, 1400)))

    def _corrupt(self, data: bytes) -> bytes:
        corrupted = bytearray(data)
        for _ in range(self._random.randint(1, 3)):
            corrupted[self._random.randrange(len(corrupted))] ^= 1 << self._random.randrange(8)
        return bytes(corrupted)

    def _request(self, ufrag: str) -> bytes:
        attributes: dict[int, bytes] = {
            AttributeType.USERNAME: f"{ufrag}:them".encode(),
            AttributeType.USE_CANDIDATE: b"",
            AttributeType.ICE_CONTROLLING: self._random.randbytes(8),
            AttributeType.PRIORITY: bytes(4),
        }
        return Message(MessageClass.REQUEST, self._random.randbytes(12), attributes).encode(b"no idea")
