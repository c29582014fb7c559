"""The cost of one compound packet of 1,200 bytes with any content, counted in work instead of time."""

import struct
from random import Random

import pytest

from antiphon_common.rtp_extensions import TRANSPORT_SEQUENCE
from antiphon_transceiver.rtcp import (
    Bye,
    GenericNack,
    ReceiverReport,
    ReportBlock,
    Reporter,
    SdesChunk,
    SdesItem,
    SourceDescription,
    TransportFeedback,
    encode_rtcp,
)
from antiphon_transceiver.rtcp.feedback import MAX_STATUSES
from antiphon_transceiver.rtp import RtpOptions, RtpPacket, RtpReceiver, RtpSender
from antiphon_transceiver.rtp.sender import MAX_REQUESTED
from support.peers.rtcp_compounds import (
    NONE_RECEIVED,
    PACKET_SIZE,
    RUN_OF_ONE,
    SMALL,
    filled,
)
from support.peers.rtcp_compounds import nack as nack_of
from support.peers.rtcp_compounds import transport_feedback as feedback_of
from support.sim.work_counter import Work, work_of

MAX_CALLS, MAX_LINES = 2_000, 10_000
"""What one compound may cost: some 0.4 ms."""

OUR_SSRC = 7
OPTIONS = RtpOptions(extensions={TRANSPORT_SEQUENCE: 3}, feedback=("nack", "transport-cc"))
BLOCK = ReportBlock(OUR_SSRC, 0, 0, 0, 0, 1, 0)


class ReceivingCall:
    """The RTCP of a call that has sent 300 packets, which is more than are remembered."""

    def __init__(self) -> None:
        self.sender = RtpSender(OUR_SSRC, 111, 0)
        self.sender.negotiate(OPTIONS)
        self.reporter = Reporter(self.sender.statistics, {}, "cname", Random(1).randbytes)
        self.reporter.start(0.0)
        self.now = 0.0
        for _ in range(300):
            self.now += 0.001
            self.sender.sent(self.sender.packet(b"", 0, self.now), self.now)

    def receive(self, data: bytes) -> Work:
        self.now += 0.05
        return work_of(lambda: self._receive(data))

    def _receive(self, data: bytes) -> None:
        for packet in self.reporter.receive(data, self.now):
            self.sender.receive_feedback(packet, self.now)
        while self.sender.poll_retransmission() is not None:
            pass


def transport_feedback(count: int, chunks: bytes, deltas: bytes = b"", base: int = 300 - 256) -> bytes:
    return feedback_of(OUR_SSRC, base, count, chunks, deltas)


def nack(sequence: int, following: int = 0xFFFF) -> bytes:
    return nack_of(OUR_SSRC, sequence, following)


COMPOUNDS = {
    "transport-wide feedback on as many packets as may be": filled(transport_feedback(MAX_STATUSES, NONE_RECEIVED)),
    "transport-wide feedback with runs of one": transport_feedback(580, RUN_OF_ONE * 580),
    "transport-wide feedback with small deltas": transport_feedback(
        MAX_STATUSES, struct.pack("!H", 0x2000 | MAX_STATUSES), bytes(MAX_STATUSES)
    ),
    "transport-wide feedback with vectors": transport_feedback(
        700, struct.pack("!H", 0x9555) * 50, bytes(400), base=300 - 256
    ),
    "transport-wide feedback with large deltas": transport_feedback(500, struct.pack("!H", 0x4000 | 500), bytes(1000)),
    "short transport-wide feedback": filled(transport_feedback(1, SMALL, b"\1")),
    "NACKs": filled(nack(250)),
    "a NACK of everything": encode_rtcp([GenericNack(1, OUR_SSRC, tuple(range(4000)))])[:PACKET_SIZE],
    "receiver reports": filled(encode_rtcp([ReceiverReport(1, (BLOCK,) * 31)])),
    "empty receiver reports": filled(encode_rtcp([ReceiverReport(1)])),
    "items of a source description": encode_rtcp([SourceDescription((SdesChunk(1, (SdesItem(1, b""),) * 590),))]),
    "chunks of source descriptions": filled(encode_rtcp([SourceDescription((SdesChunk(1, ()),) * 31)])),
    "BYE": filled(encode_rtcp([Bye(())])),
    "BYE of many sources": filled(encode_rtcp([Bye(tuple(range(31)))])),
    "more packets than are taken": encode_rtcp([Bye(())] * 300),
    "headers of an unknown type": filled(bytes.fromhex("80cf0000")),
}


@pytest.mark.parametrize("name", COMPOUNDS)
def test_the_cost_of_a_compound_is_bounded(name: str) -> None:
    data = COMPOUNDS[name]
    assert len(data) <= PACKET_SIZE
    work = ReceivingCall().receive(data)
    print(name, work)
    assert work.calls <= MAX_CALLS
    assert work.lines <= MAX_LINES


def test_the_cost_of_transport_wide_feedback_is_bounded() -> None:
    one = transport_feedback(MAX_STATUSES, NONE_RECEIVED)
    assert ReceivingCall().receive(one * 40).lines < 1.5 * ReceivingCall().receive(one).lines


def test_feedback_beyond_the_limit_does_not_affect_the_rest_of_the_compound() -> None:
    call = ReceivingCall()
    call.receive(transport_feedback(MAX_STATUSES, NONE_RECEIVED) * 2 + encode_rtcp([ReceiverReport(1, (BLOCK,))]))
    assert call.reporter.peer_report == BLOCK
    assert call.reporter.counters.malformed == 0


def test_nacks_of_one_compound_share_a_bound() -> None:
    call = ReceivingCall()
    call.receive(b"".join(nack(sequence) for sequence in range(0, 680, 17)))
    statistics = call.sender.retransmission_statistics()
    assert statistics is not None
    assert statistics["resent"] + statistics["refused"] == MAX_REQUESTED


def test_each_of_many_sources_is_counted_and_few_are_remembered() -> None:
    """A push-to-talk device changes its SSRC at the start of each talkspurt."""
    receiver = RtpReceiver(48_000)
    for source in range(1000, 1200):
        for number in range(25):
            now = (source - 1000) + number * 0.02
            packet = RtpPacket(False, 111, number, number * 960, source, b"x")
            receiver.receive(packet, now)
        assert receiver.sources[source].received == 25
        assert receiver.sources[source].packets_lost == 0
        assert len(receiver.sources) <= 31
    assert set(receiver.sources) == set(range(1200 - 31, 1200))


def test_transport_feedback_from_the_wire_is_decoded() -> None:
    """Symbols after the last packet are ignored, and the deltas follow the chunks."""
    data = transport_feedback(9, struct.pack("!H", 0x9555), b"\1\2\3\4", base=1)
    call = ReceivingCall()
    [packet] = call.reporter.receive(data, 1.0)
    assert isinstance(packet, TransportFeedback)
    assert packet.deltas == (None, 1, None, 2, None, 3, None, 4, None)
