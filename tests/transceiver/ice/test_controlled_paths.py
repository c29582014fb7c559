"""Selection of the path: validation, nomination, change of address, the three-fold limit, eviction."""

import pytest

from antiphon_common.core import Path
from antiphon_common.stun import ErrorCode, MessageClass, error_response
from antiphon_transceiver import ice
from support.peers.ice_peer import CLIENT, LAPTOP, PHONE, Peer


def test_a_path_is_opened_selected_and_validated() -> None:
    peer = Peer()
    peer.connect(LAPTOP)
    assert peer.seen() == [ice.PathOpened(LAPTOP), ice.PathSelected(LAPTOP), ice.PathValidated(LAPTOP)]
    assert peer.agent.is_validated(LAPTOP)


def test_the_latest_nominated_path_is_selected_until_a_path_is_validated() -> None:
    peer = Peer()
    peer.check(LAPTOP)
    assert peer.agent.selected == LAPTOP
    peer.check(PHONE)
    assert peer.agent.selected == LAPTOP
    peer.check(PHONE, use_candidate=True)
    assert peer.agent.selected == PHONE
    peer.agent.validate(LAPTOP, peer.now)
    assert peer.agent.selected == LAPTOP


def test_the_first_path_validated_stays_until_another_is_nominated() -> None:
    peer = Peer()
    peer.check(LAPTOP)
    peer.check(PHONE)
    peer.agent.validate(PHONE, peer.now)
    peer.agent.validate(LAPTOP, peer.now)
    assert peer.agent.selected == PHONE


@pytest.mark.parametrize(("old", "new"), [(LAPTOP, PHONE), (PHONE, LAPTOP)])
def test_a_nominated_path_is_selected_once_it_is_validated(old: Path, new: Path) -> None:
    peer = Peer()
    peer.connect(old)
    peer.check(new, use_candidate=True)
    assert peer.agent.selected == old
    peer.answer(peer.checks_to(new)[0], new)
    peer.drain()
    assert peer.agent.selected == new
    peer.check(old, use_candidate=True)
    assert peer.agent.selected == old
    assert peer.seen(ice.PathSelected) == [ice.PathSelected(path) for path in (old, new, old)]


def test_a_replayed_check_does_not_select_a_spoofed_source() -> None:
    peer = Peer()
    peer.connect(LAPTOP)
    captured = peer.request(use_candidate=True)
    for port in range(1000):
        peer.send(captured, Path.of("198.51.100.66", 1000 + port))
        assert len(peer.agent.paths) <= ice.MAX_PATHS
    assert peer.agent.selected == LAPTOP
    assert peer.agent.is_validated(LAPTOP)
    assert peer.agent.counters.paths_evicted == 1001 - ice.MAX_PATHS
    assert len(peer.seen(ice.PathReleased)) == 1001 - ice.MAX_PATHS
    peer.reachable.add(PHONE)
    peer.check(PHONE, use_candidate=True)
    assert peer.agent.selected == PHONE


def test_paths_that_are_not_validated_are_evicted_first() -> None:
    peer = Peer()
    peer.connect(LAPTOP)
    peer.connect(PHONE)
    peer.advance(peer.now + 1)
    for port in range(ice.MAX_PATHS):
        peer.check(Path.of("198.51.100.66", 1000 + port))
    assert peer.agent.is_validated(LAPTOP)
    assert peer.agent.selected == PHONE


def test_the_selected_path_is_never_evicted_however_long_it_is_silent() -> None:
    peer = Peer()
    peer.connect(LAPTOP)
    peer.advance(peer.now + 1)
    for port in range(ice.MAX_PATHS):
        path = Path.of("192.0.2.10", 1000 + port)
        peer.check(path)
        peer.agent.validate(path, peer.now)
    peer.drain()
    assert peer.agent.selected == LAPTOP
    assert peer.seen(ice.PathReleased) == [ice.PathReleased(Path.of("192.0.2.10", 1000))]


def test_a_response_validates_only_the_path_that_was_checked_and_only_with_the_password() -> None:
    peer = Peer()
    peer.check(LAPTOP)
    peer.check(PHONE)
    (check,) = peer.checks_to(LAPTOP)
    peer.answer(check, PHONE)
    peer.answer(check, LAPTOP, password="not the password of this client")
    assert not peer.agent.is_validated(LAPTOP)
    assert not peer.agent.is_validated(PHONE)
    peer.answer(check, LAPTOP)
    assert peer.agent.is_validated(LAPTOP)
    peer.answer(check, LAPTOP)
    assert peer.agent.counters.stray_responses == 2


def test_dtls_validates_a_path_and_ends_our_check() -> None:
    peer = Peer()
    peer.check(LAPTOP, use_candidate=True)
    peer.agent.validate(LAPTOP, peer.now)
    peer.drain()
    assert peer.seen(ice.PathValidated) == [ice.PathValidated(LAPTOP)]
    peer.advance(peer.now + 2.9)
    assert len(peer.checks_to(LAPTOP)) == 1


def test_an_unvalidated_path_gets_every_answer_and_at_most_three_times_what_it_sent() -> None:
    peer = Peer()
    received = handshake = 0
    for _ in range(50):
        request = peer.request(use_candidate=True)
        received += len(request)
        assert peer.send(request, LAPTOP)[0].message_class is MessageClass.SUCCESS
        while peer.agent.may_send(LAPTOP, 200):
            peer.agent.sent(LAPTOP, 200)
            handshake += 200
        peer.advance(peer.now + 0.3)
        assert peer.bytes_to(LAPTOP) + handshake <= 3 * received
    assert handshake > received
    assert peer.agent.counters.over_budget > 0


def test_handshake_bytes_raise_the_three_fold_limit_and_validation_removes_it() -> None:
    peer = Peer()
    peer.check(LAPTOP)
    assert not peer.agent.may_send(LAPTOP, 1200)
    peer.agent.received(LAPTOP, 400, peer.now, authenticated=False)
    assert peer.agent.may_send(LAPTOP, 1200)
    peer.agent.sent(LAPTOP, 1200)
    assert not peer.agent.may_send(LAPTOP, 1200)
    peer.agent.validate(LAPTOP, peer.now)
    assert peer.agent.may_send(LAPTOP, 1_000_000)
    assert not peer.agent.may_send(PHONE, 1), "a path without any valid check"


def test_a_check_is_retransmitted_with_backoff_within_the_three_fold_limit_and_fails() -> None:
    peer = Peer()
    peer.check(LAPTOP)
    peer.agent.received(LAPTOP, 1000, peer.now, authenticated=False)
    start = peer.now
    for _ in range(4):
        peer.advance(peer.now + 2)
        peer.agent.received(LAPTOP, 10, peer.now, authenticated=True)
    times = [at - start for at, transmit in peer.sent if transmit.data[0] == 0]
    assert times == pytest.approx([0, 0.2, 0.6, 1.4, 3.0, 4.6])
    assert peer.agent.counters.checks_failed == 1
    peer.check(LAPTOP)
    assert len(peer.checks_to(LAPTOP)) == 7


def test_after_a_nat_rebinding_the_path_of_the_media_is_selected_without_nomination() -> None:
    peer = Peer()
    peer.connect(LAPTOP)
    peer.advance(peer.now + 2)
    peer.reachable = {PHONE}
    peer.check(PHONE)
    assert peer.agent.is_validated(PHONE)
    assert peer.agent.selected == LAPTOP
    peer.agent.received(PHONE, 100, peer.now, authenticated=True)
    assert peer.agent.selected == PHONE


def test_media_by_two_paths_at_once_does_not_change_the_selected_path_repeatedly() -> None:
    peer = Peer()
    peer.connect(PHONE)
    peer.connect(LAPTOP)
    for frame in range(100):
        peer.now += 0.02
        peer.agent.received((LAPTOP, PHONE)[frame % 2], 100, peer.now, authenticated=True)
        assert peer.agent.selected == LAPTOP


def test_silent_paths_are_released_except_the_selected_one() -> None:
    peer = Peer()
    peer.connect(LAPTOP)
    peer.check(PHONE)
    for _ in range(20):
        peer.advance(peer.now + 2)
        peer.agent.received(LAPTOP, 100, peer.now, authenticated=True)
    assert set(peer.agent.paths) == {LAPTOP}
    assert peer.seen(ice.PathReleased) == [ice.PathReleased(PHONE)]


def test_an_error_response_validates_no_path() -> None:
    peer = Peer()
    peer.check(LAPTOP)
    (check,) = peer.checks_to(LAPTOP)
    unsigned = error_response(check, ErrorCode.UNAUTHENTICATED).encode()
    peer.send(unsigned, LAPTOP)
    signed = error_response(check, ErrorCode.ROLE_CONFLICT).encode(CLIENT.password.encode())
    peer.send(signed, LAPTOP)
    assert peer.agent.counters.bad_integrity == 1
    assert peer.agent.counters.checks_failed == 1
    assert not peer.agent.is_validated(LAPTOP)
    assert peer.check(LAPTOP).message_class is MessageClass.SUCCESS
    assert len(peer.checks_to(LAPTOP)) == 2
