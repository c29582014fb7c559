"""The first audio of a caller whose handshake ends before the session's."""

from antiphon.client.call import ClientConnected
from antiphon_common.core import Path
from antiphon_transceiver.dtls.record import ContentType
from antiphon_transceiver.events import MediaStarted
from antiphon_transceiver.peer_transport import MAX_EARLY_PACKETS
from antiphon_transceiver.transport_events import Connected
from support.sim.call_pair import CallPair

SPOOFED = Path.of("203.0.113.9", 9)


def pair_without_last_flight(until: float) -> CallPair:
    """Connect a caller and drop its Finished until `until`."""
    pair = CallPair()
    assert pair.call.answer.setup == "active"

    def lose(datagram: bytes) -> list[bytes]:
        return [] if datagram[0] == ContentType.CHANGE_CIPHER_SPEC and pair.network.now < until else [datagram]

    pair.network.left.rewrite = lose
    assert pair.network.run(lambda: any(isinstance(e, ClientConnected) for e in pair.network.left.events), limit=1.0)
    return pair


def test_audio_that_arrives_before_finished_is_delivered_in_order_at_its_position() -> None:
    pair = pair_without_last_flight(until=1.0)
    pair.talk(0.6)
    assert not pair.call.connected
    assert pair.backend_received == []
    pair.network.run(lambda: pair.call.connected, limit=3.0)
    pair.talk(0.6)
    assert pair.backend_received == list(range(60))
    first, second, *_ = (type(e) for e in pair.network.right.events if isinstance(e, Connected | MediaStarted))
    assert (first, second) == (Connected, MediaStarted)
    frames = [frame for frame in pair.backend.audio if frame.data]
    assert [frame.position - frames[0].position for frame in frames[:30]] == [960 * number for number in range(30)]
    assert pair.call.stream.uplink.jitter.counters.resynchronised == 0


def test_a_handshake_from_an_address_without_an_authenticated_check_is_dropped() -> None:
    pair = CallPair()
    pair.network.run(lambda: any(data[0] == ContentType.HANDSHAKE for data in pair.network.left.sent), limit=1.0)
    flight = next(data for data in pair.network.left.sent if data[0] == ContentType.HANDSHAKE)
    fresh = CallPair()
    fresh.call.receive_datagram(flight, SPOOFED, fresh.network.now)
    assert fresh.call.transport.counters.unknown_protocol == 1
    fresh.connect()


def test_the_newest_packets_before_finished_are_held_and_spoofed_ones_are_dropped() -> None:
    pair = pair_without_last_flight(until=4.0)
    pair.talk(2.0)
    dropped = pair.call.transport.counters.srtp_early
    assert dropped >= 100 - MAX_EARLY_PACKETS
    pair.call.receive_datagram(b"\x80" + bytes(40), SPOOFED, pair.network.now)
    assert pair.call.transport.counters.srtp_early == dropped + 1
    pair.call.receive_datagram(b"\x80" + bytes(40), pair.network.left.path, pair.network.now)
    pair.network.run(lambda: pair.call.connected, limit=10.0)
    assert pair.backend_received == list(range(100 - MAX_EARLY_PACKETS + 1, 100))
    assert pair.call.transport.counters.srtp_failed == 1
