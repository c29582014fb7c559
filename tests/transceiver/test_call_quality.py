"""Minutes of calls, and minutes with a gap, by a monitor that samples once per second."""

from random import Random

import pytest

from antiphon_common.control import Codec
from antiphon_transceiver.call_quality import CallQualityMonitor
from antiphon_transceiver.media import AudioStream
from antiphon_transceiver.rtp import RtpSender

OPUS = Codec("opus", 111, 48_000)
FRAME = 0.02
START = 1000.0


class FakeSession:
    """A connected call that receives and sends audio frame by frame."""

    def __init__(self) -> None:
        random = Random(1).randbytes
        self.state = "connected"
        self.stream = AudioStream(OPUS, "opus", "call", random, 0.0)
        self.stream.start(START)
        self._caller = RtpSender.start(111, random)
        self._response = 1

    def receive(self, number: int, now: float) -> None:
        """Receive the caller's packet of that number."""
        self._caller.sequence = number & 0xFFFF
        self.stream.receive_rtp(self._caller.packet(b"\x08opus", number * 960), now)
        while self.stream.poll_frame(now) is not None:
            pass

    def send(self, response: int) -> None:
        self.stream.playout.append(response, b"\x08opus")

    def play(self, now: float) -> None:
        while self.stream.poll_rtp(now) is not None:
            pass


class Watch:
    """A call that is sampled every second. `run` lets it last some seconds."""

    def __init__(self) -> None:
        self.session = FakeSession()
        self.watch = CallQualityMonitor()

    def run(
        self,
        seconds: float,
        *,
        lost: tuple[float, float] = (0, 0),
        silent: tuple[float, float] = (0, 0),
        responses: tuple[int, int] = (1, 1),
    ) -> tuple[int, int]:
        """Return minutes, and minutes with a gap. Packets of the caller are lost between the times of `lost`. The
        backend sends no audio between those of `silent`, and sends the second of `responses` afterwards."""
        for number in range(round(seconds / FRAME)):
            now, passed = START + number * FRAME, number * FRAME
            if not lost[0] <= passed < lost[1]:
                self.session.receive(number, now)
            if not silent[0] <= passed < silent[1]:
                self.session.send(responses[passed >= silent[1]])
            self.session.play(now)
            if number % 50 == 0:
                self.watch.sample(self.session, now)
        counters = self.watch.counters
        return counters.call_minutes, counters.call_minutes_with_gap


def test_each_minute_counts_when_it_begins() -> None:
    assert Watch().run(0.5) == (1, 0)
    assert Watch().run(59) == (1, 0)
    assert Watch().run(130) == (3, 0)


@pytest.mark.parametrize(("lost", "bad"), [((70, 70.9), 0), ((70, 71.2), 1), ((61, 63), 1), ((118, 123), 1)])
def test_a_second_of_lost_packets_makes_a_bad_minute(lost: tuple[float, float], bad: int) -> None:
    assert Watch().run(180, lost=lost) == (3, bad)


def test_two_gaps_in_a_minute_are_one_bad_minute() -> None:
    assert Watch().run(60, lost=(10, 12), silent=(30, 32)) == (1, 1)


def test_a_minute_without_a_gap_between_two_with_one_is_a_good_minute() -> None:
    assert Watch().run(180, lost=(10, 12), silent=(130, 132)) == (3, 2)


@pytest.mark.parametrize(
    ("silence", "responses", "bad"),
    [((10.0, 10.9), (1, 1), 0), ((10.0, 11.3), (1, 1), 1), ((10, 30), (1, 2), 0), ((10, 30), (0, 0), 0)],
)
def test_silence_within_a_response_is_a_gap_and_silence_between_responses_is_not(
    silence: tuple[float, float], responses: tuple[int, int], bad: int
) -> None:
    assert Watch().run(60, silent=silence, responses=responses) == (1, bad)


def test_a_muted_caller_has_no_gap_and_a_disconnected_one_has() -> None:
    watch = Watch()
    watch.run(10)
    for second in range(10, 50):
        watch.watch.sample(watch.session, START + second)
    assert watch.watch.counters.call_minutes_with_gap == 0
    watch.session.state = "disconnected"
    watch.watch.sample(watch.session, START + 50)
    assert watch.watch.counters.call_minutes_with_gap == 1


def test_only_connected_calls_count_minutes_and_ended_ones_are_forgotten() -> None:
    watch, session = CallQualityMonitor(), FakeSession()
    session.state = "connecting"
    watch.sample(session, START)
    assert watch.counters.call_minutes == 0
    session.state = "connected"
    watch.sample(session, START + 1)
    del session
    watch.sample(FakeSession(), START + 3)
    assert watch.counters.call_minutes == 2
