"""ICE agents, the relay and the transceiver behind it, with inputs of unauthenticated senders and of link owners."""

import hmac
from collections.abc import Callable
from hashlib import sha1
from random import Random
from typing import Any
from zlib import crc32

from antiphon_common.control import IceParameters
from antiphon_common.core import Path
from antiphon_common.link import Announce, Confirm, LinkKeys, LinkMessage, Release
from antiphon_transceiver.ice import ControlledAgent
from antiphon_transceiver.ice.paths import MAX_PATHS
from cost.drive import drain
from cost.grammars import StunAttributes, Whole
from cost.search import Ready
from support.sim.relay_harness import LINK, forward_datagram, take_outboxes
from support.sim.world import World

LOCAL, REMOTE = IceParameters("local", "p" * 24), IceParameters("remote", "q" * 24)
USERNAME = b"\0\6\0\x0clocal:remote"
PRIORITY, CONTROLLING, NOMINATION = b"\0\x24\0\4\x6e\0\x1e\xff", b"\x80\x2a\0\x08" + bytes(8), b"\0\x25\0\0"


def signed(message: bytes, password: bytes) -> bytes:
    """Return a STUN message with MESSAGE-INTEGRITY and FINGERPRINT behind what it has (RFC 8489 §14.5, §14.7)."""
    message = message[: 20 + (len(message) - 20) // 4 * 4].ljust(20, b"\0")
    body = message[:2] + (len(message) - 20 + 24).to_bytes(2, "big") + message[4:]
    body += b"\0\x08\0\x14" + hmac.digest(password, body, sha1)
    whole = body[:2] + (len(body) - 20 + 8).to_bytes(2, "big") + body[4:]
    return whole + b"\x80\x28\0\4" + (crc32(whole) ^ 0x5354554E).to_bytes(4, "big")


def request(*attributes: bytes, number: int = 1, kind: bytes = b"\0\1") -> bytes:
    body = b"".join(attributes)
    return kind + len(body).to_bytes(2, "big") + b"\x21\x12\xa4\x42" + number.to_bytes(12, "big") + body


def requests() -> list[bytes]:
    usual = request(USERNAME, PRIORITY, CONTROLLING)
    unknown = b"".join((0x7000 + number).to_bytes(2, "big") + b"\0\0" for number in range(270))
    return [
        usual,
        request(USERNAME, PRIORITY, CONTROLLING, NOMINATION),
        request(USERNAME, unknown),
        request(unknown, USERNAME),
        request(USERNAME * 50),
        request(USERNAME, b"\0\x0a\x04\0" + bytes(1024)),
        request(USERNAME, PRIORITY, b"\x80\x29\0\x08" + bytes(8)),
        request(USERNAME, PRIORITY, kind=b"\1\1"),
        request(USERNAME, PRIORITY, kind=b"\1\x11"),
        request(b"\0\6\4\0" + b"x" * 1024),
    ]


def _ice(paths: int, *, sign: bool) -> Callable[[], Ready]:
    def prepare() -> Ready:
        agent, now = ControlledAgent(LOCAL, REMOTE, Random(0).randbytes), 1.0
        for number in range(paths):
            check = signed(request(USERNAME, PRIORITY, CONTROLLING, NOMINATION, number=number), b"p" * 24)
            agent.receive_datagram(check, Path.of("192.0.2.7", 1000 + number, ingress=1), now)
            drain(agent, now)
        assert len(agent.paths) == paths
        source = Path.of("192.0.2.9", 5000, ingress=1)

        def receive(data: bytes) -> None:
            agent.receive_datagram(data, source, now)
            drain(agent, now)

        wrap = (lambda data: signed(data, b"p" * 24)) if sign else bytes
        seeds = requests() if sign else [*requests(), *(signed(one, b"wrong") for one in requests())]
        return Ready(receive, seeds, StunAttributes(), wrap=wrap)

    return prepare


def _talking(calls: int) -> World:
    world = World(0)
    clients = [world.call(data_channels=True) for _ in range(calls)]
    world.run(2.0, lambda: all(client.connected for client in clients))
    for client in clients:
        client.talk()
    world.run(0.5)
    return world


def _datagrams(world: World) -> list[bytes]:
    """Return the datagrams of one more caller: those of its set-up, and those of its audio."""
    sent: list[bytes] = []
    world.observe_datagram = lambda client, data, up: sent.append(data) if up else None
    late = world.call(data_channels=True)
    world.run(1.0, lambda: late.connected)
    late.talk()
    world.run(0.1)
    world.observe_datagram = None
    return sent


def relay_public() -> Ready:
    """The relay with flows of calls and of thousands of other paths. Its inputs are unauthenticated datagrams."""
    world = _talking(2)
    relay, now = world.relays[0], world.now
    keys, owner = LinkKeys(world.keys.link), Path.of(*world.transceivers[0].address, ingress=LINK)
    for number in range(4000):
        path = Path.of(f"198.18.{number // 250}.{number % 250}", 2000, ingress=1)
        forward_datagram(relay.core, keys.encode(Confirm(path), now), owner, now)
    assert len(relay.core.flows) >= 4000
    known, stranger = Path.of(*world.clients[0].address, ingress=1), Path.of("198.51.100.7", 7777, ingress=1)
    seeds = [source + data for data in _datagrams(world) for source in (b"k", b"s")]

    def receive(data: bytes) -> None:
        forward_datagram(relay.core, data[1:], known if data[:1] == b"k" else stranger, now)
        relay.core.handle_timeout(now, now)
        take_outboxes(relay.core)

    return Ready(receive, [*seeds, *(b"s" + one for one in requests())], Whole())


def relay_link() -> Ready:
    """The same relay, with inputs over its link from the owner of paths: messages with valid tags."""
    world = _talking(2)
    relay, now = world.relays[0], world.now
    keys, owner = LinkKeys(world.keys.link), Path.of(*world.transceivers[0].address, ingress=LINK)
    paths = tuple(Path.of(f"198.18.0.{number}", 2000, ingress=1) for number in range(60))
    messages: list[LinkMessage] = [Announce(paths), Confirm(paths[0]), Release(paths[0])]

    def receive(data: bytes) -> None:
        forward_datagram(relay.core, data, owner, now)
        relay.core.handle_timeout(now, now)
        take_outboxes(relay.core)

    return Ready(receive, [keys.encode(message, now) for message in messages], Whole())


def _transceiver(*, known: bool) -> Callable[[], Ready]:
    def prepare() -> Ready:
        world = _talking(3)
        there: Any = world.transceivers[0]
        address = world.clients[0].address if known else ("198.51.100.7", 7777)
        header = LinkKeys(world.keys.link).header(Path.of(*address, ingress=1), 0, world.now)
        relay, now, router = world.relays[0].address, world.now, there.router

        def receive(data: bytes) -> None:
            router.receive_datagram(header + data, relay, now)
            drain(router, now)
            while (message := there.backends[0].connection.poll_transmit()) is not None:
                assert message

        return Ready(receive, [*_datagrams(world), *requests()], StunAttributes())

    return prepare


ICE_STATES: dict[str, Callable[[], Ready]] = {
    "new, signed": _ice(0, sign=True),
    "paths full, signed": _ice(MAX_PATHS, sign=True),
    "paths full, unsigned": _ice(MAX_PATHS, sign=False),
}
RELAY_STATES: dict[str, Callable[[], Ready]] = {"public side": relay_public, "link": relay_link}
STATES: dict[str, Callable[[], Ready]] = {
    "path of a call": _transceiver(known=True),
    "unknown path": _transceiver(known=False),
}
