"""Look-ups, writes and values of the flow cache."""

import random

import pytest

from antiphon_common.keys import Key, KeyRing
from antiphon_common.link import Moved
from antiphon_common.sockaddr import encode_address
from antiphon_relay.cache import (
    ABSENT_SECONDS,
    BATCH,
    LOOKUPS_AT_ONCE,
    LOOKUPS_PER_SECOND,
    MAX_ABSENT,
    MAX_FAILURES,
    MAX_PACKETS,
    MAX_WAITING,
    MAX_WRITES,
    RETRY_SECONDS,
    WAIT_SECONDS,
    WRITE_INTERVAL,
    FlowCache,
)
from support.fakes.comparisons import record_comparisons
from support.sim.relay_harness import Relay, Seen, client

RTP, ANSWER = b"\x80\x6frtp", b"\x01\x01\x00\x00\x21\x12\xa4\x42" + bytes(12)


class Store:
    """The entries of a Redis."""

    def __init__(self) -> None:
        self.entries: dict[str, bytes] = {}

    def write(self, relay: Relay) -> int:
        """Store the writes of a relay. Return the number of entries."""
        writes = cache_of(relay).take_writes()
        self.entries.update(writes)
        cache_of(relay).write_succeeded()
        return len(writes)

    def answer(self, relay: Relay) -> list[Seen]:
        """Answer the look-ups of a relay. Return the datagrams that it then sends."""
        cache = cache_of(relay)
        while keys := cache.take_lookups():
            relay.core.restore(keys, [self.entries.get(cache.name(key)) for key in keys], relay.now)
        return relay.drain()


def cache_of(relay: Relay) -> FlowCache:
    assert relay.core.cache is not None
    return relay.core.cache


@pytest.fixture
def store() -> Store:
    return Store()


def fresh(cluster: int = 0, keys: KeyRing | None = None) -> Relay:
    return Relay(keys, cache_of=cluster)


def test_a_fresh_relay_looks_up_the_owner_while_packets_wait(store: Store) -> None:
    first, second = fresh(), fresh()
    owner, same = first.transceiver(), second.transceiver()
    for number in range(3):
        owner.confirm(client(number))
    assert store.write(first) == 3
    for number in range(3):
        assert second.receive(RTP, client(number)) == second.receive(RTP, client(number)) == []
    expected = [Seen(RTP, client(number), same.link) for number in range(3) for _ in range(2)]
    assert store.answer(second) == expected
    assert second.receive(RTP, client(0)) == [Seen(RTP, client(0), same.link)]


def test_flows_are_written_again_when_their_owner_confirms_them(store: Store) -> None:
    relay = fresh()
    owner = relay.transceiver()
    for second in range(61):
        owner.confirm(client(0))
        assert store.write(relay) == (second % WRITE_INTERVAL == 0)
        relay.wait(1)


def test_a_failed_write_is_repeated(store: Store) -> None:
    relay = fresh()
    owner, other = relay.transceiver(9000), relay.transceiver(9001)
    for number in range(3):
        owner.confirm(client(number))
    taken = dict(cache_of(relay).take_writes())
    owner.release(client(0))
    other.confirm(client(0))
    cache_of(relay).write_failed(relay.now)
    assert cache_of(relay).counters.written == 0
    assert store.write(relay) == 3
    moved = cache_of(relay).name(client(0).encode())
    assert {name for name in taken if taken[name] != store.entries[name]} == {moved}
    assert store.write(relay) == 0


def test_a_flow_from_the_cache_goes_to_the_first_owner_that_answers(store: Store) -> None:
    first, second = fresh(), fresh()
    first.transceiver(9000).confirm(client(0))
    store.write(first)
    second.receive(RTP, client(0))
    store.answer(second)
    real = second.transceiver(9001)
    assert real.send(ANSWER, client(0)) == [Seen(ANSWER, client(0))]
    assert second.receive(RTP, client(0)) == [Seen(RTP, client(0), real.link)]


def test_a_value_does_not_replace_a_flow_that_an_owner_wrote(store: Store) -> None:
    first, second = fresh(), fresh()
    first.transceiver(9000).confirm(client(0))
    store.write(first)
    second.receive(RTP, client(0))
    real = second.transceiver(9001)
    real.confirm(client(0))
    assert store.answer(second) == [Seen(RTP, client(0), real.link)]


def test_a_cached_owner_is_redirected_to_its_successor(store: Store) -> None:
    first, second = fresh(), fresh()
    first.transceiver(9000).confirm(client(0))
    store.write(first)
    origin, successor = second.transceiver(9000), second.transceiver(9001)
    successor.send_message(Moved(origin.owner, successor.owner))
    second.receive(RTP, client(0))
    assert store.answer(second) == [Seen(RTP, client(0), successor.link)]


def test_a_cached_owner_of_another_address_family_is_refused(store: Store) -> None:
    """The link's socket has one address family and cannot send to the other."""
    relay = fresh()
    cache_of(relay).store(client(0).encode(), encode_address("2001:db8::5", 9000))
    store.write(relay)
    second = fresh()
    second.receive(RTP, client(0))
    assert store.answer(second) == []
    assert len(second.core.flows) == 0


def test_forged_values_redirect_nothing(store: Store) -> None:
    relay, noise = fresh(), random.Random(5)
    good, other = relay.transceiver(9000), fresh(keys=KeyRing.generate(lambda size: b"\1" * size))
    outside = relay.transceiver(host="10.0.1.5")
    good.confirm(client(0))
    store.write(relay)
    (value,) = store.entries.values()
    other.transceiver(9000).confirm(client(1))
    foreign = cache_of(other).take_writes()[0][1]
    cache_of(relay).store(client(2).encode(), encode_address(outside.link.host, outside.link.port))
    elsewhere = cache_of(relay).take_writes()[0][1]
    flipped = [value[:at] + bytes((value[at] ^ noise.randrange(1, 256),)) + value[at + 1 :] for at in range(len(value))]
    junk = [noise.randbytes(noise.randrange(64)) for _ in range(100)]
    poison = [b"", value, foreign, value[:-1], value + b"\0", *flipped, *junk]
    victim = fresh()
    for number, bad in enumerate(poison, 1):
        victim.receive(RTP, client(number))
        store.entries = {cache_of(victim).name(client(number).encode()): bad}
        assert store.answer(victim) == []
    assert cache_of(victim).counters.poisoned == len(poison)
    victim.receive(RTP, client(2))
    victim.wait(ABSENT_SECONDS)
    victim.receive(RTP, client(2))
    store.entries = {cache_of(victim).name(client(2).encode()): elsewhere}
    assert store.answer(victim) == []
    assert len(victim.core.flows) == 0


def test_the_tag_of_a_value_is_compared_in_constant_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = fresh(), fresh()
    first.transceiver().confirm(client(0))
    store.write(first)
    second.receive(RTP, client(0))
    compared = record_comparisons(monkeypatch)
    store.answer(second)
    (value,) = store.entries.values()
    assert value[-8:] in [given for _, given in compared]


def test_a_flood_of_unknown_flows_is_looked_up_within_limits_and_makes_no_flow(store: Store) -> None:
    relay = fresh()
    cache = cache_of(relay)
    seconds, asked = 3, 0
    for number in range(60_000):
        relay.receive(RTP, client(number))
        relay.now += seconds / 60_000
        if number % 500 == 0:
            keys = cache.take_lookups()
            assert len(keys) <= BATCH
            asked += len(keys)
            relay.core.restore(keys, [None] * len(keys), relay.now)
    assert asked <= LOOKUPS_AT_ONCE + seconds * LOOKUPS_PER_SECOND
    assert len(relay.core.flows) == 0
    assert cache.counters.refused > 40_000
    assert cache.held <= MAX_WAITING + MAX_ABSENT


def test_an_unknown_path_is_looked_up_once_a_second(store: Store) -> None:
    relay = fresh()
    for _ in range(100):
        relay.receive(RTP, client(0))
        store.answer(relay)
        relay.wait(0.05)
    assert cache_of(relay).counters.asked == pytest.approx(5 / ABSENT_SECONDS, abs=1)


def test_only_packets_of_possible_flows_are_looked_up(store: Store) -> None:
    relay = fresh()
    for junk in (b"", b"\x00\x01", ANSWER, b"\x13"):
        relay.receive(junk, client(0))
    assert cache_of(relay).take_lookups() == []


def test_a_few_packets_of_a_path_wait_for_50_ms(store: Store) -> None:
    first, relay = fresh(), fresh()
    owner = first.transceiver()
    owner.confirm(client(0))
    store.write(first)
    for _ in range(MAX_PACKETS + 5):
        relay.receive(RTP, client(0))
    assert cache_of(relay).counters.refused == 5
    relay.now += WAIT_SECONDS
    assert store.answer(relay) == []
    assert cache_of(relay).counters.late == MAX_PACKETS
    assert relay.receive(RTP, client(0)) == [Seen(RTP, client(0), owner.link)]


def test_a_redis_that_fails_is_tried_once_a_second(store: Store) -> None:
    relay = fresh()
    cache = cache_of(relay)
    for number in range(MAX_FAILURES):
        relay.receive(RTP, client(number))
        cache.lookup_failed(cache.take_lookups(), relay.now)
    for tries in range(3):
        relay.receive(RTP, client(100 + tries))
        assert cache.take_lookups() == []
        assert not cache.is_open(relay.now)
        relay.now += RETRY_SECONDS
        relay.receive(RTP, client(200 + tries))
        keys = cache.take_lookups()
        assert len(keys) == 1
        cache.lookup_failed(keys, relay.now)
    relay.now += RETRY_SECONDS
    relay.receive(RTP, client(300))
    store.answer(relay)
    relay.receive(RTP, client(301))
    assert len(cache.take_lookups()) == 1


@pytest.mark.parametrize("writes", [False, True], ids=["look-ups", "writes"])
def test_one_success_resets_the_count_of_failures(store: Store, writes: bool) -> None:
    relay = fresh()
    cache = cache_of(relay)

    def fail(first: int) -> None:
        for number in range(first, first + MAX_FAILURES - 1):
            relay.receive(RTP, client(number))
            cache.lookup_failed(cache.take_lookups(), relay.now)

    fail(0)
    if writes:
        relay.transceiver().confirm(client(100))
        store.write(relay)
    else:
        relay.receive(RTP, client(100))
        store.answer(relay)
    fail(10)
    assert cache.is_open(relay.now)


def test_waiting_paths_are_bounded_while_no_look_up_runs(store: Store) -> None:
    relay = fresh()
    cache = cache_of(relay)
    for number in range(3 * MAX_WAITING):
        relay.receive(RTP, client(number))
        relay.now += 1 / LOOKUPS_PER_SECOND
    assert cache.held == MAX_WAITING
    relay.wait(WAIT_SECONDS + RETRY_SECONDS + 1)
    assert cache.held == 0
    assert cache.counters.late == MAX_WAITING
    for number in range(3 * MAX_WAITING):
        relay.receive(RTP, client(number))
        relay.wait(1 / LOOKUPS_PER_SECOND)
    assert sum(len(batch) for batch in iter(cache.take_lookups, [])) <= MAX_WAITING


def test_waiting_paths_are_not_looked_up_after_redis_fails(store: Store) -> None:
    relay = fresh()
    cache = cache_of(relay)
    for number in range(MAX_FAILURES):
        relay.receive(RTP, client(number))
        keys = cache.take_lookups()
        relay.receive(RTP, client(10))
        cache.lookup_failed(keys, relay.now)
    relay.wait(0)
    assert not cache.has_lookups


def test_flows_queued_for_writing_are_bounded() -> None:
    relay = fresh()
    cache = cache_of(relay)
    owner = encode_address("10.0.0.5", 9000)
    for number in range(MAX_WRITES + 10):
        cache.store(client(number).encode(), owner)
    cache.take_writes()
    cache.write_failed(0.0)
    written = sum(len(batch) for batch in iter(lambda: cache.take_writes(), []))
    assert (written, cache.counters.unwritten) == (MAX_WRITES, 10)


@pytest.mark.parametrize("first", [20, 22, 63, 128, 191])
def test_packets_of_dtls_and_media_wait_for_the_cache(store: Store, first: int) -> None:
    """ChangeCipherSpec is 20, the first of DTLS's content types (RFC 7983 §7)."""
    relay, other = fresh(), fresh()
    relay.transceiver().confirm(client(0))
    store.write(relay)
    packet = bytes((first,)) + bytes(20)
    assert other.receive(packet, client(0)) == []
    assert store.answer(other) == [Seen(packet, client(0), other.transceiver().link)]


def test_entries_are_sealed_with_the_current_key_after_the_clock_was_set() -> None:
    relay = fresh(keys=KeyRing([Key(0, bytes(32)), Key(1, bytes(range(32)), mint_from=100_000)]))
    owner = relay.transceiver()
    owner.confirm(client(0))
    [(_, before)] = cache_of(relay).take_writes()
    relay.unix_offset = 200_000.0
    relay.wait(1)
    cache_of(relay).write_failed(relay.now)
    [(_, after)] = cache_of(relay).take_writes()
    assert (before[0], after[0]) == (0, 1)
