"""Floods and spoofed sources at the forwarder: they fill no table, take over no flow and use up no limit of others."""

import tracemalloc
from collections.abc import Sequence

import pytest

from antiphon_relay.fair_share import RESERVED_CONFIRMED, RESERVED_PROVISIONAL, RESERVED_UNKNOWN
from antiphon_relay.flows import PACKETS_AT_ONCE, PACKETS_WINDOW
from antiphon_relay.forwarder import MAX_OWNERS, OWNER_CHECKS_AT_ONCE, TOKEN_CHECKS_AT_ONCE, TOKEN_CHECKS_PER_SECOND
from support.sim.relay_harness import Relay, Seen, Transceiver, binding_request, client

RTP, ANSWER = b"\x80\x6frtp", b"\x01\x01\x00\x00\x21\x12\xa4\x42" + bytes(12)
FLOOD = 20_000
CACHED_BYTES = 256
"""Memory of one cached token: 23 bytes, an object around them, and its share of a hash table."""


def live_call(relay: Relay, number: int, owner: Transceiver) -> bytes:
    """Set up a call from a client's address and return its ufrag."""
    ufrag = owner.token(number)
    assert relay.receive(binding_request(ufrag), client(number))
    owner.send(ANSWER, client(number))
    owner.confirm(client(number))
    return ufrag


def assert_alive(relay: Relay, number: int, ufrag: bytes, owner: Transceiver) -> None:
    path, check = client(number), binding_request(ufrag)
    assert relay.receive(check, path) == [Seen(check, path, owner.link)]
    assert owner.send(ANSWER, path) == [Seen(ANSWER, path)]
    owner.confirm(path)
    assert relay.receive(RTP, path) == [Seen(RTP, path, owner.link)]
    assert owner.send(RTP, path) == [Seen(RTP, path)]


def test_spoofed_sources_fill_no_table() -> None:
    relay = Relay()
    owner = relay.transceiver()
    junk = [b"\x80junk", b"\x16\xfe\xfd", b"", binding_request(b"A" * 23), binding_request(owner.token())]
    for number in range(FLOOD):
        relay.receive(junk[number % len(junk)], client(number))
    assert len(relay.core.flows) == 0


def test_a_flood_with_one_token_is_limited_and_other_tokens_pass() -> None:
    relay = Relay()
    owner = relay.transceiver()
    flooded, seconds = owner.token(1), 2
    passed = 0
    for number in range(FLOOD):
        passed += len(relay.receive(binding_request(flooded), client(number)))
        relay.now += seconds / FLOOD
    assert passed <= TOKEN_CHECKS_AT_ONCE + seconds * TOKEN_CHECKS_PER_SECOND + 1
    live_call(relay, 2, owner)


def test_checks_of_another_call_with_the_spoofed_source_of_a_live_client_have_no_effect() -> None:
    relay = Relay()
    victims, elsewhere = relay.transceiver(9000), relay.transceiver(9001)
    ufrag = live_call(relay, 1, victims)
    for attacker in (victims.token(66), elsewhere.token(66)):
        for _ in range(50):
            for _ in range(200):
                relay.receive(binding_request(attacker), client(1))
                relay.now += 0.0001
            assert elsewhere.send(ANSWER, client(1)) == []
            assert_alive(relay, 1, ufrag, victims)


def test_a_flood_with_a_live_calls_token_does_not_drop_the_calls_own_checks() -> None:
    relay = Relay()
    owner = relay.transceiver()
    ufrag = live_call(relay, 1, owner)
    for _ in range(10):
        for number in range(1000):
            relay.receive(binding_request(ufrag), client(1000 + number))
            relay.now += 0.001
        assert_alive(relay, 1, ufrag, owner)


def test_an_address_whose_source_was_spoofed_first_can_still_connect() -> None:
    relay = Relay()
    attackers, real = relay.transceiver(9000), relay.transceiver(9001)
    for _ in range(1000):
        if relay.receive(binding_request(attackers.token(66)), client(1)):
            attackers.send(ANSWER, client(1))
        relay.now += 0.01
    ufrag = live_call(relay, 1, real)
    assert_alive(relay, 1, ufrag, real)


def test_many_tokens_of_one_owner_are_limited_together() -> None:
    relay = Relay()
    flooded, other = relay.transceiver(9000), relay.transceiver(9001)
    passed = sum(
        len(relay.receive(binding_request(flooded.token(number)), client(number)))
        for number in range(OWNER_CHECKS_AT_ONCE * 2)
    )
    assert passed <= OWNER_CHECKS_AT_ONCE
    live_call(relay, 1, other)


def test_packets_of_one_flow_are_limited_without_effect_on_another_flow() -> None:
    relay = Relay()
    owner = relay.transceiver()
    flooded, other = live_call(relay, 1, owner), live_call(relay, 2, owner)
    seconds = 3
    passed, others = 0, 0
    for number in range(FLOOD):
        passed += len(relay.receive(RTP, client(1)))
        if number % (FLOOD // (50 * seconds)) == 0:
            others += len(relay.receive(RTP, client(2)))
        relay.now += seconds / FLOOD
    assert passed == seconds * PACKETS_AT_ONCE == FLOOD - relay.counters.over_flow_limit
    assert others > 50 * seconds
    assert_alive(relay, 2, other, owner)
    relay.now += PACKETS_WINDOW
    assert_alive(relay, 1, flooded, owner)


@pytest.mark.parametrize("idle", [1.5, 5.0, 55.0])
def test_unused_packets_of_a_flow_are_not_accumulated(idle: float) -> None:
    """At most the rest of one window and the whole next window pass together."""
    relay = Relay()
    owner = relay.transceiver()
    ufrag = live_call(relay, 1, owner)
    relay.receive(RTP, client(1))
    for _ in range(2):
        relay.wait(idle)
        owner.confirm(client(1))
        passed = sum(len(relay.receive(RTP, client(1))) for _ in range(4 * PACKETS_AT_ONCE))
        assert PACKETS_AT_ONCE <= passed < 2 * PACKETS_AT_ONCE
    relay.wait(PACKETS_WINDOW)
    assert_alive(relay, 1, ufrag, owner)


def test_under_overload_confirmed_flows_precede_provisional_and_unknown_ones() -> None:
    relay = Relay()
    owner = relay.transceiver()
    ingress = next(iter(relay.core.ingresses.values()))
    confirmed, provisional = range(100), range(100, 200)
    for number in provisional:
        owner.send(ANSWER, client(number))
    for number in confirmed:
        owner.confirm(client(number))
    addresses = {flow.key: address for address, flow in ingress.flows.items()}

    def passed(numbers: Sequence[int], *, overloaded: bool) -> int:
        batch = [
            (binding_request(owner.token(n)), addresses.get(client(n).encode(), b"\2\0" + bytes(14))) for n in numbers
        ]
        relay.core.forward_uplink(ingress, batch, relay.now, overloaded=overloaded)
        count = len(relay.core.link_outbox)
        relay.core.link_outbox.clear()
        return count

    unknown = range(300, 400)
    assert [passed(numbers, overloaded=False) for numbers in (confirmed, provisional, unknown)] == [100, 100, 100]
    expected = [RESERVED_UNKNOWN, RESERVED_PROVISIONAL, len(confirmed)]
    assert [passed(numbers, overloaded=True) for numbers in (unknown, provisional, confirmed)] == expected
    assert passed([*unknown, *provisional, *confirmed], overloaded=True) == sum(expected)
    assert passed([confirmed[0]] * 60, overloaded=True) == RESERVED_CONFIRMED


def test_under_overload_media_of_confirmed_flows_is_sent_first_and_requests_last() -> None:
    """A full socket drops what is sent last."""
    relay = Relay()
    owner = relay.transceiver()
    ingress = next(iter(relay.core.ingresses.values()))
    owner.send(ANSWER, client(1))
    owner.confirm(client(2))
    addresses = {flow.key: address for address, flow in ingress.flows.items()}
    request, early, late = binding_request(owner.token(3)), RTP + b"provisional", RTP + b"confirmed"
    batch = [
        (request, b"\2\0" + bytes(14)),
        (early, addresses[client(1).encode()]),
        (late, addresses[client(2).encode()]),
    ]
    relay.core.forward_uplink(ingress, batch, relay.now, overloaded=True)
    assert [seen.data for seen in relay.drain()] == [late, early, request]


def test_cached_tokens_are_bounded() -> None:
    """A holder of the route key can mint any number of valid tokens without calls."""
    relay = Relay()
    owner = relay.transceiver()
    requests = [binding_request(owner.token(number)) for number in range(4 * MAX_OWNERS)]
    for request in requests[:MAX_OWNERS]:
        relay.receive(request, client(0))
    tracemalloc.start()
    try:
        for request in requests[MAX_OWNERS:]:
            relay.receive(request, client(0))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < MAX_OWNERS * CACHED_BYTES


def test_a_flow_passes_500_packets_a_second_and_20_requests_beyond_its_tokens_50() -> None:
    """The limits that the README promises operators, in its numbers."""
    relay = Relay()
    owner = relay.transceiver()
    owner.confirm(client(0))
    owner.confirm(client(1))
    request = binding_request(owner.token())
    packets = requests = 0
    for number in range(20_000):
        packets += len(relay.receive(RTP, client(0)))
        if number % 10 == 0:
            requests += len(relay.receive(request, client(1)))
        relay.now += 10 / 20_000
    assert 500 * 10 <= packets <= 500 * 11
    assert (20 + 50) * 10 <= requests <= (20 + 50) * 10 + 40 + 100
