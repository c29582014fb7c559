"""The chunks that the sending half of an association makes."""

from antiphon_transceiver.sctp.chunks import Data, Sack
from antiphon_transceiver.sctp.congestion import CongestionControl
from antiphon_transceiver.sctp.data_sender import DataSender
from antiphon_transceiver.sctp.outbound_message import OutboundMessage
from antiphon_transceiver.sctp.packet import SctpPacket, encode_packet
from antiphon_transceiver.sctp.rto import RetransmissionTimeout


def test_stream_sequence_numbers_wrap_after_65535() -> None:
    """A channel with an event each second reaches the wrap within a day (RFC 9260 §1.6)."""
    outbound = DataSender(0, CongestionControl(1188), RetransmissionTimeout())
    outbound.peer_rwnd = 1 << 20
    sent = 0
    wire: list[bytes] = []
    while sent < 65540:
        for _ in range(40):
            outbound.push(OutboundMessage(1, 51, b"x", False, None, None))
        wire = outbound.take(1188, 0.0, empty=1188)
        sent += len(wire)
        outbound.receive_sack(Sack(sent - 1, 1 << 20), 0.0)
    chunks = SctpPacket.decode(encode_packet(1, 1, 1, wire)).chunks
    ssns = [chunk.ssn for chunk in chunks if isinstance(chunk, Data)]
    assert ssns == [(sent - len(wire) + number) % 65536 for number in range(len(wire))]
    assert ssns[-1] < 100
