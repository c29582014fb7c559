"""Transport-wide feedback, both directions: what we tell of the packets that arrive, and what we learn of ours."""

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
"""Seconds after which the next packet to arrive brings feedback: with packets of 20 ms one goes out every 100 ms."""

FEEDBACK_DEADLINE = 0.11
"""Seconds after which feedback goes out although no packet comes. Since packets come first, this timer seldom fires."""

MAX_PENDING = 128
"""Arrivals held until the next feedback; a tenth of a second of anything that is speech has 40."""

TOLD = 64
"""Arrivals remembered after they were told: a packet that comes late is told of together with those around it."""

REMEMBERED = 256
"""Packets of ours whose feedback may still come: 5 s at 20 ms each."""

SMOOTHING = 1 / 64
"""Weight of one packet in the figures: they follow the last second or so."""

RUN_SMOOTHING = 1 / 16
"""Weight of one lost packet in the share that comes in runs: at 5 % of losses that follows the last six seconds."""

DRIFT = 0.0005
"""How much the smallest transit rises in a second, so that it follows a clock up to 500 ppm slow."""

_UNKNOWN, _LOST, _RECEIVED = range(3)


class TransportReceiver:
    """Notes when packets arrive, and tells the sender about ten times a second."""

    def __init__(self) -> None:
        self.dropped = 0
        """Arrivals that no feedback told of, since too many came at once or too late."""
        self.due = inf
        """When a packet that arrives should bring feedback with it; infinite when there is nothing to tell."""
        self._pending: list[tuple[int, float]] = []
        self._told: dict[int, float] = {}
        self._next_base: int | None = None
        """The extended sequence number behind the last one told of."""
        self._count = 0

    def received(self, sequence: int, now: float) -> None:
        """Note a packet by its transport-wide sequence number."""
        pending = self._pending
        if not pending:
            self.due = now + FEEDBACK_INTERVAL
        elif len(pending) >= MAX_PENDING:
            self.dropped += 1
            return
        pending.append((sequence, now))

    @property
    def deadline(self) -> float:
        """When feedback must go out even though nothing arrives."""
        return self.due + (FEEDBACK_DEADLINE - FEEDBACK_INTERVAL)

    def feedback(self, sender_ssrc: int, media_ssrc: int) -> TransportFeedback | None:
        """Tell of everything that arrived since the last feedback, or return None when nothing did."""
        arrivals = self._take_pending()
        if not arrivals:
            return None
        base, last = min(arrivals), max(arrivals)
        expected = last + 1 if self._next_base is None else self._next_base
        times = arrivals if base >= expected else self._told | arrivals
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
        """Return when each packet came, by its sequence number extended; of one that came twice the first counts."""
        pending, self._pending = self._pending, []
        self.due = inf
        near = self._next_base
        arrivals: dict[int, float] = {}
        for sequence, at in pending:
            number = sequence + 0x10000 if near is None else extend16(sequence, near)
            if near is not None and number <= near - TOLD:
                self.dropped += 1
                continue
            near = number if near is None else max(near, number)
            arrivals.setdefault(number, at)
        return arrivals

    def _remember(self, arrivals: dict[int, float], last: int) -> None:
        self._told.update(arrivals)
        if len(self._told) > 2 * TOLD:
            self._told = {number: at for number, at in self._told.items() if number > last - TOLD}


class TransportSender:
    """Remembers when our packets left, and learns from the peer's feedback how they fare."""

    def __init__(self) -> None:
        self.received = 0
        self.lost = 0
        """Packets the peer told of; one that it first called lost and then received is received."""
        self.loss = 0.0
        """The share of packets lost, 0 to 1, lately."""
        self.in_runs = 0.0
        """The share of those lost, 0 to 1, right before which another was lost, lately."""
        self.delay: float | None = None
        """How many seconds longer than the fastest packet packets take, lately: they wait in queues on the way."""
        self._slots: list[tuple[int, float]] = [(-1, 0.0)] * REMEMBERED
        self._fates = bytearray(REMEMBERED)
        self._newest = 0
        """The sequence number of the packet that left last."""
        self._fastest = inf
        self._fastest_at = 0.0
        self._reference: int | None = None

    def sent(self, sequence: int, now: float) -> None:
        """Remember a packet that leaves now, by its transport-wide sequence number."""
        slot = sequence % REMEMBERED
        self._newest = sequence
        self._slots[slot] = (sequence, now)
        self._fates[slot] = _UNKNOWN

    def feedback_received(self, feedback: TransportFeedback, now: float) -> None:
        """Learn from a feedback; what it says of packets we do not remember is passed over, in no time."""
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
                self.in_runs += (follows - self.in_runs) * RUN_SMOOTHING

    def _packet_received(self, transit: float, now: float) -> None:
        self.received += 1
        self.loss -= self.loss * SMOOTHING
        drifted = self._fastest + DRIFT * (now - self._fastest_at)
        self._fastest = transit if transit < drifted else drifted
        self._fastest_at = now
        waited = transit - self._fastest
        self.delay = waited if self.delay is None else self.delay + (waited - self.delay) * SMOOTHING

    def _extend_reference(self, reference: int) -> int:
        """Return the reference time without the wrap of its 24 bits."""
        near = reference if self._reference is None else self._reference
        self._reference = near + ((reference - near + 0x800000) & 0xFFFFFF) - 0x800000
        return self._reference
