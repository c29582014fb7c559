"""Transport-wide congestion control feedback (TWCC): reports on received packets, and evaluation of the peer's reports.

draft-holmer-rmcat-transport-wide-cc-extensions-01 defines it. `rtcp.feedback` has its wire format.
"""

from math import inf

from antiphon_common.sequence import difference16, extend16
from antiphon_transceiver.rtcp.feedback import (
    DELTA_TICKS,
    MAX_DELTA,
    MAX_STATUSES,
    MIN_DELTA,
    REFERENCE_TICKS,
    TransportFeedback,
)

FEEDBACK_INTERVAL = 0.09
"""Seconds after which the next packet that arrives triggers feedback: with packets of 20 ms, one every 100 ms."""

FEEDBACK_DEADLINE = 0.11
"""Seconds after which feedback is sent even if no packet arrives."""

MAX_PENDING = 128
"""Arrivals held until the next feedback. A tenth of a second of speech has at most 40."""

REPORTED = 64
"""Arrivals remembered after they were reported. A late packet is reported together with those around it."""

REMEMBERED = 256
"""Sent packets that are remembered until their feedback arrives: 5 s at 20 ms each."""

SMOOTHING = 1 / 64
"""Weight of one packet in the averages, which cover about the last second."""

BURST_SMOOTHING = 1 / 16
"""Weight of one lost packet in the burst ratio. At 5 % of losses it covers the last six seconds."""

DRIFT = 0.0005
"""Seconds by which the smallest transit rises in each second, to follow a clock that is up to 500 ppm slow."""

_UNKNOWN, _LOST, _RECEIVED = range(3)


class TwccReceiver:
    """Records when packets arrive, and makes feedback about ten times a second.

    Call `received` for each packet. Call `feedback` when a packet arrives at or after `due`, otherwise at `deadline`.
    """

    def __init__(self) -> None:
        self.dropped = 0
        """Arrivals that were not reported, since they were too many at once or too late."""
        self.due = inf
        """When a packet that arrives triggers feedback; infinity if there is nothing to report."""
        self.deadline = inf
        """When feedback is due even if no packet arrives; infinity if there is nothing to report."""
        self._pending: list[tuple[int, float]] = []
        self._reported: dict[int, float] = {}
        self._next_base: int | None = None
        """The extended sequence number after the last one reported."""
        self._count = 0

    def received(self, sequence: int, now: float) -> None:
        """Record the arrival of a packet, given by its transport-wide sequence number."""
        pending = self._pending
        if not pending:
            self.due = now + FEEDBACK_INTERVAL
            self.deadline = now + FEEDBACK_DEADLINE
        elif len(pending) >= MAX_PENDING:
            self.dropped += 1
            return
        pending.append((sequence, now))

    def feedback(self, sender_ssrc: int, media_ssrc: int) -> TransportFeedback | None:
        """Return feedback on all packets since the last feedback, or None if there were none."""
        arrivals = self._take_pending()
        if not arrivals:
            return None
        base, last = min(arrivals), max(arrivals)
        expected = last + 1 if self._next_base is None else self._next_base
        times = arrivals if base >= expected else self._reported | arrivals
        if last >= expected:
            base = min(base, expected)
        self._next_base = max(last + 1, expected)
        base = max(base, last - MAX_STATUSES + 1)
        known = [number for number in range(base, last + 1) if number in times]
        reference = int(times[known[0]] * DELTA_TICKS) // REFERENCE_TICKS
        before = reference * REFERENCE_TICKS
        deltas: list[int | None] = [None] * (last - base + 1)
        for number in known:
            delta = min(max(int(times[number] * DELTA_TICKS) - before, MIN_DELTA), MAX_DELTA)
            before += delta
            deltas[number - base] = delta
        self._remember(arrivals, last)
        count = self._count
        self._count = count + 1 & 0xFF
        return TransportFeedback(sender_ssrc, media_ssrc, base & 0xFFFF, reference & 0xFFFFFF, count, tuple(deltas))

    def _take_pending(self) -> dict[int, float]:
        """Return when each packet arrived, by extended sequence number. Of duplicates, the first one counts."""
        pending, self._pending = self._pending, []
        self.due = self.deadline = inf
        near = self._next_base
        arrivals: dict[int, float] = {}
        for sequence, at in pending:
            number = sequence + 0x10000 if near is None else extend16(sequence, near)
            if near is not None and number <= near - REPORTED:
                self.dropped += 1
                continue
            near = number if near is None else max(near, number)
            arrivals.setdefault(number, at)
        return arrivals

    def _remember(self, arrivals: dict[int, float], last: int) -> None:
        self._reported.update(arrivals)
        if len(self._reported) > 2 * REPORTED:
            self._reported = {number: at for number, at in self._reported.items() if number > last - REPORTED}


class TwccSender:
    """Records when packets are sent, and evaluates feedback on them: losses and queueing delay.

    Call `sent` for each packet, and `feedback_received` for each feedback.
    """

    def __init__(self) -> None:
        self.received = 0
        self.lost = 0
        """Packets that the peer reported as lost. If one is reported as received later, it counts as `received`."""
        self.loss = 0.0
        """Share of recent packets that were lost, 0 to 1."""
        self.burst_ratio = 0.0
        """Share of recent lost packets whose predecessor was lost too, 0 to 1."""
        self.delay: float | None = None
        """Queueing delay in seconds: the mean transit of recent packets above the smallest one; None at first."""
        self._slots: list[tuple[int, float]] = [(-1, 0.0)] * REMEMBERED
        self._fates = bytearray(REMEMBERED)
        self._newest = 0
        """The sequence number of the packet sent last."""
        self._fastest = inf
        self._fastest_at = 0.0
        self._reference: int | None = None

    def sent(self, sequence: int, now: float) -> None:
        """Record a packet that is sent now, given by its transport-wide sequence number."""
        slot = sequence % REMEMBERED
        self._newest = sequence
        self._slots[slot] = (sequence, now)
        self._fates[slot] = _UNKNOWN

    def feedback_received(self, feedback: TransportFeedback, now: float) -> None:
        """Evaluate feedback. Packets that are not remembered are skipped at no cost."""
        arrival = self._extend_reference(feedback.reference_time) * REFERENCE_TICKS
        behind = difference16(self._newest, feedback.base_sequence)
        start, stop = max(0, behind - REMEMBERED + 1), max(0, behind + 1)
        arrival += sum(filter(None, feedback.deltas[:start]))
        for offset, delta in enumerate(feedback.deltas[start:stop], start):
            if delta is not None:
                arrival += delta
            sequence = feedback.base_sequence + offset & 0xFFFF
            slot = sequence % REMEMBERED
            known, sent_at = self._slots[slot]
            fate = self._fates[slot]
            if known != sequence or fate == _RECEIVED:
                continue
            if delta is not None:
                self._fates[slot] = _RECEIVED
                self.lost -= fate == _LOST
                self._packet_received(arrival / DELTA_TICKS - sent_at, now)
            elif fate == _UNKNOWN:
                self._fates[slot] = _LOST
                self.lost += 1
                self.loss += (1.0 - self.loss) * SMOOTHING
                follows = self._fates[slot - 1] == _LOST
                self.burst_ratio += (follows - self.burst_ratio) * BURST_SMOOTHING

    def _packet_received(self, transit: float, now: float) -> None:
        self.received += 1
        self.loss -= self.loss * SMOOTHING
        drifted = self._fastest + DRIFT * (now - self._fastest_at)
        self._fastest = transit if transit < drifted else drifted
        self._fastest_at = now
        waited = transit - self._fastest
        self.delay = waited if self.delay is None else self.delay + (waited - self.delay) * SMOOTHING

    def _extend_reference(self, reference: int) -> int:
        """Return the reference time, extended from its 24 bits."""
        near = reference if self._reference is None else self._reference
        self._reference = near + ((reference - near + 0x800000) & 0xFFFFFF) - 0x800000
        return self._reference
