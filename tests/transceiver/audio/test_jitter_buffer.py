from collections.abc import Sequence
from math import inf

import pytest

from antiphon_common.frames import FrameStatus
from antiphon_transceiver.audio import G711, MAX_TARGET_DELAY, MIN_TARGET_DELAY, JitterBuffer, JitterFrame, PayloadKind
from antiphon_transceiver.audio.jitter_buffer import MAX_SKIPPED
from antiphon_transceiver.audio.payloads import OPUS
from antiphon_transceiver.rtp.red import RedundantBlock

RECEIVED, RECOVERED, CONCEALED = FrameStatus
FRAME = 0.02
TICKS = 960


def packet(index: int, *, fec: bool = False) -> bytes:
    """Return bytes with the header of a 20 ms hybrid Opus packet."""
    return bytes((0x68, 0x40 if fec else 0)) + index.to_bytes(2, "big")


class Stream:
    """A sender of 20 ms packets whose transit is 0, and the buffer it sends to. Time begins at 100."""

    def __init__(self, first_sequence: int = 0, first_timestamp: int = 0, kind: PayloadKind = OPUS) -> None:
        self.buffer = JitterBuffer(kind)
        self.first_sequence, self.first_timestamp = first_sequence, first_timestamp
        self.released: list[tuple[float, JitterFrame]] = []

    def send(self, *indices: int, late: float = 0.0, timestamp: int | None = None, fec: bool = False) -> None:
        """Let packets arrive, each `late` seconds after it was ready."""
        for index in indices:
            media = index * TICKS if timestamp is None else timestamp
            self.arrive(100 + index * FRAME + late, index, media, packet(index, fec=fec))

    def send_red(self, index: int, *redundant: int, late: float = 0.0) -> None:
        """Let a packet with redundant blocks arrive."""
        self.run_until(now := 100 + index * FRAME + late)
        again = [RedundantBlock((index - other) * TICKS, packet(other)) for other in redundant]
        self.push(index, index * TICKS, packet(index), now, again)
        self.pop(now)

    def arrive(self, now: float, index: int, timestamp: int, payload: bytes) -> None:
        self.run_until(now)
        self.push(index, timestamp, payload, now)
        self.pop(now)

    def push(
        self, index: int, timestamp: int, payload: bytes, now: float, redundant: Sequence[RedundantBlock] = ()
    ) -> None:
        sequence = (self.first_sequence + index) & 0xFFFF
        self.buffer.push(sequence, (self.first_timestamp + timestamp) & 0xFFFFFFFF, payload, now, redundant)

    def run_until(self, now: float) -> None:
        while (timeout := self.buffer.poll_timeout()) < now:
            self.pop(timeout)

    def pop(self, now: float) -> None:
        while (release := self.buffer.pop(now)) is not None:
            self.released.append((now, release))

    @property
    def origins(self) -> list[FrameStatus]:
        return [release.status for _, release in self.released]

    @property
    def positions(self) -> list[int]:
        """The positions of the released frames, in frames."""
        return [release.position // TICKS for _, release in self.released]

    def delays(self) -> list[int]:
        """Return the milliseconds between the time of each frame's audio and its release."""
        return [round((now - 100 - release.position / 48_000) * 1000) for now, release in self.released]


def test_packets_in_order_are_released_at_once() -> None:
    stream = Stream()
    stream.send(0, 1, 2)
    stream.send(3, late=0.05)
    assert stream.origins == [RECEIVED] * 4
    assert stream.delays() == [0, 0, 0, 50]


def test_sequence_and_timestamp_wrap() -> None:
    stream = Stream(first_sequence=0xFFFE, first_timestamp=0xFFFFFFFF)
    stream.send(*range(70))
    assert stream.positions == list(range(70))


def test_a_reordered_packet_is_waited_for() -> None:
    stream = Stream()
    stream.send(0, 2)
    assert stream.positions == [0]
    stream.send(1, late=0.05)
    assert stream.positions == [0, 1, 2]
    assert stream.buffer.counters.reordered == 1


def test_a_missing_packet_is_recovered_at_its_playout_time_from_the_next_packet() -> None:
    stream = Stream()
    stream.send(0)
    stream.send(2, 3, fec=True)
    stream.run_until(101)
    assert stream.origins[:4] == [RECEIVED, RECOVERED, RECEIVED, RECEIVED]
    recovered = stream.released[1][1]
    assert recovered == JitterFrame(TICKS, TICKS, None, RECOVERED, following=packet(2, fec=True))
    assert stream.delays()[1] == round(stream.buffer.target_delay * 1000)


def test_a_missing_packet_without_fec_is_concealed() -> None:
    stream = Stream()
    stream.send(0)
    stream.send(3, fec=True)
    stream.send(4, 5, 6)
    assert stream.origins[:5] == [RECEIVED, CONCEALED, RECOVERED, RECEIVED, RECEIVED]
    stream.send(8, 9, 10, 11)
    assert stream.origins[7:9] == [CONCEALED, RECEIVED]
    counters = stream.buffer.counters
    assert (counters.lost, counters.concealed, counters.recovered) == (3, 2, 1)


def test_a_late_packet_is_counted_and_its_neighbours_are_kept() -> None:
    stream = Stream()
    stream.send(0, 2)
    stream.send(3, 4)
    stream.send(1, late=0.061)
    stream.send(5)
    assert stream.positions == [0, 1, 2, 3, 4, 5]
    assert stream.origins[1] is CONCEALED
    assert (stream.buffer.counters.late, stream.buffer.counters.lost) == (1, 1)


def test_duplicates_of_held_and_released_packets_are_dropped() -> None:
    stream = Stream()
    stream.send(0, 0, 2, 2, 0)
    stream.send(1)
    assert stream.positions == [0, 1, 2]
    assert stream.buffer.counters.duplicate == 3


def test_concealment_at_the_end_of_a_stream_is_counted_when_the_stream_continues() -> None:
    """A caller that only stops has no loss."""
    stream = Stream()
    stream.send(0, 1, 2)
    stream.run_until(1000)
    assert stream.origins[3:] == [CONCEALED] * 5
    assert stream.buffer.counters.concealed == 0
    stream.send(50)
    stream.run_until(1200)
    assert stream.buffer.counters.concealed == 5


def test_concealment_ends_and_the_position_jumps() -> None:
    stream = Stream()
    stream.send(0)
    stream.run_until(100.5)
    assert stream.origins == [RECEIVED] + [CONCEALED] * 5
    assert stream.buffer.poll_timeout() == inf
    stream.send(50)
    stream.run_until(110)
    assert stream.origins[6] is RECEIVED
    assert stream.positions[6] == 50
    assert stream.buffer.counters.lost == 49


def test_a_gap_in_timestamps_without_one_in_sequence_numbers_is_not_a_loss() -> None:
    stream = Stream()
    stream.send(0)
    stream.arrive(100.02, 1, TICKS, b"\x68\x00")  # DTX: nothing is expected after it
    stream.arrive(100.42, 2, 21 * TICKS, b"\x68\x00")
    stream.arrive(100.5, 3, 25 * TICKS, packet(3))
    assert stream.positions == [0, 1, 21, 25]
    assert stream.buffer.counters.lost == 0


def test_a_loss_during_dtx_is_recovered_right_before_the_next_packet() -> None:
    stream = Stream()
    stream.arrive(100, 0, 0, b"\x68\x00")
    stream.arrive(100.4, 2, 20 * TICKS, packet(2, fec=True))
    stream.run_until(100.5)
    assert stream.positions[:3] == [0, 19, 20]
    assert stream.origins[:3] == [RECEIVED, RECOVERED, RECEIVED]
    assert stream.buffer.counters.lost == 1


def test_after_a_stall_only_packets_that_are_still_in_time_are_released() -> None:
    stream = Stream()
    stream.send(0)
    for index in range(1, 31):
        stream.arrive(100.6, index, index * TICKS, packet(index))
    assert stream.origins == [RECEIVED] + [CONCEALED] * 5 + [RECEIVED] * 8
    assert stream.positions[6:] == list(range(23, 31))
    stream.send(31)
    assert stream.delays()[-1] == 0
    assert stream.buffer.counters.late == 22


def test_a_stream_whose_clock_paused_continues_after_a_moment() -> None:
    """Push-to-talk devices do this: 10 s of silence do not advance the timestamps."""
    stream = Stream()
    stream.send(0)
    for index in range(1, 20):
        stream.arrive(110 + index * FRAME, index, index * TICKS, packet(index))
    assert stream.origins.count(RECEIVED) > 15
    assert stream.buffer.counters.resynchronised == 1
    assert stream.buffer.counters.late < 4
    now, release = stream.released[-1]
    assert abs(release.position / 48_000 - (now - 100)) < 0.001


def test_the_buffer_adapts_to_a_longer_path_within_a_second() -> None:
    stream = Stream()
    stream.send(*range(10))
    stream.send(*range(10, 60), late=0.2)
    assert stream.origins[-20:] == [RECEIVED] * 20
    assert stream.buffer.counters.resynchronised == 1


def test_another_source_continues_the_positions() -> None:
    stream = Stream()
    stream.send(0, 1, 2)
    stream.buffer.restart()
    stream.arrive(100.06, 30_000, 123_456_789, packet(3))
    stream.arrive(100.08, 30_001, 123_456_789 + TICKS, packet(4))
    assert stream.positions == [0, 1, 2, 3, 4]
    assert stream.buffer.counters.lost == 0


def test_a_jump_of_timestamps_resynchronises_the_clock() -> None:
    stream = Stream()
    stream.send(0, 1)
    stream.arrive(100.04, 2, 10_000_000, packet(2))
    stream.arrive(100.06, 3, 10_000_000 + TICKS, packet(3))
    assert stream.positions == [0, 1, 2, 3]


def test_a_flood_after_a_missing_packet_is_not_held() -> None:
    stream = Stream()
    stream.send(0)
    for index in range(2, 1000):
        stream.arrive(100.02, index, TICKS + index * 120, b"\xe0\x00")
    assert len(stream.released) > 800
    assert stream.buffer.counters.lost == 1


def test_invalid_opus_packets_are_counted() -> None:
    stream = Stream()
    stream.arrive(100, 0, 0, b"")
    stream.arrive(100, 0, 0, b"\x6b\x00")
    assert stream.buffer.counters.invalid == 2
    assert stream.buffer.poll_timeout() == inf


def test_a_redundant_block_replaces_a_lost_packet_at_once() -> None:
    stream = Stream(first_sequence=0xFFFF, first_timestamp=0xFFFFFFFF)
    stream.send(0)
    stream.send_red(2, 1)
    stream.send_red(5, 3, 4)
    assert stream.origins == [RECEIVED, RECOVERED, RECEIVED, RECOVERED, RECOVERED, RECEIVED]
    assert [release.payload for _, release in stream.released] == [packet(index) for index in range(6)]
    assert stream.delays() == [0, 20, 0, 40, 20, 0]
    counters = stream.buffer.counters
    assert (counters.lost, counters.recovered, counters.redundant, counters.concealed) == (3, 3, 3, 0)


def test_redundant_blocks_with_large_offsets_recover_a_burst_loss() -> None:
    stream = Stream()
    stream.send(0, 1, 2)
    stream.send_red(3, 0)
    for index in (7, 8, 9, 10):
        stream.send_red(index, index - 3, *([index - 6] if index > 8 else []))
    assert stream.origins == [RECEIVED] * 4 + [RECOVERED] * 3 + [RECEIVED] * 4
    assert [release.payload for _, release in stream.released] == [packet(index) for index in range(11)]
    assert (stream.buffer.counters.lost, stream.buffer.counters.concealed) == (3, 0)


def test_a_redundant_block_is_matched_by_its_timestamp_with_any_offsets() -> None:
    """Two of three missing packets. In a stream with pauses, one whose timestamp does not determine its number."""
    stream = Stream()
    stream.send(0)
    stream.send_red(4, 3, 1)
    stream.run_until(101)
    assert stream.origins[:5] == [RECEIVED, RECOVERED, CONCEALED, RECOVERED, RECEIVED]
    assert stream.positions[:5] == [0, 1, 2, 3, 4]
    paused = Stream()
    paused.send(0)
    paused.push(2, 20 * TICKS, packet(2), 100.4, [RedundantBlock(8 * TICKS, packet(1))])
    paused.pop(100.4)
    assert paused.origins == [RECEIVED, RECOVERED, RECEIVED]
    assert paused.positions == [0, 12, 20]


def test_the_maximum_wait_for_a_missing_packet_follows_the_redundancy_offsets() -> None:
    stream = Stream()
    for index in range(60):
        stream.send_red(index, *([index - 3] if index > 2 else []))
    assert 0.08 <= stream.buffer.target_delay <= 0.09
    stream.send_red(60, 43)
    assert stream.buffer.target_delay == MAX_TARGET_DELAY


def test_redundant_blocks_of_received_packets_are_ignored() -> None:
    stream = Stream()
    stream.send(0, 1)
    stream.send_red(2, 0, 1)
    stream.send_red(4, 3)
    stream.send(3, late=0.03)
    assert stream.origins == [RECEIVED, RECEIVED, RECEIVED, RECOVERED, RECEIVED]
    assert stream.positions == [0, 1, 2, 3, 4]
    assert stream.buffer.counters.duplicate == 1


def test_a_redundant_block_after_its_playout_time_is_ignored() -> None:
    stream = Stream()
    stream.send(0)
    stream.run_until(100.081)
    stream.send_red(4, 1, 2, 3)
    assert stream.origins == [RECEIVED, CONCEALED, RECOVERED, RECOVERED, RECEIVED]
    assert stream.positions == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("ago", [0, 0.5, 1, 1.5, 9])
def test_a_redundant_block_that_fits_between_no_packets_is_ignored(ago: float) -> None:
    stream = Stream()
    stream.send(0, 1)
    stream.push(3, 3 * TICKS, packet(3), 100.06, [RedundantBlock(round(ago * TICKS), packet(2))])
    stream.pop(100.06)
    assert stream.origins == [RECEIVED, RECEIVED] + ([RECOVERED, RECEIVED] if ago == 1 else [])


def test_a_redundant_block_and_its_in_band_fec_recover_two_packets() -> None:
    stream = Stream()
    stream.send(0)
    stream.run_until(100.061)
    stream.push(3, 3 * TICKS, packet(3), 100.061, [RedundantBlock(TICKS, packet(2, fec=True))])
    stream.run_until(101)
    assert stream.origins[:4] == [RECEIVED, RECOVERED, RECOVERED, RECEIVED]
    assert stream.released[1][1].following == packet(2, fec=True)
    assert (stream.buffer.counters.recovered, stream.buffer.counters.redundant) == (2, 1)


def test_the_target_delay_grows_at_once_and_shrinks_within_a_second() -> None:
    stream = Stream()
    stream.send(*range(60))
    assert stream.buffer.target_delay == MIN_TARGET_DELAY
    stream.send(60, late=0.035)
    stream.send(61, late=0.065)
    assert stream.origins[-2:] == [RECEIVED, RECEIVED]
    assert stream.buffer.target_delay > 0.1
    stream.send(*range(65, 65 + 55))
    assert stream.buffer.target_delay == MIN_TARGET_DELAY


def test_the_target_delay_is_bounded() -> None:
    stream = Stream()
    stream.send(0)
    stream.send(*range(1, 5), late=0.5)
    assert stream.buffer.target_delay == MAX_TARGET_DELAY


def test_larger_redundancy_offsets_increase_the_maximum_wait() -> None:
    stream = Stream()
    stream.send(*range(60))
    stream.send_red(60, 59)
    assert stream.buffer.target_delay == pytest.approx(0.045)
    stream.send_red(61, 59, 60)
    assert stream.buffer.target_delay == pytest.approx(0.065)
    stream.send(62)
    assert stream.buffer.target_delay == MIN_TARGET_DELAY


def test_longer_frames_increase_the_maximum_wait() -> None:
    stream = Stream()
    for index in range(30):
        stream.arrive(100 + index * 0.06, index, index * 2880, b"\x58\x00" + index.to_bytes(2, "big"))
    assert 0.06 < stream.buffer.target_delay < 0.07


def test_audio_recovered_after_a_late_timer_is_played() -> None:
    """The timer fires 15 ms late. Concealment is skipped, but redundant audio is played."""
    stream = Stream()
    stream.send(0)
    stream.push(3, 3 * TICKS, packet(3, fec=True), 100.06)
    stream.pop(100.095)
    stream.pop(100.115)
    assert stream.positions == [0, 2, 3]
    assert stream.origins == [RECEIVED, RECOVERED, RECEIVED]


def test_padding_packets_are_not_a_loss() -> None:
    stream = Stream()
    stream.send(0)
    stream.arrive(100.01, 1, 0, b"")
    stream.arrive(100.01, 2, 0, b"")
    stream.arrive(100.02, 3, TICKS, packet(3))
    stream.arrive(100.06, 5, 3 * TICKS, packet(5))
    stream.run_until(100.2)
    assert stream.origins[:4] == [RECEIVED, RECEIVED, CONCEALED, RECEIVED]
    assert stream.positions[:4] == [0, 1, 2, 3]
    assert (stream.buffer.counters.lost, stream.buffer.counters.invalid) == (1, 2)


def test_positions_of_g711_have_its_own_clock_rate() -> None:
    stream = Stream(kind=G711, first_timestamp=0xFFFFFFF0)
    for index in (0, 1, 3):
        stream.arrive(100 + index * FRAME, index, index * 160, bytes(160))
    stream.run_until(100.5)
    assert stream.positions[:4] == [0, 1, 2, 3]
    assert stream.origins[:4] == [RECEIVED, RECEIVED, CONCEALED, RECEIVED]


def test_a_packet_one_tick_early_follows_by_its_sequence_number() -> None:
    stream = Stream()
    for index, error in enumerate((0, -1, 1, -480, 300, 0)):
        stream.arrive(100 + index * FRAME, index, index * TICKS + error, packet(index))
    assert stream.origins == [RECEIVED] * 6
    assert [release.position for _, release in stream.released] == [index * TICKS for index in range(6)]


def test_a_stream_whose_clock_stopped_in_a_short_pause_continues_after_a_moment() -> None:
    stream = Stream()
    stream.send(*range(10))
    for index in range(10, 30):
        stream.arrive(100.2 + index * FRAME, index, index * TICKS, packet(index))
    assert stream.origins.count(RECEIVED) == 30
    assert stream.positions[-1] == 39
    assert stream.delays()[-1] == 0
    assert stream.buffer.counters.late == 0


def test_sequence_numbers_without_audio_are_not_a_loss_in_any_order() -> None:
    """They arrive early, in time, late and twice, alone and next to a loss."""
    stream = Stream()
    stream.send(0)
    for number in (1, 3, 2, 2):
        stream.buffer.skip(number, silent=False)
    stream.arrive(100.02, 4, TICKS, packet(4))
    stream.buffer.skip(7, silent=False)
    stream.arrive(100.06, 8, 3 * TICKS, packet(8))
    stream.buffer.skip(5, silent=False)
    stream.run_until(100.105)
    stream.arrive(100.11, 9, 4 * TICKS, packet(9))
    assert stream.origins == [RECEIVED, RECEIVED, CONCEALED, RECEIVED, RECEIVED]
    assert stream.positions == [0, 1, 2, 3, 4]
    assert stream.buffer.counters.lost == 1


def test_nothing_is_concealed_while_a_sender_is_silent() -> None:
    stream = Stream()
    stream.send(0)
    stream.buffer.skip(1, silent=True)
    assert stream.buffer.poll_timeout() == inf
    stream.arrive(100.5, 2, 25 * TICKS, packet(2))
    assert stream.positions == [0, 25]
    assert stream.buffer.poll_timeout() < inf


def test_remembered_sequence_numbers_without_audio_are_bounded() -> None:
    """After a missing packet the oldest are forgotten and count as lost."""
    stream = Stream()
    stream.send(0)
    for number in range(2, 1001):
        stream.buffer.skip(number, silent=False)
    stream.arrive(100.04, 1001, 2 * TICKS, packet(0))
    stream.run_until(101)
    assert stream.origins[:3] == [RECEIVED, CONCEALED, RECEIVED]
    assert stream.positions[:3] == [0, 1, 2]
    assert stream.buffer.counters.lost == 1 + 999 - MAX_SKIPPED


def test_a_gap_shorter_than_the_shortest_concealment_is_skipped() -> None:
    """G.711 packets of 1.5 ms. One is missing in a stream, and one before a pause."""
    stream = Stream(kind=G711)
    for index in (0, 1, 3):
        stream.arrive(100 + index * 0.0015, index, index * 12, bytes(12))
    stream.arrive(100.04, 5, 320, bytes(12))
    stream.run_until(100.13)
    assert stream.origins[:4] == [RECEIVED] * 4
    assert [release.position for _, release in stream.released[:4]] == [0, 72, 144, 1920]


def test_a_reordered_packet_longer_than_its_gap_overlaps_no_other_packet() -> None:
    stream = Stream()
    stream.send(0, 2)
    stream.push(1, TICKS, b"\x58\x00", 100.05)  # 60 ms
    stream.pop(100.05)
    stream.send(3, 4)
    assert stream.origins == [RECEIVED] * 5
    assert stream.positions == [0, 1, 4, 5, 6]


def test_the_buffer_follows_a_slowly_growing_transit_time() -> None:
    stream = Stream()
    for index in range(300):
        stream.send(index, late=index * 0.001)
    assert stream.origins.count(RECEIVED) == 300
    assert stream.positions == list(range(300))
    assert stream.buffer.counters.late == 0
