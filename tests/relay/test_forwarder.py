"""The target of each packet that the relay forwards, and the owners that decide it."""

import random

import pytest

from antiphon_common.core import Path
from antiphon_common.keys import Key, KeyRing
from antiphon_common.link import DOWNLINK, HEADER_SIZE, Confirm, LinkKeys, RelayHello
from antiphon_common.ownership import MAX_PROVISIONAL, PROVISIONAL_SECONDS
from antiphon_relay.flows import CHECKS_AT_ONCE, SILENT_SECONDS, TAKEOVER_SECONDS
from antiphon_relay.forwarder import TOKEN_CHECKS_AT_ONCE
from support.sim.relay_harness import INGRESS, LAST_PORT, Relay, Seen, binding_request, client

RTP, DTLS, STUN_RESPONSE = b"\x80\x6frtp", b"\x16\xfe\xfddtls", b"\x01\x01\x00\x00\x21\x12\xa4\x42" + bytes(12)
CLIENTS = [client(0), client(0, host="2001:db8::77")]


@pytest.fixture
def relay() -> Relay:
    return Relay()


@pytest.mark.parametrize("path", CLIENTS, ids=str)
def test_a_request_is_forwarded_to_the_owner_of_its_token_without_state(relay: Relay, path: Path) -> None:
    owner = relay.transceiver()
    request = binding_request(owner.token())
    assert relay.receive(request, path) == [Seen(request, path, owner.link)]
    assert len(relay.core.flows) == 0
    assert relay.receive(DTLS, path) == []
    assert relay.counters.unknown == 1


@pytest.mark.parametrize("path", CLIENTS, ids=str)
@pytest.mark.parametrize("data", [RTP, DTLS, STUN_RESPONSE, b"", b"\x00"], ids=bytes.hex)
def test_all_packets_follow_the_flow_after_an_answer(relay: Relay, path: Path, data: bytes) -> None:
    owner = relay.transceiver()
    assert owner.send(STUN_RESPONSE, path) == [Seen(STUN_RESPONSE, path)]
    assert relay.receive(data, path) == [Seen(data, path, owner.link)]
    owner.confirm(path)
    assert relay.receive(data, path) == [Seen(data, path, owner.link)]
    assert owner.send(data, path) == owner.send(data, path) == [Seen(data, path)]


def test_requests_follow_their_token_even_on_a_confirmed_flow(relay: Relay) -> None:
    first, second = relay.transceiver(9000), relay.transceiver(9001)
    first.confirm(client(0))
    request = binding_request(second.token())
    assert relay.receive(request, client(0)) == [Seen(request, client(0), second.link)]


def test_a_call_continues_after_the_key_of_its_token_retires() -> None:
    relay = Relay(KeyRing([Key(0, bytes(32), retire_after=1010), Key(1, bytes(range(32)), mint_from=1005)]))
    owner = relay.transceiver()
    request = binding_request(owner.token())
    assert relay.receive(request, client(0)) == [Seen(request, client(0), owner.link)]
    owner.confirm(client(0))
    relay.wait(6)
    owner.confirm(client(0))
    relay.wait(20)
    assert relay.receive(request, client(0)) == [Seen(request, client(0), owner.link)]
    assert relay.receive(request, client(1)) == []
    assert owner.send(RTP, client(0)) == [Seen(RTP, client(0))]
    answers = [relay.receive(request, client(0)) for _ in range(2 * CHECKS_AT_ONCE)]
    assert sum(map(len, answers)) < CHECKS_AT_ONCE


@pytest.mark.parametrize("data", [b"\x00\x01", binding_request(b"x" * 23)[:-1], binding_request(b"")], ids=bytes.hex)
def test_a_malformed_request_is_dropped(relay: Relay, data: bytes) -> None:
    relay.transceiver().confirm(client(0))
    assert relay.receive(data, client(0)) == []
    assert relay.counters.malformed_request == 1


def test_a_token_of_an_address_outside_the_transceivers_networks_is_refused(relay: Relay) -> None:
    outside = relay.transceiver(LAST_PORT + 1)
    assert relay.receive(binding_request(outside.token()), client(0)) == []
    assert relay.receive(binding_request(b"A" * 23), client(0)) == []
    assert (relay.counters.no_route, relay.counters.bad_token) == (1, 1)


def test_a_provisional_flow_belongs_to_the_latest_owner_that_answers(relay: Relay) -> None:
    first, second = relay.transceiver(9000), relay.transceiver(9001)
    first.send(STUN_RESPONSE, client(0))
    second.send(STUN_RESPONSE, client(0))
    assert relay.receive(DTLS, client(0)) == [Seen(DTLS, client(0), second.link)]
    first.confirm(client(0))
    assert relay.receive(DTLS, client(0)) == [Seen(DTLS, client(0), first.link)]


@pytest.mark.parametrize("header", ["new", "known"])
def test_another_owners_packets_and_messages_on_a_confirmed_flow_are_refused(relay: Relay, header: str) -> None:
    owner, rival = relay.transceiver(9000), relay.transceiver(9001)
    owner.confirm(client(0))
    if header == "known":
        assert owner.send(RTP, client(0)) == [Seen(RTP, client(0))]
    assert rival.send(STUN_RESPONSE, client(0)) == []
    rival.confirm(client(0))
    rival.release(client(0))
    assert relay.receive(RTP, client(0)) == [Seen(RTP, client(0), owner.link)]
    assert owner.send(RTP, client(0)) == [Seen(RTP, client(0))]
    assert relay.counters.not_owner == 2


def test_two_calls_one_after_another_from_one_port_reach_two_transceivers(relay: Relay) -> None:
    first, second = relay.transceiver(9000), relay.transceiver(9001)
    for owner in (first, second):
        request = binding_request(owner.token())
        assert relay.receive(request, client(0)) == [Seen(request, client(0), owner.link)]
        owner.send(STUN_RESPONSE, client(0))
        assert relay.receive(DTLS, client(0)) == [Seen(DTLS, client(0), owner.link)]
        owner.confirm(client(0))
        owner.send(RTP, client(0))
        assert relay.receive(RTP, client(0)) == [Seen(RTP, client(0), owner.link)]
        owner.release(client(0))
    assert relay.receive(RTP, client(0)) == []


def test_another_owner_may_take_over_a_flow_after_ten_seconds_of_silence(relay: Relay) -> None:
    dead, alive = relay.transceiver(9000), relay.transceiver(9001)
    dead.confirm(client(0))
    dead.send(RTP, client(0))
    relay.wait(1)
    dead.send(RTP, client(0))
    relay.wait(TAKEOVER_SECONDS - 0.1)
    assert alive.send(STUN_RESPONSE, client(0)) == []
    relay.wait(0.2)
    assert alive.send(STUN_RESPONSE, client(0)) == [Seen(STUN_RESPONSE, client(0))]
    assert relay.receive(DTLS, client(0)) == [Seen(DTLS, client(0), alive.link)]


def test_flows_expire(relay: Relay) -> None:
    owner = relay.transceiver()
    owner.send(STUN_RESPONSE, client(0))
    owner.confirm(client(1))
    relay.wait(PROVISIONAL_SECONDS + 1)
    assert len(relay.core.flows) == relay.core.flows.confirmed == 1
    relay.wait(SILENT_SECONDS)
    assert len(relay.core.flows) == 0


def test_a_flow_on_which_its_owner_sends_does_not_expire(relay: Relay) -> None:
    owner = relay.transceiver()
    owner.confirm(client(0))
    for _ in range(10):
        relay.wait(SILENT_SECONDS / 2)
        assert owner.send(RTP, client(0)) == [Seen(RTP, client(0))]
    assert relay.receive(RTP, client(0)) == [Seen(RTP, client(0), owner.link)]


def test_a_flow_on_which_its_owner_sends_is_never_taken_over(relay: Relay) -> None:
    """Each packet counts as received, also one whose link header is cached."""
    owner, rival = relay.transceiver(9000), relay.transceiver(9001)
    owner.confirm(client(0))
    for _ in range(300):
        relay.wait(0.1)
        assert rival.send(STUN_RESPONSE, client(0)) == []
        assert owner.send(RTP, client(0)) == [Seen(RTP, client(0))]


def test_a_released_flow_is_not_found_by_its_link_header_either(relay: Relay) -> None:
    first, second = relay.transceiver(9000), relay.transceiver(9001)
    first.confirm(client(0))
    assert first.send(RTP, client(0)) == first.send(RTP, client(0)) == [Seen(RTP, client(0))]
    first.release(client(0))
    second.confirm(client(0))
    assert first.send(RTP, client(0)) == []
    assert relay.counters.not_owner == 1


def test_requests_of_a_provisional_flow_use_up_the_limit_of_their_token(relay: Relay) -> None:
    """Only a confirmed flow has a limit of its own."""
    owner = relay.transceiver()
    request = binding_request(owner.token())
    owner.send(STUN_RESPONSE, client(0))
    passed = sum(len(relay.receive(request, client(0))) for _ in range(2 * TOKEN_CHECKS_AT_ONCE))
    assert passed in (TOKEN_CHECKS_AT_ONCE - 1, TOKEN_CHECKS_AT_ONCE), "up to rounding"
    assert relay.counters.over_token_limit == 2 * TOKEN_CHECKS_AT_ONCE - passed


def test_hello_is_sealed_with_the_new_key_after_a_rotation() -> None:
    relay = Relay(KeyRing([Key(0, bytes(32), retire_after=1030), Key(1, bytes(range(32)), mint_from=1020)]))
    relay.core.set_transceivers([("10.0.0.5", 9000)])
    key_ids = []
    for _ in range(40):
        relay.now += 1
        relay.core.handle_timeout(relay.now, relay.unix_now)
        key_ids += [data[1] for data, _ in relay.core.link_outbox]
        relay.core.link_outbox.clear()
    assert set(key_ids) == {0, 1}
    assert set(key_ids[30:]) == {1}


def test_the_provisional_flows_of_an_owner_are_bounded(relay: Relay) -> None:
    busy, other = relay.transceiver(9000), relay.transceiver(9001)
    other.send(STUN_RESPONSE, client(60000))
    for number in range(MAX_PROVISIONAL + 10):
        busy.send(STUN_RESPONSE, client(number))
    assert len(relay.core.flows) == MAX_PROVISIONAL + 1
    assert relay.receive(DTLS, client(9)) == []
    assert relay.receive(DTLS, client(10)) != []
    assert relay.receive(DTLS, client(60000)) != []


def test_the_link_refuses_datagrams_without_a_valid_tag_or_a_transceivers_address(relay: Relay) -> None:
    owner, outside = relay.transceiver(), relay.transceiver(host="10.0.1.5")
    other_keys = LinkKeys(KeyRing.generate(lambda size: b"\1" * size).link)
    good = relay.link_keys.header(client(0), DOWNLINK, 0) + RTP
    assert relay.receive(other_keys.header(client(0), DOWNLINK, 0) + RTP, owner.link) == []
    assert relay.receive(other_keys.encode(Confirm(client(0)), 0), owner.link) == []
    assert relay.receive(good[: HEADER_SIZE - 1], owner.link) == []
    assert relay.receive(good, outside.link) == []
    assert relay.receive(relay.link_keys.header(client(0), 0, 0) + RTP, owner.link) == []
    assert relay.receive(good, client(1)) == []
    assert len(relay.core.flows) == 0
    assert (relay.counters.link_bad_tag, relay.counters.link_foreign, relay.counters.link_malformed) == (3, 1, 1)


def test_paths_of_other_ingresses_families_and_transports_are_refused(relay: Relay) -> None:
    owner = relay.transceiver()
    assert owner.send(RTP, Path.of("198.51.100.1", 1, ingress=99)) == []
    assert owner.send(RTP, Path.of("2001:db8::1", 1, ingress=INGRESS)) == []
    assert owner.send(RTP, Path.of("198.51.100.1", 1, ingress=INGRESS, transport=6)) == []
    assert relay.counters.unknown_ingress == 3
    assert len(relay.core.flows) == 0


def test_messages_that_are_not_for_relays_are_skipped(relay: Relay) -> None:
    assert relay.transceiver().send_message(RelayHello((1,), 2)) == []
    assert relay.counters.skipped_messages == 1


def test_a_running_call_continues_after_its_link_key_retires() -> None:
    old = Key(1, bytes(32), retire_after=2000)
    relay = Relay(KeyRing([old, Key(2, b"\2" * 32, mint_from=1500)]))
    owner = relay.transceiver()
    owner.confirm(client(0))
    assert relay.receive(RTP, client(0)) == [Seen(RTP, client(0), owner.link)]
    stale = relay.link_keys.header(client(0), DOWNLINK, relay.unix_now) + RTP
    for _ in range(30):
        relay.wait(50)
        owner.confirm(client(0))
        assert relay.receive(RTP, client(0)) == [Seen(RTP, client(0), owner.link)]
        assert owner.send(RTP, client(0)) == [Seen(RTP, client(0))]
    assert relay.receive(stale, owner.link) == []


def test_a_link_header_in_use_is_refused_after_its_key_retires() -> None:
    relay = Relay(KeyRing([Key(1, bytes(32), retire_after=1200), Key(2, b"\2" * 32, mint_from=1100)]))
    owner = relay.transceiver()
    owner.confirm(client(0))
    header = relay.link_keys.header(client(0), DOWNLINK, relay.unix_now)
    while relay.unix_now < 1195:
        assert relay.receive(header + RTP, owner.link) == [Seen(RTP, client(0))]
        relay.wait(5)
    relay.wait(20)
    assert relay.receive(header + RTP, owner.link) == []
    assert relay.counters.link_bad_tag == 1


def test_keys_follow_a_wall_clock_that_is_set() -> None:
    relay = Relay(KeyRing([Key(0, bytes(32), retire_after=2000), Key(1, bytes(range(32)), mint_from=1500)]))
    owner = relay.transceiver()
    owner.confirm(client(0))
    stale = relay.link_keys.header(client(1), DOWNLINK, relay.unix_now) + RTP
    relay.unix_offset += 5000.0
    relay.wait(1)
    owner.confirm(client(0))
    assert relay.receive(RTP, client(0)) == [Seen(RTP, client(0), owner.link)]
    assert relay.receive(stale, owner.link) == []
    assert relay.counters.link_bad_tag == 1


def test_random_bytes_on_either_side_raise_no_exception(relay: Relay) -> None:
    noise = random.Random(3)
    owner = relay.transceiver()
    samples = [
        binding_request(owner.token()),
        relay.link_keys.encode(Confirm(client(0)), 0),
        relay.link_keys.header(client(0), DOWNLINK, 0) + RTP,
    ]
    for _ in range(5000):
        data = bytearray(noise.choice(samples))
        for _ in range(noise.randrange(4)):
            data[noise.randrange(len(data))] = noise.randrange(256)
        relay.receive(bytes(data[: noise.randrange(len(data) + 1)]), noise.choice([owner.link, client(0)]))
    assert len(relay.core.flows) <= 1
