"""A second ingress without a shared address: its path is a standby pair, selected when the first ingress is lost."""

import random
from collections.abc import Callable

import pytest

from antiphon_common.core import Path
from antiphon_common.stun import Message, MessageClass
from antiphon_transceiver import ice
from support.peers.ice_peer import LAPTOP, Peer

FIRST = LAPTOP._replace(ingress=1)
SECOND = LAPTOP._replace(ingress=2)
FIRST_AGAIN = Path.of("192.0.2.10", 50002, ingress=1)

PRUNED_AFTER = 5.0
DEAD_AFTER = 30.0
"""Seconds without anything received after which libwebrtc drops a pair (`DEAD_CONNECTION_RECEIVE_TIMEOUT`). It checks
one pair of each network once that is nominated. A check of ours counts as received, and is answered."""


class Browser(Peer):
    """Two pairs as in Chromium: the selected one is checked every 2.5 s, the other only at the start."""

    began = 0.0

    def connect_both(self) -> None:
        self.connect(FIRST)
        self.connect(SECOND)
        self.check(FIRST, use_candidate=True)
        self.events.clear()
        self.began = self.now

    def run(self, seconds: float, *, path: Path = FIRST) -> None:
        """Send media by a path and check it. Check the second path while it is new."""
        end = self.now + seconds
        while self.now < end:
            self.advance(self.now + 0.5)
            self.agent.received(path, 100, self.now, authenticated=True)
            self.drain()
            if self.now % 2.5 == 0:
                self.check(path, use_candidate=True)
                if self.now < self.began + PRUNED_AFTER:
                    self.check(SECOND)
            checks = [at for at, transmit in self.sent if transmit.path == SECOND]
            if self.now > max(checks, default=self.began) + DEAD_AFTER:
                self.reachable.discard(SECOND)


def connected() -> Browser:
    peer = Browser()
    peer.connect_both()
    assert peer.agent.selected == FIRST
    return peer


def test_a_standby_pair_that_the_peer_does_not_check_is_kept_for_ten_minutes() -> None:
    for seconds in (60, 600):
        peer = connected()
        peer.run(seconds)
        assert peer.agent.is_validated(SECOND)
        assert SECOND in peer.reachable
        assert not peer.events
        asked = [at - peer.began for at, transmit in peer.sent if transmit.path == SECOND and is_check(transmit.data)]
        assert asked[1:] == [ice.STANDBY_INTERVAL * n for n in range(1, seconds // 10 + 1)]


def test_another_path_of_the_selected_ingress_is_no_standby_pair() -> None:
    peer = Browser()
    peer.connect(FIRST_AGAIN)
    peer.connect(FIRST)
    sent = len(peer.checks_to(FIRST_AGAIN))
    peer.began = peer.now
    peer.run(60)
    assert len(peer.checks_to(FIRST_AGAIN)) == sent
    assert set(peer.agent.paths) == {FIRST}


def test_only_the_latest_path_of_an_ingress_is_a_standby_pair() -> None:
    peer = connected()
    stale = SECOND._replace(port=50003)
    peer.connect(stale)
    peer.check(FIRST, use_candidate=True)
    peer.run(1)
    peer.check(SECOND)
    peer.run(60)
    assert set(peer.agent.paths) == {FIRST, SECOND}
    assert len(peer.checks_to(stale)) == 1


def test_a_path_that_is_not_validated_is_no_standby_pair() -> None:
    """The three-fold limit applies to it. A check replayed by another ingress does not keep the path."""
    peer = Browser()
    peer.connect(FIRST)
    request = peer.request()
    peer.send(request, SECOND)
    peer.began = peer.now - PRUNED_AFTER
    peer.run(40)
    assert peer.bytes_to(SECOND) <= 3 * len(request)
    assert not peer.agent.is_validated(SECOND)
    assert set(peer.agent.paths) == {FIRST}
    peer.agent.unreachable(1, peer.now)
    assert peer.agent.selected == FIRST


def test_a_standby_pair_that_does_not_answer_is_released() -> None:
    peer = connected()
    peer.reachable.discard(SECOND)
    peer.run(45)
    assert peer.seen() == [ice.PathReleased(SECOND)]


def test_a_standby_pair_is_selected_and_checked_when_the_ingress_is_unreachable() -> None:
    peer = connected()
    peer.run(39.5)
    peer.sent.clear()
    lost = peer.now
    peer.agent.unreachable(1, peer.now)
    peer.drain()
    assert peer.agent.selected == SECOND
    assert peer.seen() == [ice.PathSelected(SECOND)]
    assert len(peer.checks_to(SECOND)) == 1
    peer.agent.unreachable(1, peer.now)
    peer.agent.unreachable(7, peer.now)
    peer.drain()
    assert len(peer.checks_to(SECOND)) == 1

    peer.reachable.discard(FIRST)
    peer.run(30, path=SECOND)
    assert [event for _, event in peer.events[1:]] == [ice.PathReleased(FIRST)]
    assert peer.agent.selected == SECOND
    assert peer.now == lost + 30


def test_a_standby_pair_has_five_seconds_to_answer_once_selected() -> None:
    """A packet was received by it nearly ten seconds ago, which is not proof of consent."""
    peer = connected()
    peer.run(39.5)
    lost = peer.now
    peer.reachable.clear()
    peer.agent.unreachable(1, peer.now)
    peer.advance(lost + 40)
    outcomes = [(at - lost, event) for at, event in peer.events if isinstance(event, ice.Disconnected | ice.IceFailed)]
    assert outcomes == [(5.0, ice.Disconnected()), (30.0, ice.IceFailed(ice.IceFailure.CONSENT_EXPIRED))]


def test_the_preferred_path_is_selected_again_once_something_authenticated_is_received_by_it() -> None:
    signs: list[Callable[[Browser], object]] = [
        lambda peer: peer.check(FIRST),
        lambda peer: peer.agent.received(FIRST, 100, peer.now, authenticated=True),
        lambda peer: peer.agent.received(FIRST_AGAIN, 100, peer.now, authenticated=True),
    ]
    for sign in signs:
        peer = connected()
        peer.check(FIRST_AGAIN)
        peer.agent.validate(FIRST_AGAIN, peer.now)
        peer.agent.unreachable(1, peer.now)
        peer.drain()
        assert peer.agent.selected == SECOND
        peer.agent.received(FIRST, 100, peer.now, authenticated=False)
        assert peer.agent.selected == SECOND
        sign(peer)
        peer.drain()
        assert peer.agent.selected == FIRST


def test_a_standby_pair_that_is_nominated_or_used_for_media_stays_selected() -> None:
    nominated, moved = connected(), connected()
    for peer in (nominated, moved):
        peer.agent.unreachable(1, peer.now)
        peer.advance(peer.now + 2)
    nominated.check(SECOND, use_candidate=True)
    moved.agent.received(SECOND, 100, moved.now, authenticated=True)
    for peer in (nominated, moved):
        peer.check(FIRST)
        assert peer.agent.selected == SECOND
        peer.check(FIRST, use_candidate=True)
        assert peer.agent.selected == FIRST


def test_a_standby_pair_that_is_validated_later_is_selected_then() -> None:
    peer = Browser()
    peer.connect(FIRST)
    peer.agent.unreachable(1, peer.now)
    assert peer.agent.selected == FIRST
    peer.reachable.add(SECOND)
    peer.check(SECOND)
    assert peer.agent.selected == SECOND


def test_a_standby_pair_is_selected_five_seconds_after_the_selected_path_fell_silent() -> None:
    peer = connected()
    peer.run(39.5)
    silent = peer.now
    peer.reachable.discard(FIRST)
    peer.advance(silent + 20)
    assert [(at - silent, event) for at, event in peer.events] == [(5.0, ice.PathSelected(SECOND))]


@pytest.mark.parametrize("seed", range(5))
def test_after_any_sequence_of_events_a_validated_path_is_selected_and_no_timer_is_overdue(seed: int) -> None:
    print("seed", seed)
    source = random.Random(seed)
    peer = Peer(seed=seed)
    paths = [Path.of("192.0.2.10", 50000 + number, ingress=number % 3) for number in range(7)]
    for _ in range(2000):
        path = source.choice(paths)
        match source.choice(["check", "check", "media", "unreachable", "break", "mend", "mend", "wait", "wait"]):
            case "check":
                peer.send(peer.request(use_candidate=source.random() < 0.3), path)
            case "media":
                peer.agent.received(path, 100, peer.now, authenticated=True)
            case "unreachable":
                peer.agent.unreachable(path.ingress, peer.now)
                others = [other for other in peer.agent.paths if other.ingress != path.ingress]
                for other in others:
                    peer.agent.received(other, 100, peer.now, authenticated=True)
                if any(peer.agent.is_validated(other) for other in others):
                    assert peer.agent.selected in others
            case "break":
                peer.reachable.discard(path)
            case "mend":
                peer.reachable.add(path)
            case "wait":
                peer.advance(peer.now + source.choice([0.02, 0.5, 3.0, 7.0]))
        peer.drain()
        peer.agent.handle_timeout(peer.now)
        peer.drain()
        assert peer.agent.poll_timeout() > peer.now
        if any(peer.agent.is_validated(other) for other in peer.agent.paths):
            assert peer.agent.selected is not None
            assert peer.agent.is_validated(peer.agent.selected)
        if peer.seen(ice.IceFailed):
            break
    print(
        f"{peer.now - 1000:.0f} s, {len(peer.seen(ice.PathSelected))} selected, {len(peer.seen(ice.Disconnected))} lost"
    )


def is_check(datagram: bytes) -> bool:
    return Message.decode(datagram).message_class is MessageClass.REQUEST
