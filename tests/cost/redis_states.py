"""Inputs from Redis, where others may have written: entries of the registry, and owners of flows."""

from collections.abc import Callable, Iterable
from contextlib import suppress

import msgspec

from antiphon_common.control import LinkInfo, Load
from antiphon_common.core import Path
from antiphon_common.errors import DecodeError
from antiphon_common.keys import DerivedKeys, KeyRing
from antiphon_common.registry import MAX_REMEMBERED, Registered, RegistryReader, seal
from antiphon_common.sockaddr import encode_address
from antiphon_relay.cache import ABSENT_SECONDS, BATCH, MAX_ABSENT, MAX_PACKETS, MAX_WAITING, MAX_WRITES, FlowCache
from cost.grammars import Rows, Whole
from cost.search import Ready
from support.sim.relay_harness import Relay, client, forward_datagram, take_outboxes

NOW = 1000.0
ENTRY = 1 << 16
"""Bytes of an entry. Redis bounds none."""

VALUE = 27
"""Bytes of a flow's value."""

RTP = b"\x80\x6frtp" + bytes(100)


OWNER = encode_address("10.0.0.5", 9000)


def entries() -> Ready:
    """One entry, when the registry already has its largest number of transceivers."""
    keys = KeyRing.generate(bytes).control
    reader = RegistryReader(keys)
    for number in range(MAX_REMEMBERED):
        reader.read(seal(Registered(f"http://{number}", LinkInfo(0, ()), Load(1, 10)), keys, NOW), NOW)

    def receive(value: bytes) -> None:
        with suppress(DecodeError):
            reader.read(value, NOW)

    return Ready(receive, list(_entries(keys)), Whole(), ENTRY)


def _entries(keys: DerivedKeys) -> Iterable[bytes]:
    """Return entries that are long in each part, some with good tags."""
    addresses = tuple(f"192.0.2.{number % 256}:{number}" for number in range(2500))
    for url, links in (("http://a", ("192.0.2.1:4000",)), ("http://a", addresses), ("http://" + "a" * 60_000, ())):
        yield seal(Registered(url, LinkInfo(0, links), Load(1, 10)), keys, NOW)
    forged = {"key": 0, "tag": "0" * 32}
    bodies: tuple[object, ...] = (
        [1] * 30_000,
        [[]] * 20_000,
        {f"{number:x}": 1 for number in range(6000)},
        "a" * 65_000,
        "ä" * 30_000,
    )
    for body in bodies:
        yield msgspec.json.encode({**forged, "transceiver": body})
    yield msgspec.json.encode({"key": 0, "tag": "a" * 65_000, "transceiver": {}})
    yield msgspec.json.encode({"key": 0, "tag": "ä" * 30_000, "transceiver": {}})
    yield msgspec.json.encode({f"{number:x}": 1 for number in range(6000)})
    yield b'{"transceiver":' + b"[" * 60_000
    yield b'{"transceiver":' + b" " * 65_000 + b"{}}"
    yield b'{"key":' + b"9" * 4000 + b"}"


def full_cache() -> tuple[Relay, FlowCache]:
    """Return a relay with a full flow cache: paths that wait with their packets, paths without an entry, and flows to
    write."""
    relay = Relay(cache_of=0)
    cache = relay.core.cache
    assert cache is not None
    relay.transceiver()
    for number in range(MAX_WRITES + 1):
        cache.store(client(number).encode(), OWNER)
    for turn in range(4):
        relay.now += 1.2 * ABSENT_SECONDS
        for number in range(MAX_WAITING + 1):
            path = Path.of(f"198.{18 + turn}.{number // 250}.{number % 250}", 2000, ingress=client(0).ingress)
            relay.now += 1e-6  # look-ups are limited by rate, too
            for _ in range(MAX_PACKETS if turn == 3 else 1):
                forward_datagram(relay.core, RTP, path, relay.now)
        while turn < 3 and (keys := cache.take_lookups()):
            relay.core.restore(keys, [None] * len(keys), relay.now)
    assert cache.held == MAX_WAITING + MAX_ABSENT
    assert cache.counters.unwritten == 1
    return relay, cache


def packets() -> Ready:
    """A datagram of an unknown flow, or one that waits."""
    relay, _ = full_cache()
    sources = {b"u": client(9), b"w": Path.of("198.21.0.0", 2000, ingress=client(0).ingress)}

    def receive(data: bytes) -> None:
        forward_datagram(relay.core, data[1:], sources.get(data[:1], client(9)), relay.now)
        take_outboxes(relay.core)

    return Ready(receive, [letter + RTP for letter in sources], Whole())


def answers() -> Ready:
    """Responses of Redis for as many paths as one lookup has."""
    relay, cache = full_cache()
    keys = cache.take_lookups()
    assert len(keys) == BATCH
    values = _written(keys)
    poisoned = [value[:-1] + bytes((value[-1] ^ 1,)) for value in values]

    nothing = [None] * len(keys)

    def receive(data: bytes) -> None:
        found = (data[at : at + VALUE] for at in range(0, len(data), VALUE))
        relay.core.restore(keys, [*found, *nothing][: len(keys)], relay.now)

    seeds = [b"".join(values), b"".join(poisoned), b"", bytes(VALUE * BATCH)]
    return Ready(receive, seeds, Rows(VALUE), VALUE * BATCH)


def _written(keys: Iterable[bytes]) -> list[bytes]:
    """Return the entries that another relay writes when the owner confirms these paths."""
    other = Relay(cache_of=0)
    cache = other.core.cache
    assert cache is not None
    for key in keys:
        cache.store(key, OWNER)
    return [value for _, value in cache.take_writes()]


REGISTRY_STATES: dict[str, Callable[[], Ready]] = {"entries": entries}
CACHE_STATES: dict[str, Callable[[], Ready]] = {"flow cache full": packets, "answers of the flow cache": answers}
