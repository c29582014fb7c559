"""A silent peer: checked after 3 s, disconnected after 5 s, released after 30 s."""

import itertools
from math import inf

import pytest

from antiphon_transceiver import ice
from support.peers.ice_peer import LAPTOP, PHONE, Peer


def connected() -> tuple[Peer, float]:
    peer = Peer()
    peer.connect(LAPTOP)
    peer.sent.clear()
    peer.events.clear()
    return peer, peer.now


def test_a_peer_that_answers_consent_checks_stays_connected() -> None:
    peer, start = connected()
    peer.advance(start + 600)
    assert not peer.seen()
    assert len(peer.checks_to(LAPTOP)) == 200


def test_a_silent_peer_is_checked_after_3_disconnected_after_5_and_released_after_30_seconds() -> None:
    peer, start = connected()
    peer.reachable.clear()
    peer.advance(start + 100)
    assert [at - start for at, _ in peer.sent][:3] == [3.0, 3.5, 4.5]
    assert [(at - start, event) for at, event in peer.events] == [
        (5.0, ice.Disconnected()),
        (30.0, ice.PathReleased(LAPTOP)),
        (30.0, ice.IceFailed(ice.IceFailure.CONSENT_EXPIRED)),
    ]
    assert peer.agent.poll_timeout() == inf
    assert peer.agent.selected is None
    assert peer.send(peer.request(), LAPTOP) == []


def test_authenticated_media_renews_consent_and_a_handshake_packet_does_not() -> None:
    peer, start = connected()
    peer.reachable.clear()
    for _ in range(100):
        peer.advance(peer.now + 1)
        peer.agent.received(LAPTOP, 100, peer.now, authenticated=True)
    assert not peer.seen()
    assert len(peer.sent) <= 2 * (peer.now - start) / ice.CONSENT_INTERVAL
    received_last = peer.now
    for _ in range(100):
        peer.advance(peer.now + 1)
        peer.agent.received(LAPTOP, 100, peer.now, authenticated=False)
    assert [(at - received_last, event) for at, event in peer.events if not isinstance(event, ice.PathReleased)] == [
        (5.0, ice.Disconnected()),
        (30.0, ice.IceFailed(ice.IceFailure.CONSENT_EXPIRED)),
    ]


@pytest.mark.parametrize("answers", [True, False])
def test_the_selected_path_is_checked_every_few_seconds_while_media_flows(answers: bool) -> None:
    """Some embedded clients hang up after 10 s without a check. One check may be lost (RFC 7675 §5.1)."""
    peer, start = connected()
    if not answers:
        peer.reachable.clear()
    while peer.now < start + 120:
        peer.advance(peer.now + 0.02)
        peer.agent.received(LAPTOP, 100, peer.now, authenticated=True)
    times = [start, *(at for at, transmit in peer.sent if transmit.path == LAPTOP)]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert max(gaps) <= 1.2 * ice.CONSENT_INTERVAL + 0.02 < 10.0 / 2
    assert min(gaps) >= 0.8 * ice.CONSENT_INTERVAL
    assert len(set(gaps)) > 5, "intervals vary"
    assert len({check.transaction_id for check in peer.checks_to(LAPTOP)}) == len(gaps), "each is a new transaction"
    assert not peer.seen()


def test_only_the_selected_path_of_an_ingress_is_checked() -> None:
    peer, _ = connected()
    peer.connect(PHONE)
    assert peer.agent.selected == PHONE
    peer.sent.clear()
    for _ in range(60):
        peer.advance(peer.now + 1)
        peer.agent.received(PHONE, 100, peer.now, authenticated=True)
    assert len(peer.checks_to(PHONE)) >= 12
    assert not peer.checks_to(LAPTOP)


def test_a_consent_check_ends_when_media_is_received_by_the_path() -> None:
    peer, start = connected()
    peer.reachable.clear()
    peer.advance(start + 3.2)
    peer.agent.received(LAPTOP, 100, peer.now, authenticated=True)
    peer.advance(start + 6)
    assert len(peer.checks_to(LAPTOP)) == 1
    assert not peer.seen()


def test_a_check_a_response_or_media_reconnects_the_peer() -> None:
    for come_back in ("check", "answer", "media"):
        peer, start = connected()
        peer.reachable.clear()
        peer.advance(start + 29)
        assert peer.seen() == [ice.Disconnected()]
        if come_back == "check":
            peer.check(LAPTOP)
        elif come_back == "answer":
            peer.answer(peer.checks_to(LAPTOP)[-1], LAPTOP)
        else:
            peer.agent.received(LAPTOP, 100, peer.now, authenticated=True)
        peer.drain()
        assert peer.seen() == [ice.Disconnected(), ice.Reconnected()]
        assert peer.agent.selected == LAPTOP


def test_a_disconnected_peer_reconnects_by_a_new_path_once_it_is_validated() -> None:
    peer, start = connected()
    peer.reachable.clear()
    peer.advance(start + 10)
    peer.check(PHONE)
    assert peer.seen() == [ice.Disconnected(), ice.PathOpened(PHONE)]
    peer.answer(peer.checks_to(PHONE)[0], PHONE)
    peer.drain()
    assert peer.seen()[2:] == [ice.PathValidated(PHONE), ice.PathSelected(PHONE), ice.Reconnected()]


def test_a_replayed_check_from_a_spoofed_source_renews_no_consent() -> None:
    peer, start = connected()
    captured = peer.request(use_candidate=True)
    peer.reachable.clear()
    while peer.now < start + 40:
        peer.advance(peer.now + 1)
        peer.send(captured, PHONE)
    outcomes = [(at - start, event) for at, event in peer.events if isinstance(event, ice.Disconnected | ice.IceFailed)]
    assert outcomes == [(5.0, ice.Disconnected()), (30.0, ice.IceFailed(ice.IceFailure.CONSENT_EXPIRED))]


def test_another_path_with_fresh_consent_is_selected_when_the_selected_one_fell_silent() -> None:
    peer = Peer()
    peer.connect(PHONE)
    peer.connect(LAPTOP)
    died = peer.now
    peer.reachable = {PHONE}
    for _ in range(6):
        peer.advance(peer.now + 1)
        peer.check(PHONE)
    assert peer.agent.selected == PHONE
    assert peer.events[-1] == (died + 5.0, ice.PathSelected(PHONE))
    assert not peer.seen(ice.Disconnected)


def test_consent_expires_also_before_a_path_is_validated() -> None:
    peer = Peer()
    peer.check(LAPTOP, use_candidate=True)
    start = peer.now
    peer.advance(start + 60)
    outcomes = [(at - start, event) for at, event in peer.events if isinstance(event, ice.Disconnected | ice.IceFailed)]
    assert outcomes == [(5.0, ice.Disconnected()), (30.0, ice.IceFailed(ice.IceFailure.CONSENT_EXPIRED))]
