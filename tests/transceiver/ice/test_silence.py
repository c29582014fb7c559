"""The 3 s / 5 s / 30 s rule."""

from antiphon_transceiver import ice
from support.ice import LAPTOP, PHONE, Peer


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
        (30.0, ice.PathDropped(LAPTOP)),
        (30.0, ice.Expired()),
    ]
    assert peer.agent.poll_timeout() is None
    assert peer.agent.selected is None
    assert peer.send(peer.request(), LAPTOP) == []


def test_authenticated_media_is_a_sign_of_life_and_a_handshake_packet_is_none() -> None:
    peer, _ = connected()
    peer.reachable.clear()
    for _ in range(100):
        peer.advance(peer.now + 1)
        peer.agent.heard(LAPTOP, 100, peer.now, authenticated=True)
    assert not peer.sent
    heard_last = peer.now
    for _ in range(100):
        peer.advance(peer.now + 1)
        peer.agent.heard(LAPTOP, 100, peer.now, authenticated=False)
    assert [(at - heard_last, event) for at, event in peer.events if not isinstance(event, ice.PathDropped)] == [
        (5.0, ice.Disconnected()),
        (30.0, ice.Expired()),
    ]


def test_a_probe_ends_when_the_path_comes_back_to_life_by_itself() -> None:
    peer, start = connected()
    peer.reachable.clear()
    peer.advance(start + 3.2)
    peer.agent.heard(LAPTOP, 100, peer.now, authenticated=True)
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
            peer.agent.heard(LAPTOP, 100, peer.now, authenticated=True)
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
    verdicts = [(at - start, event) for at, event in peer.events if isinstance(event, ice.Disconnected | ice.Expired)]
    assert verdicts == [(5.0, ice.Disconnected()), (30.0, ice.Expired())]


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
    verdicts = [(at - start, event) for at, event in peer.events if isinstance(event, ice.Disconnected | ice.Expired)]
    assert verdicts == [(5.0, ice.Disconnected()), (30.0, ice.Expired())]
