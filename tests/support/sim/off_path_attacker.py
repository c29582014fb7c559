"""An attacker who sees every datagram between clients and relays, and sends what it likes from wherever it likes.

It has no keys, and its own network is no faster than its victims'. While a handshake is under way it forges no plain
DTLS that the peer might have sent, nor has a transceiver begin one with somebody else who has not finished his own:
nothing protects a handshake from that (RFC 6347 §4.1.2.7). What the peer's role never sends, it does send.
"""

from collections import deque
from random import Random
from typing import NamedTuple

from antiphon_common.demux import Protocol, classify
from antiphon_common.stun import Attribute, Message, MessageClass
from antiphon_transceiver.dtls.messages import HandshakeType
from antiphon_transceiver.dtls.record import HEADER_SIZE, ContentType
from support.sim.actors import Address, Client
from support.sim.world import World

REMEMBERED = 256
SLOWNESS = 0.5
"""Seconds until what was overheard can be sent again: longer than any path takes."""

STRANGERS = 50_000
"""Addresses of its own choice."""

_ICE_CHARS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


class Overheard(NamedTuple):
    client: Client
    data: bytes
    at: float


class Forger:
    """Strikes every `interval` seconds until stopped. `strikes` counts."""

    def __init__(self, world: World, random: Random, interval: float) -> None:
        self.strikes = 0
        self.active = True
        self._world = world
        self._random = random
        self._interval = interval
        self._up: deque[Overheard] = deque(maxlen=REMEMBERED)
        self._down: deque[Overheard] = deque(maxlen=REMEMBERED)
        self._hellos: deque[tuple[Client, bytes, bool]] = deque(maxlen=REMEMBERED)
        """ClientHellos, and whether they went up."""
        world.overheard = self._overhear
        world.later(interval, self._strike)

    def stop(self) -> None:
        self.active = False
        self._world.overheard = None

    def _overhear(self, client: Client, data: bytes, upwards: bool) -> None:
        (self._up if upwards else self._down).append(Overheard(client, data, self._world.now))
        if data[0] == ContentType.HANDSHAKE and data[HEADER_SIZE] == HandshakeType.CLIENT_HELLO:
            self._hellos.append((client, data, upwards))

    def _strike(self) -> None:
        if not self.active:
            return
        self.strikes += 1
        attacks = [self._junk, self._guess_token, self._junk_on_the_link]
        slow = self._world.now - SLOWNESS
        if self._up and self._up[0].at < slow:
            attacks += [self._replay_up, self._replay_up, self._bend_up, self._check_for_another]
        if self._down and self._down[0].at < slow:
            attacks += [self._replay_down, self._bend_down]
        if any(not client.connected for client, *_ in self._hellos):
            attacks += [self._echo_hello] * 3
        self._random.choice(attacks)()
        self._world.later(self._interval * self._random.uniform(0.5, 1.5), self._strike)

    # Towards the relays

    def _junk(self) -> None:
        self._world.send_to_relay(self._noise(), self._anywhere())

    def _replay_up(self) -> None:
        client, data = self._recall(self._up)
        source = self._anywhere() if self._random.random() < 0.5 else client.address
        if self._may_reach(source, client):
            self._world.send_to_relay(data, source)

    def _bend_up(self) -> None:
        client, data = self._recall(self._up)
        if client.connected or classify(data) != Protocol.DTLS:
            self._world.send_to_relay(self._bend(data), client.address)

    def _guess_token(self) -> None:
        """Ask for an owner by a ufrag of the right form."""
        ufrag = "".join(self._random.choices(_ICE_CHARS, k=22)) + self._random.choice("AQgw")
        self._world.send_to_relay(self._request(ufrag), self._anywhere())

    def _check_for_another(self) -> None:
        """Ask for a client's call, whose ufrag can be seen but not its password."""
        client, data = self._recall(self._up)
        if data[:2] == b"\0\1":
            username = Message.decode(data).username
            if username is not None:
                request = self._request(username.decode().partition(":")[0])
                self._world.send_to_relay(request, client.address if self._random.random() < 0.5 else self._anywhere())

    def _junk_on_the_link(self) -> None:
        """The link's sockets can be reached, if only from outside the network of transceivers."""
        header = bytes((0x10 | self._random.getrandbits(2), 0, 17, 0)) + self._random.randbytes(28)
        relay = self._random.choice(self._world.relays)
        relay.receive_link(header + self._noise(), self._stranger())
        self._random.choice(self._world.transceivers).receive(header + self._noise(), relay.address)

    # Towards the clients, in the relay's name

    def _replay_down(self) -> None:
        client, data = self._recall(self._down)
        client.receive(data)

    def _bend_down(self) -> None:
        client, data = self._recall(self._down)
        if client.connected or classify(data) != Protocol.DTLS:
            client.receive(self._bend(data))

    # Towards either side of a handshake

    def _echo_hello(self) -> None:
        """Send a ClientHello to the one that sent it, in the name of the other."""
        waiting = [hello for hello in self._hellos if not hello[0].connected]
        client, data, upwards = self._random.choice(waiting)
        if upwards:
            client.receive(data)
        else:
            self._world.send_to_relay(data, client.address)

    # Parts

    def _recall(self, overheard: deque[Overheard]) -> tuple[Client, bytes]:
        """Choose a datagram that has arrived, or was lost, by now."""
        slow = self._world.now - SLOWNESS
        chosen = self._random.choice([one for one in overheard if one.at < slow])
        return chosen.client, chosen.data

    def _may_reach(self, source: Address, client: Client) -> bool:
        """Whether sending in this address's name can begin a handshake with nobody who is in the middle of his own."""
        others = (other for other in self._world.clients if other.address == source and other is not client)
        return all(other.connected for other in others)

    def _anywhere(self) -> Address:
        clients = self._world.clients
        return self._random.choice(clients).address if clients and self._random.random() < 0.4 else self._stranger()

    def _stranger(self) -> Address:
        number = self._random.randrange(STRANGERS)
        return f"198.18.{number >> 8}.{number & 255}", 1024 + number

    def _noise(self) -> bytes:
        """Bytes of which most look like one protocol or another at first sight (RFC 7983), but never like DTLS."""
        first = self._random.choice((0, 1, 3, 64, 100, 128, 143, 191, 255))
        return bytes((first,)) + self._random.randbytes(self._random.choice((0, 1, 11, 19, 60, 200, 1400)))

    def _bend(self, data: bytes) -> bytes:
        bent = bytearray(data)
        for _ in range(self._random.randint(1, 3)):
            bent[self._random.randrange(len(bent))] ^= 1 << self._random.randrange(8)
        return bytes(bent)

    def _request(self, ufrag: str) -> bytes:
        attributes: dict[int, bytes] = {
            Attribute.USERNAME: f"{ufrag}:them".encode(),
            Attribute.USE_CANDIDATE: b"",
            Attribute.ICE_CONTROLLING: self._random.randbytes(8),
            Attribute.PRIORITY: bytes(4),
        }
        return Message(MessageClass.REQUEST, self._random.randbytes(12), attributes).encode(b"no idea")
