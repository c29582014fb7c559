"""Unprotected RTP and RTCP: a session neither accepts nor sends any."""

import struct

from antiphon_common.demux import Protocol, classify
from antiphon_transceiver.events import MediaEnded
from support.sim.call_pair import CallPair, opus_packet

PAYLOAD_TYPE = 111
SSRC = 0x1234


def plain_rtp(number: int) -> bytes:
    return struct.pack("!BBHII", 0x80, PAYLOAD_TYPE, number, 960 * number, SSRC) + opus_packet(number)


def plain_bye(ssrc: int) -> bytes:
    """Return a compound packet of an empty receiver report and a BYE."""
    return struct.pack("!BBHI", 0x80, 201, 1, ssrc) + struct.pack("!BBHI", 0x81, 203, 1, ssrc)


def test_unprotected_rtp_is_dropped() -> None:
    pair = CallPair().connect()
    for number in range(50):
        pair.call.receive_datagram(plain_rtp(number), pair.network.left.path, pair.network.now)
        pair.network.run(limit=pair.network.now + 0.02)
    assert pair.backend_received == []
    assert pair.call.transport.counters.srtp_failed == 50


def test_an_unprotected_bye_ends_no_stream() -> None:
    pair = CallPair().connect()
    pair.talk(0.4)
    sources = {int.from_bytes(data[8:12], "big") for data in pair.network.left.sent if classify(data) == Protocol.RTP}
    (ssrc,) = sources
    pair.call.receive_datagram(plain_bye(ssrc), pair.network.left.path, pair.network.now)
    pair.talk(0.4)
    assert not [event for event in pair.network.right.events if isinstance(event, MediaEnded)]
    assert pair.backend_received == list(range(40))


def test_no_unprotected_rtp_or_rtcp_is_sent() -> None:
    pair = CallPair().connect()
    pair.talk(8.0)
    sent = pair.network.right.sent
    assert {Protocol.RTP, Protocol.RTCP} <= {Protocol(classify(data)) for data in sent}
    assert not [data for data in sent if b"cname" in data or opus_packet(7)[1:] in data]
