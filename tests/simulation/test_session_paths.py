"""A session whose caller is reached by two ingresses."""

import pytest

from antiphon_common.core import Path
from antiphon_common.stun import Attribute, Message, MessageClass, success_response
from antiphon_transceiver.dtls.record import ContentType
from antiphon_transceiver.outcome import EndReason
from support.sim.session_pair import SessionPair, opus_packet

FIRST_INGRESS, SECOND_INGRESS = 0, 2
VICTIM = Path.of("203.0.113.9", 9)


class TwoIngresses:
    """A connected pair whose caller has another path; what the session sends from now on is only noted."""

    def __init__(self) -> None:
        pair = SessionPair().connect()
        self.session, self.now = pair.session, pair.network.now
        self.first = pair.network.left.path
        self.second = self.first._replace(ingress=SECOND_INGRESS)
        self.local, self.remote = pair.client.ice_parameters, pair.accepted.ice
        self.check(self.second)
        assert self.session.agent.is_validated(self.second)

    def check(self, path: Path) -> None:
        name = f"{self.remote.ufrag}:{self.local.ufrag}".encode()
        attributes: dict[int, bytes] = {Attribute.USERNAME: name, Attribute.ICE_CONTROLLING: b"tiebreak"}
        check = Message(MessageClass.REQUEST, b"transaction1", attributes).encode(self.remote.password.encode())
        self.session.receive_datagram(check, path, self.now)
        self.collect()

    def collect(self) -> list[Path]:
        """Return where the session sends media to, and answer its checks."""
        paths = []
        while (transmit := self.session.poll_transmit()) is not None:
            assert transmit.path is not None
            if transmit.data[0] >= 0x80:
                paths.append(transmit.path)
            elif transmit.data[:2] == b"\0\1":
                answer = success_response(Message.decode(transmit.data), transmit.path.address, transmit.path.port)
                datagram = answer.encode(self.local.password.encode())
                self.session.receive_datagram(datagram, transmit.path, self.now)
        return paths

    def play(self, frames: int) -> list[Path]:
        """Play frames in real time; return the paths by which they leave."""
        paths = []
        for number in range(frames):
            self.session.play(1, opus_packet(number))
            self.now += 0.02
            self.session.handle_timeout(self.now)
            paths += self.collect()
        return paths


def test_media_takes_the_other_ingress_until_something_is_received_by_the_first() -> None:
    caller = TwoIngresses()
    assert set(caller.play(20)) == {caller.first}
    caller.session.unreachable(FIRST_INGRESS, caller.now)
    assert set(caller.play(20)) == {caller.second}
    caller.check(caller.first)
    assert set(caller.play(20)) == {caller.first}


def test_without_another_ingress_media_keeps_its_path() -> None:
    caller = TwoIngresses()
    caller.session.unreachable(SECOND_INGRESS, caller.now)
    assert set(caller.play(20)) == {caller.first}
    caller.session.unreachable(FIRST_INGRESS, caller.now)
    assert set(caller.play(20)) == {caller.first}


def test_an_ended_session_ignores_an_unreachable_ingress() -> None:
    caller = TwoIngresses()
    caller.session.close(EndReason.HANGUP, "", caller.now)
    caller.collect()
    caller.session.unreachable(FIRST_INGRESS, caller.now)
    assert caller.session.poll_transmit() is None


def check_from(pair: SessionPair, path: Path) -> None:
    """Send a check with the caller's credentials in the name of a path."""
    name = f"{pair.accepted.ice.ufrag}:{pair.client.ice_parameters.ufrag}".encode()
    attributes: dict[int, bytes] = {Attribute.USERNAME: name, Attribute.ICE_CONTROLLING: b"tiebreak"}
    check = Message(MessageClass.REQUEST, b"transaction1", attributes).encode(pair.accepted.ice.password.encode())
    pair.session.receive_datagram(check, path, pair.network.now)


@pytest.mark.parametrize("spoofed", [False, True])
def test_a_handshake_validates_its_path_only_if_all_its_flights_went_there(spoofed: bool) -> None:
    """A caller could read our flights at home and send its last one from a victim's address, which then gets media."""
    pair = SessionPair()
    home = pair.network.left.path
    last_by = VICTIM if spoofed else home

    def intercept(datagram: bytes) -> list[bytes]:
        if datagram[:2] == b"\1\1":
            return []  # no answer to our check validates anything
        if datagram[0] != ContentType.CHANGE_CIPHER_SPEC:
            return [datagram]
        if spoofed:
            check_from(pair, VICTIM)
        pair.session.receive_datagram(datagram, last_by, pair.network.now)
        return []

    pair.network.left.rewrite = intercept
    pair.network.run(lambda: pair.session.was_connected, limit=2.0)
    assert pair.session.was_connected
    assert pair.session.agent.is_validated(last_by) is not spoofed
    assert not pair.session.agent.is_validated(VICTIM)


@pytest.mark.parametrize("datagram", [bytes((21, 0xFE, 0xFD, *bytes(9), 2, 2, 40)), b"\x16\xfe\xfd" + bytes(40)])
def test_a_handshake_record_from_an_address_without_a_check_is_dropped(datagram: bytes) -> None:
    pair = SessionPair()
    pair.network.run(lambda: bool(pair.session.paths), limit=1.0)
    pair.network.left.rewrite = lambda datagram: []
    dropped = pair.session.counters.unknown_protocol
    pair.session.receive_datagram(datagram, VICTIM, pair.network.now)
    pair.network.run(limit=pair.network.now + 1.0)
    assert pair.session.counters.unknown_protocol == dropped + 1
    assert pair.session.ended is None
