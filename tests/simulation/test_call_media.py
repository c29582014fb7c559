"""RTP and RTCP between a session and its caller, over impaired networks."""

from collections.abc import Callable
from random import Random

import msgspec
import pytest

from antiphon_common.rtp_extensions import ABSOLUTE_SEND_TIME, AUDIO_LEVEL, MID, TRANSPORT_SEQUENCE
from antiphon_transceiver.audio import UplinkFrame
from antiphon_transceiver.call_media import MAX_BYES
from antiphon_transceiver.events import MediaEnded
from antiphon_transceiver.rtp import RtpOptions
from antiphon_transceiver.srtp import SrtpProfile
from antiphon_transceiver.transport_events import Connected
from support.net.impairment import PERFECT, Impairment
from support.sim.call_pair import CallPair

EXTENSIONS = {AUDIO_LEVEL: 1, ABSOLUTE_SEND_TIME: 2, TRANSPORT_SEQUENCE: 3, MID: 4}
LIKE_A_BROWSER = RtpOptions(EXTENSIONS, "0", ("transport-cc",), reduced_size=True)
LIKE_PION = RtpOptions(EXTENSIONS, "0", ("nack", "transport-cc"), reduced_size=False)
RTP_FIRST_BYTES = (0x80, 0x90)


def is_rtp(datagram: bytes) -> bool:
    return datagram[0] in RTP_FIRST_BYTES and not 192 <= datagram[1] <= 223


def losing_rtp(share: float, seed: int) -> Callable[[bytes], list[bytes]]:
    random = Random(seed)
    return lambda datagram: [] if is_rtp(datagram) and random.random() < share else [datagram]


def send_bye(pair: CallPair) -> None:
    assert pair.client.transport is not None
    pair.client.transport.send_rtcp(pair.client.reporter.bye())
    pair.network.drain()


@pytest.mark.parametrize("profile", SrtpProfile)
def test_a_caller_that_offers_one_srtp_profile_connects(profile: SrtpProfile) -> None:
    pair = CallPair(profiles=(profile,)).connect()
    pair.talk(1.0)
    connected = [event for event in pair.network.right.events if isinstance(event, Connected)]
    assert [event.srtp_profile for event in connected] == [profile]
    assert pair.caller_received == pair.backend_received == list(range(50))


@pytest.mark.parametrize("profile", SrtpProfile)
def test_audio_continues_across_many_wraps_of_the_sequence_number(profile: SrtpProfile) -> None:
    pair = CallPair(profiles=(profile,)).connect()
    said = 0
    for start in (0x7FF0, 0xFFF0, 0x6000, 0xC000, 0xFFF8, 0x5000, 0xA000, 0xFFFE):
        pair.client.sender.sequence = pair.call.stream.sender.sequence = start
        pair.talk(0.4)
        said += 20
    assert pair.caller_received == list(range(said))
    assert pair.backend_received == list(range(said))
    assert pair.call.transport.counters.srtp_failed == pair.client.failed_srtp == 0


@pytest.mark.parametrize("seed", range(3))
def test_audio_continues_across_wraps_with_losses_and_reordering(seed: int) -> None:
    print("seed", seed)
    pair = CallPair(seed, Impairment(delay=0.02, loss=0.1, reordering=0.2, duplication=0.1)).connect()
    pair.client.sender.sequence = pair.call.stream.sender.sequence = 0xFFE0
    pair.talk(2.0)
    assert pair.client.transport is not None
    assert pair.client.transport.srtp is not None
    assert pair.client.failed_srtp == pair.client.transport.srtp.counters.replayed
    assert len(set(pair.caller_received)) == len(pair.caller_received) > 80
    assert len(pair.backend_received) > 70


def test_audio_continues_when_the_caller_changes_its_ssrc() -> None:
    pair = CallPair(options=LIKE_PION).connect()
    for ssrc in (7, 8, 9):
        pair.talk(0.4)
        pair.client.sender.ssrc, pair.client.sender.sequence = ssrc, 30_000 - ssrc
    pair.talk(0.4)
    assert pair.backend_received == list(range(80))


@pytest.mark.parametrize("profile", SrtpProfile)
def test_every_talkspurt_is_received_when_each_has_a_new_ssrc(profile: SrtpProfile) -> None:
    """Push to talk, holds and replaced tracks change the SSRC. The number of sources is not limited."""
    pair = CallPair(profiles=(profile,)).connect()
    spurts, each = 80, 5
    for spurt in range(spurts):
        pair.client.sender.ssrc, pair.client.sender.sequence = 0x20000000 + spurt, 65530 - spurt & 0x7FFF
        pair.talk(each * 0.02)
    assert pair.backend_received == list(range(spurts * each))
    assert pair.call.transport.counters.srtp_failed == 0
    assert pair.call.ended is None


@pytest.mark.parametrize("profile", SrtpProfile)
def test_audio_is_received_when_the_sequence_number_wraps_before_the_first_packet_arrives(profile: SrtpProfile) -> None:
    pair = CallPair(profiles=(profile,)).connect()
    pair.client.sender.sequence = 65500
    pair.network.left.rewrite = lambda datagram: [] if is_rtp(datagram) else [datagram]
    pair.talk(1.0)
    pair.network.left.rewrite = lambda datagram: [datagram]
    pair.talk(1.0)
    assert pair.backend_received == list(range(50, 100))


@pytest.mark.parametrize("seed", range(3))
def test_lost_packets_are_retransmitted_after_a_nack_in_both_directions(seed: int) -> None:
    print("seed", seed)
    pair = CallPair(seed, Impairment(delay=0.01), options=LIKE_PION).connect()
    pair.network.left.rewrite, pair.network.right.rewrite = losing_rtp(0.1, seed), losing_rtp(0.1, seed + 100)
    pair.talk(5.0)
    assert len(pair.backend_received) >= 240
    assert len(pair.caller_received) >= 240
    assert pair.backend_received == sorted(pair.backend_received)
    ours, theirs = pair.statistics["nack"], pair.feedback_statistics["nack"]
    assert 10 < ours["recovered"] <= ours["requested"] < 80
    assert 10 < theirs["recovered"] <= theirs["requested"] < 80
    assert ours["resent"] >= theirs["recovered"]


def test_a_retransmission_is_the_same_ciphertext() -> None:
    pair = CallPair(0, Impairment(delay=0.01), options=LIKE_PION).connect()
    lost: list[bytes] = []

    def lose_some(datagram: bytes) -> list[bytes]:
        if is_rtp(datagram) and datagram[3] % 10 == 0 and datagram not in lost:
            lost.append(datagram)
            return []
        return [datagram]

    pair.network.right.rewrite = lose_some
    pair.talk(2.0)
    assert pair.caller_received != sorted(pair.caller_received)
    assert sorted(pair.caller_received) == list(range(100))
    sent = [datagram for datagram in pair.network.right.sent if is_rtp(datagram)]
    assert len(lost) >= 9
    assert all(sent.count(datagram) == 1 for datagram in lost)
    assert len({datagram[2:4] for datagram in sent}) == len(set(sent))


def test_no_retransmission_is_requested_if_the_offer_has_no_nack() -> None:
    pair = CallPair(options=LIKE_A_BROWSER).connect()
    pair.network.left.rewrite = losing_rtp(0.1, 0)
    pair.talk(2.0)
    assert pair.statistics["nack"] is None
    assert len(pair.backend_received) < 100


@pytest.mark.parametrize("options", [LIKE_A_BROWSER, LIKE_PION])
def test_both_sides_receive_reports_on_their_packets(options: RtpOptions) -> None:
    pair = CallPair(0, Impairment(delay=0.03), options=options).connect()
    pair.network.left.rewrite, pair.network.right.rewrite = losing_rtp(0.2, 1), losing_rtp(0.2, 2)
    pair.talk(12.0)
    ours = pair.statistics
    assert ours["round_trip_ms"] == pytest.approx(60, abs=3)
    assert ours["received_packets"] > 450
    assert ours["sent_packets"] == 600
    for figures in (ours["sent_feedback"], pair.feedback_statistics["sent_feedback"]):
        assert figures["received"] + figures["lost"] == pytest.approx(600, abs=6)
    if options is LIKE_A_BROWSER:  # otherwise what was lost comes again, late
        assert ours["sent_feedback"]["delay_ms"] == pytest.approx(0, abs=2)
        assert ours["received_loss_percent"] == pytest.approx(20, abs=12)
        assert ours["sent_loss_percent"] == pytest.approx(20, abs=12)
        assert ours["sent_feedback"]["loss_percent"] == pytest.approx(20, abs=12)


def test_jitter_is_reported_in_both_directions() -> None:
    pair = CallPair(0, Impairment(delay=0.02, reordering=0.5, held_back=0.04)).connect()
    pair.talk(12.0)
    figures = pair.statistics
    assert 3 < figures["received_jitter_ms"] < 40
    assert 3 < figures["sent_jitter_ms"] < 40


def test_a_bye_ends_the_callers_stream_but_not_the_call() -> None:
    pair = CallPair().connect()
    pair.talk(0.4)
    send_bye(pair)
    pair.network.run(limit=pair.network.now + 1.0)
    assert [event for event in pair.network.right.events if isinstance(event, MediaEnded)] == [MediaEnded()]
    pair.client.sender.ssrc, pair.client.sender.sequence = 99, 5
    pair.talk(0.4)
    assert pair.call.state == "connected"
    assert pair.backend_received == list(range(40))


def test_late_packets_after_a_bye_start_no_stream() -> None:
    pair = CallPair(impairment=PERFECT).connect()
    overtaken: list[bytes] = []

    def hold_some(datagram: bytes) -> list[bytes]:
        held = is_rtp(datagram) and pair.sent in (10, 11)
        overtaken.extend([datagram] if held else [])
        return [] if held else [datagram]

    pair.network.left.rewrite = hold_some
    pair.talk(0.4)
    send_bye(pair)
    path = pair.network.left.path
    pair.call.receive_datagram(overtaken[0], path, pair.network.now)
    pair.network.run(limit=pair.network.now + 0.2)
    pair.client.sender.ssrc, pair.client.sender.sequence = 99, 5
    pair.talk(0.4)
    pair.call.receive_datagram(overtaken[1], path, pair.network.now)
    pair.talk(0.4)
    assert pair.backend_received == [*range(10), *range(12, 60)]
    assert pair.call.stream.counters.ended_source == 1


def test_audio_after_a_bye_of_the_same_source_is_received() -> None:
    pair = CallPair().connect()
    for _ in range(3):
        pair.talk(0.4)
        send_bye(pair)
        pair.network.run(limit=pair.network.now + 1.0)
    assert pair.backend_received == list(range(60))
    assert sum(isinstance(event, MediaEnded) for event in pair.network.right.events) == 3


def test_at_most_max_byes_are_reported_for_one_call() -> None:
    """Each BYE ends a stream, and the next packet starts it again (RFC 3550 §6.6). Each report is a log line."""
    pair = CallPair(impairment=PERFECT).connect()
    for _ in range(4 * MAX_BYES):
        pair.talk(0.02)
        send_bye(pair)
        pair.network.run(limit=pair.network.now + 0.01)
    assert sum(isinstance(event, MediaEnded) for event in pair.network.right.events) == MAX_BYES


class Marker:
    """An uplink stage that appends its letter to each frame."""

    def __init__(self, letter: bytes) -> None:
        self.letter = letter

    def process(self, frame: UplinkFrame) -> UplinkFrame:
        return msgspec.structs.replace(frame, data=frame.data + self.letter)


def test_frames_pass_the_uplink_stages_in_order_before_the_backend() -> None:
    pair = CallPair().connect()
    pair.call.media.uplink_stages += [Marker(b"1"), Marker(b"2")]
    pair.talk(0.2)
    assert len(pair.backend.audio) >= 10
    assert all(frame.data.endswith(b"12") for frame in pair.backend.audio)
