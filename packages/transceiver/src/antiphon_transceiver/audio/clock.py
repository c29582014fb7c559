"""Estimates the positions of packets on the call's timeline, even if their sender's clock is wrong."""

from typing import Final

TRUSTED_AFTER: Final = 16
"""Contiguous packets whose timestamps must agree with their durations before a clock that erred is trusted again. A
clock with random errors hardly ever agrees for that long."""

LEARNED_AFTER: Final = 8
"""Contiguous packets whose timestamps must err by the same factor before that factor is adopted. A clock with random
errors hardly ever repeats the same factor for that long."""

MAX_EARLY: Final = 240
"""Ticks by which a packet after a loss may seem early while its clock is not trusted: 5 ms. Jitter makes the smallest
transit seem a few milliseconds larger than it is."""

MAX_LEAP: Final = 48_000
"""Ticks by which a packet may seem early after a loss: 1 s. Beyond that its sender skipped sequence numbers."""

_MASK, _HALF = 0xFFFFFFFF, 0x80000000


class SenderClock:
    """Maps the packets of one stream to positions, in ticks of 48 kHz.

    Call `place` for the position of a packet, then `advance` if it is the newest one. `restart` begins a new stream.

    Positions follow sequence numbers and durations: contiguous packets are contiguous audio. Timestamps can add pauses,
    within what arrivals allow, and give the duration of missing packets. A clock that contradicts the audio is not
    trusted until it agrees again. If a clock runs at another rate, the rate is learned and timestamps are scaled.

    `sequence` (extended), `timestamp`, `position` and `duration` are those of the newest packet.
    """

    __slots__ = (
        "_anchor_position",
        "_anchor_timestamp",
        "_content",
        "_counted",
        "_counted_duration",
        "_distrust",
        "_factor",
        "_first_horizon",
        "_nominal",
        "_steps",
        "duration",
        "end",
        "next_timestamp",
        "position",
        "sequence",
        "ticks",
        "timestamp",
    )

    def __init__(self, ticks: int) -> None:
        self._nominal = ticks
        self.ticks: float = ticks
        """Ticks of 48 kHz in one tick of the timestamps."""
        self.sequence = self.timestamp = self.position = self.duration = 0
        self.end = 0
        """Position at which the newest packet ends."""
        self.next_timestamp = -1
        """Timestamp of a packet that begins at `end`; -1 if the next timestamp must be checked."""
        self._counted_duration = 0
        self._distrust = 0
        """Contiguous packets that must still agree before timestamps can add pauses again."""
        self._anchor_timestamp = self._anchor_position = 0
        """Timestamp and position of the packet from which the clock's drift is measured."""
        self._steps = self._content = self._counted = 0
        """Consecutive steps that erred by `_factor`; the sum of their durations and of their timestamp differences, the
        first step excluded."""
        self._factor = self._first_horizon = 0.0

    def restart(self, sequence: int, timestamp: int, position: int, *, continues: bool) -> None:
        """Begin with a packet at `position`. If the stream `continues`, the learned rate of its clock is kept."""
        self.sequence, self.timestamp, self.position = sequence, timestamp, position
        self.next_timestamp = -1
        self._anchor(timestamp, position)
        if not continues:
            self._adopt(self._nominal)

    def advance(self, sequence: int, timestamp: int, position: int, duration: int) -> None:
        """Make a packet the newest one."""
        if duration != self.duration:
            self.duration = duration
            self._counted_duration = round(duration / self.ticks)
        self.sequence = sequence
        self.timestamp = timestamp
        self.position = position
        self.end = position + duration
        self.next_timestamp = -1 if self._distrust else timestamp + self._counted_duration & _MASK

    def place(self, sequence: int, timestamp: int, horizon: float, skipped: int = 0) -> int:
        """Return the position of a packet, by its extended sequence number.

        `horizon` is the position of audio that would arrive now with the smallest transit: later audio cannot exist
        yet. `skipped` is the number of packets without audio since the newest packet.
        """
        counted = (timestamp - self.timestamp + _HALF & _MASK) - _HALF
        apart = sequence - self.sequence - skipped
        if counted == apart * self._counted_duration and not self._distrust and apart * self.duration <= MAX_LEAP:
            self._steps = 0
            return self.position + apart * self.duration
        if apart == 1:
            return self.position + self._step(counted, timestamp, horizon)
        signalled = round(counted * self.ticks)
        if apart > 1:
            return self.position + self._step_over_loss(signalled, apart * self.duration, int(horizon) - self.position)
        expected = apart * self.duration
        agrees = abs(signalled - expected) < self.duration >> 1
        return self.position + (expected if agrees or self._distrust or signalled > 0 else signalled)

    def _step(self, counted: int, timestamp: int, horizon: float) -> int:
        """Return the distance from the newest packet to the next one: its duration, and the pause after it."""
        duration, signalled = self.duration, round(counted * self.ticks)
        error = signalled - duration
        if abs(error) < duration >> 1:
            self._steps = 0
            if self._distrust:
                self._distrust -= 1
            self._follow_drift(timestamp)
            return duration
        pause = min(signalled, int(horizon) - self.position) - duration
        pauses = error > 0 and not self._distrust and 2 * pause >= error
        if not pauses:
            self._distrust = TRUSTED_AFTER
        step = duration + pause if pauses else duration
        self._anchor(timestamp, self.position + step)
        self._learn(counted, horizon)
        return step

    def _step_over_loss(self, signalled: int, expected: int, room: int) -> int:
        """Return the distance from the newest packet to one that follows lost packets.

        Sequence numbers give `expected`, timestamps give `signalled`, and arrivals allow at most `room`.
        """
        error, duration = signalled - expected, self.duration
        step, early = expected, MAX_EARLY
        if abs(error) < duration >> 1:
            early = MAX_LEAP
        elif not self._distrust:
            pause = min(signalled, room) - expected
            if error > 0 and 2 * pause >= error:
                step = expected + pause
            elif error < 0 and signalled > duration >> 1:
                step, early = max(signalled, duration), MAX_LEAP
        return step if step <= room + early else max(room, duration)

    def _learn(self, counted: int, horizon: float) -> None:
        """Record a step of `counted` timestamp ticks that disagrees with the audio. Adopt its factor after enough of
        them.

        A clock that seems too fast may belong to a sender that pauses after each packet. Arrivals show the difference.
        """
        duration = self.duration
        if counted <= 0:
            self._steps = 0
            return
        if not self._steps or abs(counted * self._factor - duration) >= duration >> 1:
            self._steps, self._content, self._counted = 1, 0, 0
            self._factor, self._first_horizon = duration / counted, horizon
            return
        self._steps += 1
        self._content += duration
        self._counted += counted
        if self._steps >= LEARNED_AFTER:
            excess = self._counted * self.ticks - self._content
            if horizon - self._first_horizon < self._content + excess / 2 or excess < 0:
                self._adopt(self._content / self._counted)

    def _follow_drift(self, timestamp: int) -> None:
        """Adopt the rate of the timestamps since the anchor once they drifted by a whole packet.

        Timestamps that jitter by less than half a packet never drift so far.
        """
        position = self.end
        counted = (timestamp - self._anchor_timestamp + _HALF & _MASK) - _HALF
        lasted = position - self._anchor_position
        if abs(counted * self.ticks - lasted) >= self.duration:
            if counted > 0 < lasted:
                self._adopt(lasted / counted)
            self._anchor(timestamp, position)

    def _anchor(self, timestamp: int, position: int) -> None:
        self._anchor_timestamp, self._anchor_position = timestamp, position

    def _adopt(self, ticks: float) -> None:
        self.ticks = ticks
        self._counted_duration = round(self.duration / ticks)
        self._distrust = self._steps = 0
