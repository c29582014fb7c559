"""The flow cache: how relays share the owners of their flows in Redis. This is its core, without the IO.

A packet of an unknown flow waits, for 50 ms at most, while its path is looked up. A value names the owner of a path.
It is sealed with the key of the link, so that write access to Redis is not enough to redirect packets:

    key id u8 | port and address of the owner's link (18 bytes) | tag (8 bytes)

The tag is keyed BLAKE2b (RFC 7693) over path and owner. A value may be an old one that was replayed, so a restored flow
goes to the first owner that answers. Packets from spoofed sources cost one look-up for each path and second, within the
limits here. A Redis that fails is tried again after a second.
"""

import hmac
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import NamedTuple

from antiphon_common.keys import DerivedKeys
from antiphon_common.sockaddr import from_port_and_address, port_and_address
from antiphon_relay.flows import Datagram, Ingress
from antiphon_relay.limits import Bucket

KEPT_SECONDS = 60
"""How long Redis keeps an entry."""
WRITE_INTERVAL = 20.0
"""Seconds after which a flow is written again, when its owner confirms it again."""
MAX_WRITES = 8192
"""Flows that wait to be written; beyond them the oldest is dropped."""
BATCH = 512
"""Paths in one request to Redis: 2.5 ms of work."""

WAIT_SECONDS = 0.05
"""How long a packet waits: a jitter buffer discards it after about as long."""
MAX_WAITING = 4096
"""Paths that wait for their look-up: all flows of a relay that has died."""
MAX_PACKETS = 4
"""Packets of one path that wait: as many as a call sends in 50 ms."""
LOOKUPS_PER_SECOND, LOOKUPS_AT_ONCE = 4000.0, 4096
"""Look-ups, 5 µs each: a flood of unknown flows costs at most a fiftieth of a processor."""
ABSENT_SECONDS = 1.0
"""How long a path without a value is not looked up again."""
MAX_ABSENT = 8192
"""Such paths that are remembered: those of two seconds of look-ups."""
MAX_FAILURES = 3
"""Failures in a row after which Redis is used no longer, but for a try each `RETRY_SECONDS`."""
RETRY_SECONDS = 1.0
"""Between two tries of a Redis that fails."""

_TAG_SIZE = 8
_PERSON = b"antiphon/flow"
_SIZE = 1 + 18 + _TAG_SIZE


class CacheCounters:
    """Counts look-ups, packets and writes. They are exported as `antiphon_relay_cache_*`.

    Paths `asked` for, and of these the ones `found`, `absent` or `poisoned`. Packets that `waited`, and those dropped:
    `late` ones, and ones `refused` beyond a limit or while Redis fails. Flows `written`, and those `unwritten` because
    too many wait. `failures` of Redis.
    """

    __slots__ = (
        "absent", "asked", "failures", "found", "late", "poisoned", "refused", "unwritten", "waited", "written",
    )  # fmt: skip

    def __init__(self) -> None:
        self.asked = 0
        self.found = 0
        self.absent = 0
        self.poisoned = 0
        self.waited = 0
        self.late = 0
        self.refused = 0
        self.written = 0
        self.unwritten = 0
        self.failures = 0


class Found(NamedTuple):
    """A path that was found: its owner's encoded link address, and its packets that waited in time."""

    key: bytes
    owner: bytes
    ingress: Ingress
    packets: Sequence[Datagram]


class _Waiting:
    __slots__ = ("ingress", "packets", "until")

    def __init__(self, ingress: Ingress, packet: Datagram, until: float) -> None:
        self.ingress = ingress
        self.packets = [packet]
        self.until = until


class FlowCache:
    """The flow cache of one relay worker. The forwarder lets packets `wait` and stores flows; a task does the IO.

    The task takes look-ups and writes, and reports each result. `unix_now` is Unix time in seconds, by which keys begin
    and retire. Each `handle_timeout` brings it up to date.
    """

    def __init__(self, cluster: int, keys: DerivedKeys, *, unix_now: float) -> None:
        self.counters = CacheCounters()
        self._prefix = f"antiphon:{cluster}:flow:"
        self._keys = keys
        self._unix_now = unix_now
        self._limit = Bucket(LOOKUPS_PER_SECOND, LOOKUPS_AT_ONCE)
        self._waiting: dict[bytes, _Waiting] = {}
        self._lookups: list[bytes] = []
        self._absent: dict[bytes, float] = {}
        self._unwritten: dict[bytes, bytes] = {}
        self._writing: dict[bytes, bytes] = {}
        self._failures = 0
        self._retry_at = 0.0

    def name(self, key: bytes) -> str:
        """Return the Redis key of a path."""
        return self._prefix + key.hex()

    @property
    def held(self) -> int:
        """Number of paths of unknown flows that are remembered."""
        return len(self._waiting) + len(self._absent)

    # Looking up

    @property
    def has_lookups(self) -> bool:
        """Whether there is a path to look up."""
        return bool(self._lookups)

    def is_open(self, now: float) -> bool:
        """Whether Redis may be used now."""
        return self._failures < MAX_FAILURES or now >= self._retry_at

    def wait(self, ingress: Ingress, packet: Datagram, now: float) -> None:
        """Let a packet of an unknown flow wait while its path is looked up, unless a limit is reached."""
        key = ingress.key(packet[1])
        waiting = self._waiting.get(key)
        if waiting is not None and now < waiting.until and len(waiting.packets) < MAX_PACKETS:
            waiting.packets.append(packet)
            self.counters.waited += 1
            return
        until = self._absent.get(key)
        if (
            waiting is not None
            or (until is not None and now < until)
            or len(self._waiting) >= MAX_WAITING
            or not self.is_open(now)
            or not self._limit.allow(now)
        ):
            self.counters.refused += 1
            return
        self._waiting[key] = _Waiting(ingress, packet, now + WAIT_SECONDS)
        self._lookups.append(key)
        self.counters.waited += 1

    def take_lookups(self) -> list[bytes]:
        """Return paths to look up, at most `BATCH`. Call `lookup_succeeded` or `lookup_failed` with them next."""
        keys, self._lookups = self._lookups[:BATCH], self._lookups[BATCH:]
        self.counters.asked += len(keys)
        return keys

    def lookup_succeeded(self, keys: Iterable[bytes], values: Iterable[bytes | None], now: float) -> Iterator[Found]:
        """Take the values of these paths; yield the paths that have an owner."""
        self._failures = 0
        for key, value in zip(keys, values, strict=True):
            waiting = self._waiting.pop(key, None)
            owner = self._open(key, value) if value is not None else None
            self.counters.absent += value is None
            if owner is None:
                self._remember_absent(key, now)
            elif waiting is not None:
                self.counters.found += 1
                if now >= waiting.until:
                    self.counters.late += len(waiting.packets)
                    waiting.packets.clear()
                yield Found(key, owner, waiting.ingress, waiting.packets)

    def lookup_failed(self, keys: Iterable[bytes], now: float) -> None:
        """Drop the packets of these paths: Redis did not answer."""
        self._fail(now)
        for key in keys:
            self._drop(key)

    def _fail(self, now: float) -> None:
        self.counters.failures += 1
        self._failures += 1
        self._retry_at = now + RETRY_SECONDS

    def handle_timeout(self, now: float, unix_now: float) -> None:
        """Drop packets that have waited too long, and let absent paths be looked up again."""
        self._unix_now = unix_now
        for key in [key for key, waiting in self._waiting.items() if now >= waiting.until + RETRY_SECONDS]:
            self._drop(key)
        self._absent = {key: until for key, until in self._absent.items() if now < until}
        self._lookups = [key for key in self._lookups if key in self._waiting] if self.is_open(now) else []

    def _drop(self, key: bytes) -> None:
        waiting = self._waiting.pop(key, None)
        if waiting is not None:
            self.counters.late += len(waiting.packets)

    def _remember_absent(self, key: bytes, now: float) -> None:
        if len(self._absent) >= MAX_ABSENT:
            del self._absent[next(iter(self._absent))]
        self._absent[key] = now + ABSENT_SECONDS

    # Writing behind

    def store(self, key: bytes, owner: bytes) -> None:
        """Have a path written with its owner's encoded link address."""
        self._unwritten.pop(key, None)
        self._unwritten[key] = owner
        self._bound_writes()

    def take_writes(self) -> list[tuple[str, bytes]]:
        """Return Redis keys and values, at most `BATCH`. Call `write_succeeded` or `write_failed` next."""
        self._writing = {key: self._unwritten.pop(key) for key in list(self._unwritten)[:BATCH]}
        return [(self.name(key), self._seal(key, owner)) for key, owner in self._writing.items()]

    def write_succeeded(self) -> None:
        """Count the batch as written."""
        self._failures = 0
        self.counters.written += len(self._writing)
        self._writing = {}

    def write_failed(self, now: float) -> None:
        """Keep the batch for the next write, except for flows that were stored again meanwhile."""
        self._fail(now)
        self._unwritten = self._writing | self._unwritten
        self._writing = {}
        self._bound_writes()

    def _bound_writes(self) -> None:
        while len(self._unwritten) > MAX_WRITES:
            self.counters.unwritten += 1
            del self._unwritten[next(iter(self._unwritten))]

    # Values

    def _seal(self, key: bytes, owner: bytes) -> bytes:
        key_id, secret = self._keys.minting(self._unix_now)
        body = port_and_address(owner)
        return bytes((key_id,)) + body + _tag(secret, key + body)

    def _open(self, key: bytes, value: bytes) -> bytes | None:
        """Return the owner that a value names, or None if no relay wrote it for this path."""
        secret = self._keys.accepting(value[0], self._unix_now) if len(value) == _SIZE else None
        body, tag = value[1:-_TAG_SIZE], value[-_TAG_SIZE:]
        if secret is None or not hmac.compare_digest(_tag(secret, key + body), tag):
            self.counters.poisoned += 1
            return None
        return from_port_and_address(body)


def _tag(secret: bytes, data: bytes) -> bytes:
    return blake2b(data, digest_size=_TAG_SIZE, key=secret, person=_PERSON).digest()
