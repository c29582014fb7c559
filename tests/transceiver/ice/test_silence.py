"""The 3 s / 5 s / 30 s rule."""

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


def test_a_peer_that_answers_probes_stays_connected() -> None:
    peer, start = connected()
    peer.advance(start + 600)
    assert not peer.seen()
    assert len(peer.checks_to(LAPTOP)) == 200


def test_silence_is_probed_at_3_disconnects_at_5_and_expires_at_30_seconds() -> None:
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


def test_authenticated_media_is_a_sign_of_life_and_a_handshake_packet_is_none() -> None:
    peer, start = connected()
    peer.reachable.clear()
    for _ in range(100):
        peer.advance(peer.now + 1)
        peer.agent.received(LAPTOP, 100, peer.now, authenticated=True)
    assert not peer.seen()
    assert len(peer.sent) <= 2 * (peer.now - start) / ice.CONSENT_INTERVAL
    heard_last = peer.now
    for _ in range(100):
        peer.advance(peer.now + 1)
        peer.agent.received(LAPTOP, 100, peer.now, authenticated=False)
    assert [(at - heard_last, event) for at, event in peer.events if not isinstance(event, ice.PathReleased)] == [
        (5.0, ice.Disconnected()),
        (30.0, ice.IceFailed(ice.IceFailure.CONSENT_EXPIRED)),
    ]


@pytest.mark.parametrize("answers", [True, False])
def test_the_selected_path_is_checked_every_few_seconds_while_media_flows(answers: bool) -> None:
    """Some embedded clients hang up when they receive no check for 10 s; one check may get lost (RFC 7675 §5.1)."""
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


def test_the_path_that_is_selected_now_is_the_one_that_is_checked() -> None:
    peer, _ = connected()
    peer.connect(PHONE)
    assert peer.agent.selected == PHONE
    peer.sent.clear()
    for _ in range(60):
        peer.advance(peer.now + 1)
        peer.agent.received(PHONE, 100, peer.now, authenticated=True)
    assert len(peer.checks_to(PHONE)) >= 12
    assert not peer.checks_to(LAPTOP)


def test_a_probe_ends_when_the_path_comes_back_to_life_by_itself() -> None:
    peer, start = connected()
    peer.reachable.clear()
    peer.advance(start + 3.2)
    peer.agent.received(LAPTOP, 100, peer.now, authenticated=True)
    peer.advance(start + 6)
    assert len(peer.checks_to(LAPTOP)) == 1
    assert not peer.seen()


def test_a_check_or_an_answer_brings_the_peer_back() -> None:
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


def test_a_peer_that_comes_back_elsewhere_is_followed_once_it_answered_there() -> None:
    peer, start = connected()
    peer.reachable.clear()
    peer.advance(start + 10)
    peer.check(PHONE)
    assert peer.seen() == [ice.Disconnected(), ice.PathOpened(PHONE)]
    peer.answer(peer.checks_to(PHONE)[0], PHONE)
    peer.drain()
    assert peer.seen()[2:] == [ice.PathValidated(PHONE), ice.PathSelected(PHONE), ice.Reconnected()]


def test_a_captured_check_replayed_from_elsewhere_keeps_nothing_alive() -> None:
    peer, start = connected()
    captured = peer.request(use_candidate=True)
    peer.reachable.clear()
    while peer.now < start + 40:
        peer.advance(peer.now + 1)
        peer.send(captured, PHONE)
    verdicts = [(at - start, event) for at, event in peer.events if isinstance(event, ice.Disconnected | ice.IceFailed)]
    assert verdicts == [(5.0, ice.Disconnected()), (30.0, ice.IceFailed(ice.IceFailure.CONSENT_EXPIRED))]


def test_another_live_path_takes_over_when_the_selected_one_dies() -> None:
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


def test_a_set_up_that_falls_silent_expires_too() -> None:
    peer = Peer()
    peer.check(LAPTOP, use_candidate=True)
    start = peer.now
    peer.advance(start + 60)
    verdicts = [(at - start, event) for at, event in peer.events if isinstance(event, ice.Disconnected | ice.IceFailed)]
    assert verdicts == [(5.0, ice.Disconnected()), (30.0, ice.IceFailed(ice.IceFailure.CONSENT_EXPIRED))]
