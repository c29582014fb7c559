"""A session whose caller has a path by each of two ingresses."""

import pytest

from antiphon_common.core import Path
from antiphon_common.frames import Audio
from antiphon_common.stun import AttributeType, Message, MessageClass, success_response
from antiphon_transceiver.dtls.record import ContentType
from antiphon_transceiver.outcome import EndReason
from support.sim.call_pair import CallPair, opus_packet

FIRST_INGRESS, SECOND_INGRESS = 0, 2
VICTIM = Path.of("203.0.113.9", 9)


class TwoIngresses:
    """A connected pair whose caller has a second path. Datagrams of the session are recorded, not delivered."""

    def __init__(self) -> None:
        pair = CallPair().connect()
        self.call, self.now = pair.call, pair.network.now
        self.first = pair.network.left.path
        self.second = self.first._replace(ingress=SECOND_INGRESS)
        self.local, self.remote = pair.client.ice_parameters, pair.accepted.ice
        self.check(self.second)
        assert self.call.agent.is_validated(self.second)

    def check(self, path: Path) -> None:
        name = f"{self.remote.ufrag}:{self.local.ufrag}".encode()
        attributes: dict[int, bytes] = {AttributeType.USERNAME: name, AttributeType.ICE_CONTROLLING: b"tiebreak"}
        check = Message(MessageClass.REQUEST, b"transaction1", attributes).encode(self.remote.password.encode())
        self.call.receive_datagram(check, path, self.now)
        self.collect()

    def collect(self) -> list[Path]:
        """Return the paths to which the session sends media, and answer its checks."""
        paths = []
        while (transmit := self.call.poll_transmit()) is not None:
            assert transmit.path is not None
            if transmit.data[0] >= 0x80:
                paths.append(transmit.path)
            elif transmit.data[:2] == b"\0\1":
                answer = success_response(Message.decode(transmit.data), transmit.path.address, transmit.path.port)
                datagram = answer.encode(self.local.password.encode())
                self.call.receive_datagram(datagram, transmit.path, self.now)
        return paths

    def play(self, frames: int) -> list[Path]:
        """Play frames in real time; return the paths by which they leave."""
        paths = []
        for number in range(frames):
            self.call.receive_frame(Audio(1, opus_packet(number), response=1), self.now)
            self.now += 0.02
            self.call.handle_timeout(self.now)
            paths += self.collect()
        return paths


def test_media_uses_the_other_ingress_until_the_first_receives_a_packet_again() -> None:
    caller = TwoIngresses()
    assert set(caller.play(20)) == {caller.first}
    caller.call.switch_ingress(FIRST_INGRESS, caller.now)
    assert set(caller.play(20)) == {caller.second}
    caller.check(caller.first)
    assert set(caller.play(20)) == {caller.first}


def test_without_another_ingress_media_keeps_its_path() -> None:
    caller = TwoIngresses()
    caller.call.switch_ingress(SECOND_INGRESS, caller.now)
    assert set(caller.play(20)) == {caller.first}
    caller.call.switch_ingress(FIRST_INGRESS, caller.now)
    assert set(caller.play(20)) == {caller.first}


def test_an_ended_session_ignores_an_unreachable_ingress() -> None:
    caller = TwoIngresses()
    caller.call.end(EndReason.HANGUP, "", caller.now)
    caller.collect()
    caller.call.switch_ingress(FIRST_INGRESS, caller.now)
    assert caller.call.poll_transmit() is None


def check_from(pair: CallPair, path: Path) -> None:
    """Send a check with the caller's credentials from a path."""
    name = f"{pair.accepted.ice.ufrag}:{pair.client.ice_parameters.ufrag}".encode()
    attributes: dict[int, bytes] = {AttributeType.USERNAME: name, AttributeType.ICE_CONTROLLING: b"tiebreak"}
    check = Message(MessageClass.REQUEST, b"transaction1", attributes).encode(pair.accepted.ice.password.encode())
    pair.call.receive_datagram(check, path, pair.network.now)


@pytest.mark.parametrize("spoofed", [False, True])
def test_a_handshake_validates_a_path_only_if_all_its_flights_were_sent_there(spoofed: bool) -> None:
    """A caller could receive our flights and send its last one from a victim's address. The victim would get media."""
    pair = CallPair()
    home = pair.network.left.path
    last_by = VICTIM if spoofed else home

    def intercept(datagram: bytes) -> list[bytes]:
        if datagram[:2] == b"\1\1":
            return []  # no answer to our check validates anything
        if datagram[0] != ContentType.CHANGE_CIPHER_SPEC:
            return [datagram]
        if spoofed:
            check_from(pair, VICTIM)
        pair.call.receive_datagram(datagram, last_by, pair.network.now)
        return []

    pair.network.left.rewrite = intercept
    pair.network.run(lambda: pair.call.connected, limit=2.0)
    assert pair.call.connected
    assert pair.call.agent.is_validated(last_by) is not spoofed
    assert not pair.call.agent.is_validated(VICTIM)


@pytest.mark.parametrize("datagram", [bytes((21, 0xFE, 0xFD, *bytes(9), 2, 2, 40)), b"\x16\xfe\xfd" + bytes(40)])
def test_a_handshake_record_from_an_address_without_a_check_is_dropped(datagram: bytes) -> None:
    pair = CallPair()
    pair.network.run(lambda: bool(pair.call.agent.paths), limit=1.0)
    pair.network.left.rewrite = lambda datagram: []
    dropped = pair.call.transport.counters.unknown_protocol
    pair.call.receive_datagram(datagram, VICTIM, pair.network.now)
    pair.network.run(limit=pair.network.now + 1.0)
    assert pair.call.transport.counters.unknown_protocol == dropped + 1
    assert pair.call.ended is None
