import pytest

from antiphon_transceiver.audio.clock import LEARNED_AFTER, TRUSTED_AFTER, SenderClock

FRAME = 960
START = 10_000


class Sender:
    """A sender of 20 ms packets, placed in succession. They arrive on time unless a horizon is given."""

    def __init__(self, ticks: int = 1) -> None:
        self.clock = SenderClock(ticks)
        self.clock.restart(0, 0, START, continues=False)
        self.clock.advance(0, 0, START, FRAME)

    def send(self, sequence: int, timestamp: int, horizon: float | None = None) -> int:
        """Place a packet as the newest. Return its position in ticks since the first."""
        position = self.place(sequence, timestamp, horizon)
        self.clock.advance(sequence, timestamp & 0xFFFFFFFF, START + position, FRAME)
        return position

    def place(self, sequence: int, timestamp: int, horizon: float | None = None) -> int:
        due = sequence * FRAME if horizon is None else horizon
        return self.clock.place(sequence, timestamp & 0xFFFFFFFF, START + due) - START


@pytest.mark.parametrize("step", [0, 1, 160, 320, 480, 672, 953, 959, 960, 961, 1056, 1920, 2880, -960, 1 << 31])
def test_contiguous_packets_are_contiguous_whatever_their_timestamps(step: int) -> None:
    sender = Sender()
    assert [sender.send(index, index * step) for index in range(1, 50)] == [index * FRAME for index in range(1, 50)]


def test_a_timestamp_adds_a_pause_that_arrivals_confirm() -> None:
    sender = Sender()
    assert sender.send(1, 20 * FRAME, horizon=20 * FRAME) == 20 * FRAME
    assert sender.send(2, 30 * FRAME, horizon=28 * FRAME) == 28 * FRAME, "media cannot be sent before it exists"
    assert sender.send(3, 31 * FRAME, horizon=29 * FRAME) == 29 * FRAME


def test_a_timestamp_far_ahead_of_arrivals_adds_nothing() -> None:
    sender = Sender()
    assert sender.send(1, 20 * FRAME, horizon=2 * FRAME) == FRAME


@pytest.mark.parametrize(("agree", "pause"), [(TRUSTED_AFTER - 1, 0), (TRUSTED_AFTER, 9 * FRAME)])
def test_timestamps_add_pauses_again_once_they_agree_with_arrivals(agree: int, pause: int) -> None:
    sender, leap = Sender(), 7_000_000
    for index in range(1, agree + 2):
        sender.send(index, leap + index * FRAME)
    last = (agree + 1) * FRAME
    assert sender.send(agree + 2, leap + last + 10 * FRAME, horizon=last + 10 * FRAME) == last + FRAME + pause


@pytest.mark.parametrize("step", [160, 320, 480, 1920, 2880])
def test_the_estimated_clock_rate_scales_pauses(step: int) -> None:
    sender = Sender()
    count = LEARNED_AFTER + 1
    for index in range(1, count):
        sender.send(index, index * step)
    assert sender.clock.ticks == pytest.approx(FRAME / step)
    pause = sender.send(count, (count + 9) * step, horizon=(count + 9) * FRAME)
    assert pause == pytest.approx((count + 9) * FRAME, abs=2)


@pytest.mark.parametrize(("step", "packets"), [(672, 10), (959, 1200), (961, 1200), (1056, 30)])
def test_a_small_error_of_the_clock_rate_is_estimated_from_its_drift(step: int, packets: int) -> None:
    sender = Sender()
    for index in range(1, packets):
        sender.send(index, index * step)
    assert sender.clock.ticks == pytest.approx(FRAME / step, rel=1e-3)


def test_a_sender_that_pauses_after_each_packet_is_not_mistaken_for_a_fast_clock() -> None:
    sender = Sender()
    for index in range(1, 40):
        assert sender.send(index, index * 20 * FRAME, horizon=index * 20 * FRAME) == index * 20 * FRAME
    assert sender.clock.ticks == 1


def test_jitter_of_timestamps_does_not_change_the_estimated_rate() -> None:
    sender = Sender()
    for index in range(1, 400):
        assert sender.send(index, index * FRAME + (-240, 240, 0)[index % 3]) == index * FRAME
    assert sender.clock.ticks == 1


def test_missing_packets_have_the_duration_of_the_newest_or_of_the_timestamps() -> None:
    sender = Sender()
    assert sender.send(4, 4 * FRAME + 3) == 4 * FRAME
    assert sender.send(6, 4 * FRAME + 3 + 3 * FRAME // 2) == 4 * FRAME + 3 * FRAME // 2, "one of 10 ms was missing"


def test_skipped_sequence_numbers_take_no_more_time_than_has_passed() -> None:
    sender = Sender()
    assert sender.send(30_000, 30_000 * FRAME, horizon=2 * FRAME) == 2 * FRAME


def test_sequence_numbers_without_audio_take_no_time() -> None:
    sender = Sender()
    assert sender.clock.place(4, FRAME, START + FRAME, 3) - START == FRAME


def test_a_reordered_packet_is_inserted_before_the_newest() -> None:
    sender = Sender()
    sender.send(3, 3 * FRAME)
    assert sender.place(2, 2 * FRAME - 5) == 2 * FRAME
    assert sender.place(1, FRAME // 4) == FRAME // 4, "those missing may be longer"


def test_a_new_stream_starts_with_the_negotiated_rate() -> None:
    sender = Sender(ticks=6)
    for index in range(1, 20):
        sender.send(index, index * FRAME)
    assert sender.clock.ticks == pytest.approx(1)
    sender.clock.restart(20, 0, START, continues=True)
    assert sender.clock.ticks == pytest.approx(1)
    sender.clock.restart(20, 0, START, continues=False)
    assert sender.clock.ticks == 6
