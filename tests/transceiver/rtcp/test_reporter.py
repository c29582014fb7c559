import random
from itertools import pairwise
from math import inf

import pytest

from antiphon_transceiver.rtcp import (
    Bye,
    GenericNack,
    ReceiverReport,
    ReportBlock,
    Reporter,
    SenderReport,
    SourceDescription,
    decode_rtcp,
    encode_rtcp,
)
from antiphon_transceiver.rtcp.reporter import REPORT_INTERVAL
from antiphon_transceiver.rtp import RtpPacket, RtpReceiver, SenderStatistics
from antiphon_transceiver.rtp.receiver import MAX_SOURCES

RATE = 48000


class ReporterEnd:
    """One end of a call: its stream, what it receives, and its reporter."""

    def __init__(self, ssrc: int, *, seed: int = 1, ntp_offset: float = 3_900_000_000.0) -> None:
        self.sender = SenderStatistics(ssrc, RATE, ntp_offset)
        self.receiver = RtpReceiver(RATE)
        random_bytes = random.Random(seed).randbytes
        self.reporter = Reporter(self.sender, self.receiver.sources, f"cname{ssrc}", random_bytes)


def make_reporter(ssrc: int) -> Reporter:
    return ReporterEnd(ssrc).reporter


def packet(ssrc: int, number: int) -> RtpPacket:
    return RtpPacket(False, 111, number & 0xFFFF, number * 960, ssrc, b"x" * 80)


def run_call(delay: float, *, seconds: float, lose_every: int = 0) -> tuple[ReporterEnd, ReporterEnd]:
    """Let two ends send audio with a delay of `delay` seconds. Every `lose_every`th packet to the second is lost."""
    near, far = ReporterEnd(1, seed=1), ReporterEnd(2, seed=2, ntp_offset=77.0)
    near.reporter.start(0.0)
    far.reporter.start(0.0)
    reports: list[tuple[float, ReporterEnd, bytes]] = []
    for number in range(int(seconds / 0.02)):
        now = number * 0.02
        near.sender.packet_sent(number * 960, 80, now)
        far.sender.packet_sent(number * 960, 80, now)
        near.receiver.receive(packet(2, number), now + delay)
        if not lose_every or number % lose_every:
            far.receiver.receive(packet(1, number), now + delay)
        for sender, receiver in ((near, far), (far, near)):
            if (report := sender.reporter.poll_report(now)) is not None:
                reports.append((now + delay, receiver, report))
        for arrival, receiver, report in [entry for entry in reports if entry[0] <= now]:
            receiver.reporter.receive(report, arrival)
            reports.remove((arrival, receiver, report))
    return near, far


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.3])
def test_the_round_trip_is_measured_between_different_clocks(delay: float) -> None:
    for end in run_call(delay, seconds=15.0):
        assert end.reporter.round_trip == pytest.approx(2 * delay, abs=0.001)


def test_the_sender_receives_the_reported_loss() -> None:
    near, far = run_call(0.02, seconds=20.0, lose_every=5)
    assert near.reporter.peer_report is not None
    assert near.reporter.peer_report.fraction_lost / 256 == pytest.approx(0.2, abs=0.03)
    assert far.receiver.sources[1].packets_lost == pytest.approx(200, abs=2)
    assert far.receiver.sources[1].loss == pytest.approx(0.2, abs=0.03)
    assert far.reporter.peer_report is not None
    assert far.reporter.peer_report.packets_lost == 0


def test_reports_come_at_random_intervals_around_the_mean() -> None:
    reporter = make_reporter(1)
    assert reporter.poll_timeout() == inf
    reporter.start(100.0)
    times = [100.0]
    while len(times) < 300:
        due = reporter.poll_timeout()
        assert reporter.poll_report(due - 0.001) is None
        assert reporter.poll_report(due) is not None
        times.append(due)
    first, *intervals = [later - earlier for earlier, later in pairwise(times)]
    assert REPORT_INTERVAL / 4 <= first <= REPORT_INTERVAL * 3 / 4
    assert all(REPORT_INTERVAL / 2 <= interval <= REPORT_INTERVAL * 3 / 2 for interval in intervals)
    assert sum(intervals) / len(intervals) == pytest.approx(REPORT_INTERVAL, rel=0.05)


def due_report(reporter: Reporter) -> list[object]:
    due = reporter.poll_timeout()
    data = reporter.poll_report(due)
    assert data is not None
    return list(decode_rtcp(data))


def test_only_a_sender_sends_sender_reports() -> None:
    end = ReporterEnd(1)
    reporter = end.reporter
    reporter.start(0.0)
    report, description = due_report(reporter)
    assert report == ReceiverReport(1)
    assert isinstance(description, SourceDescription)
    end.sender.packet_sent(0, 80, reporter.poll_timeout())
    assert isinstance(due_report(reporter)[0], SenderReport)
    for _ in range(10):
        report, _ = due_report(reporter)
    assert report == ReceiverReport(1)


def test_only_sources_received_since_the_last_report_are_reported() -> None:
    end = ReporterEnd(1)
    reporter = end.reporter
    reporter.start(0.0)
    end.receiver.receive(packet(5, 1), 0.1)
    report = due_report(reporter)[0]
    assert isinstance(report, ReceiverReport)
    assert [block.ssrc for block in report.reports] == [5]
    assert due_report(reporter)[0] == ReceiverReport(1)


def test_a_report_holds_all_tracked_sources() -> None:
    end = ReporterEnd(1)
    end.reporter.start(0.0)
    for ssrc in range(10, 10 + MAX_SOURCES + 3):
        end.receiver.receive(packet(ssrc, 1), ssrc * 0.01)
    report = due_report(end.reporter)[0]
    assert isinstance(report, ReceiverReport)
    assert len(report.reports) == MAX_SOURCES


def test_malformed_reports_are_counted() -> None:
    reporter = make_reporter(1)
    reporter.receive(b"\x80\xc8\x00\x06junk", 0.0)
    reporter.receive(encode_rtcp((ReceiverReport(5),)), 0.0)
    assert (reporter.counters.malformed, reporter.counters.received) == (1, 1)


def test_a_report_with_a_malformed_packet_counts_as_received_and_malformed() -> None:
    """A source description with a wrong length follows it, as some phones send."""
    reporter = make_reporter(1)
    block = ReportBlock(1, 0, 0, 0, 0, 0, 0)
    taken = reporter.receive(encode_rtcp((ReceiverReport(5, (block,)),)) + bytes.fromhex("81ca0001 00000005"), 0.0)
    assert taken == [ReceiverReport(5, (block,))]
    assert reporter.peer_report == block
    assert (reporter.counters.malformed, reporter.counters.received) == (1, 1)


@pytest.mark.parametrize("reduced_size", [False, True])
def test_reduced_size_rtcp_is_sent_only_if_negotiated(reduced_size: bool) -> None:
    sender = SenderStatistics(1, RATE, 0.0)
    reporter = Reporter(sender, {}, "cname", random.Random(1).randbytes, reduced_size=reduced_size)
    nack = GenericNack(1, 5, (7,))
    report, *rest = decode_rtcp(reporter.wrap([nack]))
    if reduced_size:
        assert (report, rest) == (nack, [])
    else:
        assert report == ReceiverReport(1)
        assert isinstance(rest[0], SourceDescription)
        assert rest[1:] == [nack]


def test_feedback_without_a_report_is_accepted() -> None:
    reporter = make_reporter(1)
    nack = GenericNack(5, 1, (7,))
    assert list(reporter.receive(encode_rtcp([nack]), 0.0)) == [nack]
    assert list(reporter.receive(b"\x80\xc8\x00\x06junk", 0.0)) == []


def test_bye_is_sent_in_a_compound_and_no_report_follows() -> None:
    reporter = make_reporter(1)
    reporter.start(0.0)
    report, description, bye = decode_rtcp(reporter.bye())
    assert isinstance(report, ReceiverReport)
    assert isinstance(description, SourceDescription)
    assert bye == Bye((1,))
    assert reporter.poll_timeout() == inf
    assert reporter.poll_report(1000.0) is None


def test_report_blocks_about_other_sources_are_ignored() -> None:
    reporter = make_reporter(1)
    reporter.start(0.0)
    other = ReportBlock(2, 255, 100, 0, 0, 0, 0)
    reporter.receive(encode_rtcp([ReceiverReport(9, (other,))]), 1.0)
    assert reporter.peer_report is None
    ours = ReportBlock(1, 0, 0, 0, 0, 0, 0)
    reporter.receive(encode_rtcp([ReceiverReport(9, (ours, other))]), 2.0)
    assert reporter.peer_report == ours
