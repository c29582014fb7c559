"""The checks of the peer that a controlled agent answers, and its answers."""

import random
import struct
import zlib
from collections.abc import Callable
from math import inf

import pytest

from antiphon_common.control import IceParameters
from antiphon_common.core import Path
from antiphon_common.stun import AttributeType, Message, MessageClass, success_response
from antiphon_transceiver import ice
from support.peers.ice_peer import CLIENT, LAPTOP, PHONE, SERVER, Peer


@pytest.mark.parametrize("path", [LAPTOP, PHONE], ids=["IPv4", "IPv6"])
def test_a_check_is_answered_on_its_path_with_the_address_it_came_from(path: Path) -> None:
    peer = Peer()
    answer = peer.check(path)
    assert answer.message_class is MessageClass.SUCCESS
    assert answer.xor_mapped_address == (path.address, path.port)
    assert answer.fingerprinted
    assert answer.verify(SERVER.password.encode())
    assert {transmit.path for _, transmit in peer.sent} == {path}


def test_our_own_check_leaves_with_the_first_answer() -> None:
    peer = Peer()
    _, check = peer.send(peer.request(), LAPTOP)
    assert check.message_class is MessageClass.REQUEST
    assert check.username == f"{CLIENT.ufrag}:{SERVER.ufrag}".encode()
    assert check.verify(CLIENT.password.encode())
    assert check.ice_controlled is not None
    assert not check.use_candidate
    assert check.priority is not None


def test_a_check_that_is_not_authentic_is_not_answered_and_opens_no_path() -> None:
    peer = Peer()
    assert peer.send(peer.request(password="guess-of-thirty-two-characters!!"), LAPTOP) == []
    assert peer.send(peer.request(username="SomebodyElsesUfragHere1:clnt"), LAPTOP) == []
    assert peer.send(peer.request(username="ServerUfragOf23IceChars"), LAPTOP) == []
    unsigned = Message(MessageClass.REQUEST, b"t" * 12, {AttributeType.USERNAME: b"ServerUfragOf23IceChars:clnt"})
    assert peer.send(unsigned.encode(), LAPTOP) == []
    assert peer.agent.counters.bad_integrity == 2
    assert peer.agent.counters.unknown_username == 2
    assert not peer.agent.paths
    assert not peer.seen()
    assert peer.agent.poll_timeout() == inf


def with_integrity(datagram: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """Return a STUN message with its MESSAGE-INTEGRITY changed and a FINGERPRINT that fits again."""
    body = bytearray(datagram[:-8])
    body[-20:] = change(bytes(body[-20:]))
    return bytes(body) + struct.pack("!HHI", AttributeType.FINGERPRINT, 4, zlib.crc32(body) ^ 0x5354554E)


@pytest.mark.parametrize("right", range(20))
def test_a_check_with_a_partly_correct_message_integrity_is_not_answered(right: int) -> None:
    peer = Peer()
    for change in (
        lambda tag: tag[:right] + bytes(byte ^ 0xFF for byte in tag[right:]),
        lambda tag: bytes(byte ^ 0xFF for byte in tag[right:]) + tag[20 - right :],
    ):
        assert peer.send(with_integrity(peer.request(use_candidate=True), change), LAPTOP) == []
    assert peer.agent.counters.bad_integrity == 2
    assert not peer.agent.paths
    assert len(peer.send(with_integrity(peer.request(), lambda tag: tag), LAPTOP)) == 2, "the whole tag is enough"


@pytest.mark.parametrize("right", [0, 4, 10, 19])
def test_a_response_with_a_partly_correct_message_integrity_validates_no_path(right: int) -> None:
    peer = Peer()
    peer.check(LAPTOP)
    ours = peer.checks_to(LAPTOP)[0]
    answer = success_response(ours, LAPTOP.address, LAPTOP.port).encode(CLIENT.password.encode())
    forged = with_integrity(answer, lambda tag: tag[:right] + bytes(byte ^ 0xFF for byte in tag[right:]))
    peer.send(forged, LAPTOP)
    unsigned = success_response(ours, LAPTOP.address, LAPTOP.port).encode()
    peer.send(unsigned, LAPTOP)
    assert not peer.agent.is_validated(LAPTOP)
    assert peer.agent.counters.bad_integrity == 2
    peer.send(answer, LAPTOP)
    assert peer.agent.is_validated(LAPTOP)


@pytest.mark.parametrize("use_candidate", [True, False])
def test_every_check_is_answered_for_an_hour_with_and_without_use_candidate(use_candidate: bool) -> None:
    peer = Peer()
    peer.connect(LAPTOP)
    for _ in range(720):
        peer.advance(peer.now + 5.0)
        assert peer.check(LAPTOP, use_candidate=use_candidate).message_class is MessageClass.SUCCESS
    assert peer.agent.selected == LAPTOP
    assert not peer.seen(ice.Disconnected, ice.IceFailed, ice.PathReleased)


def test_unknown_comprehension_required_attributes_are_answered_with_420_and_listed() -> None:
    peer = Peer()
    request = peer.request(use_candidate=True, attributes={0x7ABC: b"?", 0x0003: b"\0\0\0\6", 0xFABC: b"optional"})
    answer = peer.send(request, LAPTOP)[0]
    assert answer.error_code == (420, "Unknown AttributeType")
    assert answer.unknown_attributes == [0x7ABC, 0x0003]
    assert answer.verify(SERVER.password.encode())


def test_a_lite_agent_keeps_its_role_whatever_the_tie_breaker() -> None:
    for tie_breaker in (bytes(8), b"\xff" * 8):
        peer = Peer()
        name = f"{SERVER.ufrag}:{CLIENT.ufrag}".encode()
        attributes: dict[int, bytes] = {AttributeType.USERNAME: name, AttributeType.ICE_CONTROLLED: tie_breaker}
        request = Message(MessageClass.REQUEST, b"t" * 12, attributes).encode(SERVER.password.encode())
        (answer,) = peer.send(request, LAPTOP)
        assert answer.error_code == (487, "Role Conflict")
        assert answer.verify(SERVER.password.encode())
        assert peer.agent.counters.role_conflicts == 1
        assert peer.check(LAPTOP).message_class is MessageClass.SUCCESS


def test_both_ufrags_are_answered_during_a_restart() -> None:
    peer = Peer()
    peer.connect(LAPTOP)
    new_server, new_client = IceParameters("AnotherUfragOf23Chars++", "x" * 32), IceParameters("new1", "y" * 24)
    assert peer.agent.restart(new_server, new_client) is None
    assert peer.check(LAPTOP).verify(SERVER.password.encode())

    peer.remote, peer.local = new_server, new_client
    peer.reachable.add(PHONE)
    assert peer.check(PHONE, use_candidate=True).verify(new_server.password.encode())
    (check,) = peer.checks_to(PHONE)
    assert check.username == b"new1:AnotherUfragOf23Chars++"
    assert check.verify(new_client.password.encode())
    assert peer.agent.selected == PHONE


def test_a_restart_while_our_check_is_under_way_on_the_same_path() -> None:
    peer = Peer()
    peer.check(LAPTOP)
    new_server, new_client = IceParameters("AnotherUfragOf23Chars++", "x" * 32), IceParameters("new1", "y" * 24)
    peer.agent.restart(new_server, new_client)
    peer.remote = new_server
    peer.send(peer.request(), LAPTOP)
    peer.answer(peer.checks_to(LAPTOP)[0], LAPTOP, password=CLIENT.password)
    assert peer.agent.is_validated(LAPTOP)

    peer.advance(peer.now + ice.CHECK_AFTER)
    check = peer.checks_to(LAPTOP)[-1]
    assert check.username == b"new1:AnotherUfragOf23Chars++"
    assert check.verify(new_client.password.encode())


def test_the_oldest_ice_generation_is_dropped_at_the_limit() -> None:
    peer = Peer()
    dropped = [
        peer.agent.restart(IceParameters(f"generation{n}", "p" * 32), peer.local) for n in range(ice.MAX_GENERATIONS)
    ]
    assert dropped == [None] * (ice.MAX_GENERATIONS - 1) + [SERVER]
    assert peer.send(peer.request(), LAPTOP) == []


def test_indications_and_stray_responses_are_counted_and_dropped() -> None:
    peer = Peer()
    indication = Message(MessageClass.INDICATION, b"t" * 12).encode()
    response = Message(MessageClass.SUCCESS, b"t" * 12).encode(CLIENT.password.encode())
    unfingerprinted = Message.decode(peer.request()).encode(SERVER.password.encode(), fingerprint=False)
    for datagram in (indication, response, unfingerprinted, b"\0\1", b""):
        assert peer.send(datagram, LAPTOP) == []
    counters = peer.agent.counters
    assert (counters.ignored, counters.stray_responses, counters.malformed) == (2, 1, 2)
    assert not peer.agent.paths


def test_mutated_datagrams_raise_no_exception_and_open_no_path() -> None:
    seed = 7
    print(f"seed {seed}")
    source = random.Random(seed)
    peer = Peer()
    peer.connect(LAPTOP)
    requests = [peer.request(use_candidate=True), peer.sent[0][1].data, peer.sent[1][1].data]
    for _ in range(10_000):
        datagram = bytearray(source.choice(requests))
        for _ in range(source.randrange(1, 4)):
            at = source.randrange(len(datagram))
            datagram[at] ^= source.randrange(1, 256)
        peer.send(bytes(datagram), PHONE)
    assert set(peer.agent.paths) == {LAPTOP}
    assert peer.agent.selected == LAPTOP


def test_the_same_seed_gives_the_same_bytes_twice() -> None:
    def run() -> list[bytes]:
        peer = Peer(seed=42)
        peer.connect(LAPTOP)
        peer.check(PHONE, use_candidate=True)
        peer.advance(peer.now + 40)
        return [transmit.data for _, transmit in peer.sent]

    assert run() == run()
