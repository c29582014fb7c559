"""A jitter buffer for a listener that is a machine: what comes in order is released at once.

A hole is waited for until its playout time, the smallest transit seen plus `target`; then it is filled, and what was
held behind it follows. So audio is delayed by at most the target, and that is as small as the jitter of the last second
allows. What repeats a missing packet takes its place without a wait. Times are seconds, positions and durations 48 kHz
ticks.
"""

from bisect import bisect, insort
from collections.abc import Sequence
from math import ceil
from operator import itemgetter
from typing import Final

import msgspec

from antiphon_common.errors import DecodeError
from antiphon_common.frames import Origin
from antiphon_transceiver.audio.late import LatePacket, LateRun
from antiphon_transceiver.audio.payloads import OPUS, PayloadKind
from antiphon_transceiver.audio.red import Repeated
from antiphon_transceiver.audio.transit import TransitRange

MIN_TARGET: Final = 0.04
"""Two frames: the packet after a missing one, which may repeat it, or one that was overtaken, still has a frame's time
when no jitter has been seen."""

MAX_TARGET: Final = 0.15
"""Jitter of 80 to 100 ms is still followed; beyond, waiting costs a conversation more than the packets are worth."""

HEADROOM: Final = 1.25
"""What the largest delay of the last second is multiplied by: a delay with a long tail will exceed it soon."""

TARGET_MARGIN: Final = 0.005
"""Seconds above that, for timers that are late themselves."""

MAX_CONCEALED: Final = 4_800
"""Ticks concealed in a row, five frames of 20 ms: beyond that concealment is silence or noise, and the position jumps
instead."""

MAX_HELD: Final = 128
"""Packets held behind a hole. The longest target holds 8 of 20 ms and 60 of 2.5 ms; more is a flood, and the hole is
given up."""

TIMER_SLACK: Final = 0.005
"""Seconds after its playout time in which a missing frame is still filled: as late as a timer may be. Later it would
delay what follows."""

MAX_LEAP: Final = 1.0
"""Seconds a packet may seem to come before its time; beyond that the sender's clock was set anew."""

_FRAME_TICKS = 960
_SHORTEST_TICKS = 120
_DTX_SIZE = 2
_MAX_DROPOUT = 3000
_RECENT = 256
_TICKS_PER_SECOND = 48_000
_TICK = 1 / _TICKS_PER_SECOND
_RECEIVED = Origin.RECEIVED
_POSITION = itemgetter(1)


class Release(msgspec.Struct, frozen=True, gc=False):
    """A stretch of audio whose turn it is.

    `payload` is the packet itself, received or recovered from RED. Without it, a recovered stretch is held by the
    in-band FEC of the packet after it, `following`, and a concealed one by nothing. Positions never go back; where one
    jumps there was silence, or concealment had ended.
    """

    position: int
    duration: int
    payload: bytes | None
    origin: Origin
    following: bytes | None = None


class JitterCounters:
    """Packets unless said otherwise. Of the packets sent up to the newest released one, received - late were released
    and lost were not.

    `lost` counts sequence numbers that were passed over, whether they came late or never; `late` packets came after
    their playout time, `duplicate` ones after another that held the same. `concealed` and `recovered` are releases;
    `redundant` of the latter came by RED, the others by in-band FEC. `resynchronised` counts how often the stream's
    clock was taken anew.
    """

    __slots__ = (
        "concealed",
        "duplicate",
        "invalid",
        "late",
        "lost",
        "received",
        "recovered",
        "redundant",
        "reordered",
        "resynchronised",
    )

    def __init__(self) -> None:
        self.received = 0
        self.lost = 0
        self.recovered = 0
        self.redundant = 0
        self.concealed = 0
        self.late = 0
        self.duplicate = 0
        self.reordered = 0
        self.invalid = 0
        self.resynchronised = 0


class JitterBuffer:
    """Orders the packets of one RTP stream. `push` each, then `pop` until None; `pop` again at `poll_timeout`.

    Read every packet that waits at the socket before popping at a timeout: what was not pushed is not there.
    """

    def __init__(self, kind: PayloadKind = OPUS) -> None:
        self.target = MIN_TARGET
        """Seconds that a missing packet is waited for now."""
        self.counters = JitterCounters()
        self._clock_ticks, self._duration, self._repeats = kind
        self._transit = TransitRange()
        self._late = LateRun()
        self._arrival = 0.0
        self._held: list[tuple[int, int, int, bytes, Origin]] = []
        """Extended sequence number, position, duration, packet, how it came; sorted."""
        self._highest = 0
        """Extended sequence number of the newest packet; `_timestamp` and `_position` are its own."""
        self._timestamp = 0
        self._position = 0
        self._recent = [-1] * _RECENT
        self._next_sequence = 0
        self._next_position = 0
        self._frame = _FRAME_TICKS
        """Duration of the last packet released, and so presumably of those missing."""
        self._reach = 0
        """Ticks before it at which what the newest packet repeats began."""
        self._concealed = 0
        """Ticks concealed since that packet."""
        self._silent = True
        """Whether no packet is expected: at the start, in DTX, and once concealment has ended."""
        self._release_through = 0
        """Packets up to this extended sequence number do not wait for what may come before them."""
        self._restart_next = True

    def restart(self) -> None:
        """Say that the next packet begins another stream (another SSRC); what is held is still released."""
        self._restart_next = True

    def push(
        self, sequence: int, timestamp: int, payload: bytes, now: float, repeated: Sequence[Repeated] = ()
    ) -> None:
        """Take a packet with its RTP sequence number and timestamp, and what it repeats of those before it."""
        try:
            duration = self._duration(payload)
        except DecodeError:
            self.counters.invalid += 1
            if not payload and not self._held and sequence == self._next_sequence & 0xFFFF:
                # Nothing but padding, with which browsers probe a path: it stands where no audio is missing.
                self._next_sequence += 1
            return
        if self._restart_next:
            self._restart(sequence, timestamp, now, continues=False)
        offset = (sequence - self._highest) & 0xFFFF
        extended = self._highest + offset - (offset >> 15 << 16)
        if self._recent[extended % _RECENT] == extended:
            self.counters.duplicate += 1
            return
        self.counters.received += 1
        offset = (timestamp - self._timestamp) & 0xFFFFFFFF
        position = self._position + (offset - (offset >> 31 << 32)) * self._clock_ticks
        took = now - position * _TICK
        transit = self._transit
        if took < transit.smallest - MAX_LEAP:
            self._restart(sequence, timestamp, now, continues=True)
            extended, position, took = self._highest, self._position, transit.smallest
        if took > transit.largest:
            transit.rise(took)
            self._aim()
        if took > transit.smallest + self.target or position < self._next_position or extended < self._next_sequence:
            self._recent[extended % _RECENT] = extended
            self._receive_late(LatePacket(sequence, timestamp, payload, now, took))
            return
        if transit.update(took, now):
            self._aim()
        self._arrival = now
        if self._late.packets:
            self._late.drop()
            self.counters.late = self._late.dropped
        self._recent[extended % _RECENT] = extended
        if extended >= self._highest:
            self._highest, self._timestamp, self._position = extended, timestamp, position
            self._held.append((extended, position, duration, payload, _RECEIVED))
        else:
            self.counters.reordered += 1
            insort(self._held, (extended, position, duration, payload, _RECEIVED))
        reach = max(ticks for ticks, _ in repeated) * self._clock_ticks if repeated else 0
        if reach != self._reach:
            self._reach = reach
            self._aim()
        for ticks, again in repeated:
            self._insert_repeated(position - ticks * self._clock_ticks, again)

    def _insert_repeated(self, position: int, payload: bytes) -> None:
        """Hold what a packet repeats of another where that one is missing and its turn has not passed. Of those missing
        before the next held packet it is the one after which as many of its length fit as come between."""
        if position < self._next_position:
            return
        try:
            duration = self._duration(payload)
        except DecodeError:
            return
        index = bisect(self._held, position, key=_POSITION)
        if index == len(self._held):
            return
        first, free = self._next_sequence, self._next_position
        if index:
            sequence, begins, lasts, *_ = self._held[index - 1]
            first, free = sequence + 1, begins + lasts
        following, ends, *_ = self._held[index]
        extended = max(first, following - (ends - position) // duration)
        if free <= position <= ends - duration and extended < following:
            self._recent[extended % _RECENT] = extended
            self._held.insert(index, (extended, position, duration, payload, Origin.RECOVERED))

    def pop(self, now: float) -> Release | None:
        """Return the next stretch that is due, or None. Call it until None."""
        if not self._held:
            return None if self._silent else self._guess(now)
        sequence, position, *_ = self._held[0]
        if (
            sequence == self._next_sequence
            or position - self._next_position < _SHORTEST_TICKS
            or sequence <= self._release_through
            or len(self._held) > MAX_HELD
        ):
            return self._release()
        return self._fill(now)

    def poll_timeout(self) -> float | None:
        """Return when `pop`, called until None before, will next have something although nothing arrives, or None."""
        if self._held:
            return self._playout(self._hole()[1])
        return None if self._silent else self._playout(self._next_position)

    def _playout(self, position: int) -> float:
        return self._transit.smallest + self.target + position * _TICK

    def _aim(self) -> None:
        """Set the target: how far packets reach back, and the delay that they may have. With in-band FEC one reaches
        back by a frame, and so does what it repeats."""
        jitter = self._transit.largest - self._transit.smallest
        target = (self._frame + self._reach) * _TICK + jitter * HEADROOM + TARGET_MARGIN
        self.target = min(max(target, MIN_TARGET), MAX_TARGET)

    def _hole(self) -> tuple[int, int]:
        """How many ticks are missing before the first held packet, and where the next of its missing frames begins.

        The gap between positions may be longer than what is missing: then the sender paused.
        """
        sequence, position, *_ = self._held[0]
        missing = (sequence - self._next_sequence) * self._frame - self._concealed
        worth_a_wait = self._frame if self._concealed >= MAX_CONCEALED else max(missing, self._frame)
        return missing, max(self._next_position, position - worth_a_wait)

    def _guess(self, now: float) -> Release | None:
        """Conceal the next frame when its time has come and nothing has."""
        start = self._next_position
        if now < self._playout(start):
            return None
        start += self._overdue(start, now)
        self._concealed += start - self._next_position
        self._next_position = start
        self._silent = self._concealed >= MAX_CONCEALED
        if self._silent or now < self._playout(start):
            return None
        return self._conceal(start, self._frame)

    def _fill(self, now: float) -> Release | None:
        """Recover or conceal the next missing frame before the first held packet, when its time has come. What would be
        concealed too late is left out; what was said never is."""
        _, position, _, payload, _ = self._held[0]
        missing, start = self._hole()
        if now < self._playout(start):
            return None
        gap = position - start
        fec = self._repeats(payload)
        if fec > gap:
            fec = 0
        overdue = min(self._overdue(start, now), gap - fec)
        if missing <= overdue:
            return self._release()
        if overdue:
            self._concealed += overdue
            self._next_position = start + overdue
            return self.pop(now)
        if fec and gap - fec < _SHORTEST_TICKS:
            self.counters.recovered += 1
            self._next_position = position
            return Release(position - fec, fec, None, Origin.RECOVERED, payload)
        if self._concealed >= MAX_CONCEALED:
            return self._release()
        return self._conceal(start, min(self._frame, gap - fec))

    def _overdue(self, start: int, now: float) -> int:
        """Ticks of whole frames from `start` on for which it is too late."""
        late = now - self._playout(start) - TIMER_SLACK
        return ceil(late * _TICKS_PER_SECOND / self._frame) * self._frame if late > 0 else 0

    def _release(self) -> Release:
        sequence, position, duration, payload, origin = self._held.pop(0)
        skipped = sequence - self._next_sequence
        if 0 < skipped < _MAX_DROPOUT:
            self.counters.lost += skipped
        position = max(position, self._next_position)
        self._next_sequence = sequence + 1
        self._next_position = position + duration
        if duration != self._frame:
            self._frame = duration
            self._aim()
        self._concealed = 0
        self._silent = len(payload) <= _DTX_SIZE
        if origin:
            self.counters.lost += 1
            self.counters.recovered += 1
            self.counters.redundant += 1
        return Release(position, duration, payload, origin)

    def _conceal(self, start: int, duration: int) -> Release:
        duration = min(duration, _FRAME_TICKS) // _SHORTEST_TICKS * _SHORTEST_TICKS
        self.counters.concealed += 1
        self._concealed += duration
        self._silent = self._concealed >= MAX_CONCEALED
        self._next_position = start + duration
        return Release(start, duration, None, Origin.CONCEALED)

    def _receive_late(self, packet: LatePacket) -> None:
        """Discard a packet, unless a run of such packets shows that the clock is wrong: then begin anew with them."""
        wrong_clock = self._late.add(packet, self._arrival)
        self._arrival = packet.arrived
        if wrong_clock:
            timely = self._late.take(packet.arrived - self.target)
            self.counters.received -= len(timely)
            self._restart(timely[0].sequence, timely[0].timestamp, timely[0].arrived, continues=True)
            for again in timely:
                self.push(again.sequence, again.timestamp, again.payload, again.arrived)
        self.counters.late = self._late.dropped

    def _restart(self, sequence: int, timestamp: int, now: float, *, continues: bool) -> None:
        """Let `sequence` follow what was expected next, at the position that the time since then gives it.

        Where the stream `continues`, the sequence numbers left out are lost packets.
        """
        self._restart_next = False
        self.counters.resynchronised += self.counters.received > 0
        expected, earliest = self._next_sequence, self._next_position
        if self._held:
            last, position, duration, *_ = self._held[-1]
            expected, earliest = last + 1, position + duration
        extended = expected + ((sequence - expected) & 0xFFFF)
        position = max(earliest, round(max(0.0, now - self._transit.smallest) * _TICKS_PER_SECOND))
        if not self._held and not continues:
            self._next_sequence = extended
        self._highest = self._release_through = extended
        self._timestamp, self._position = timestamp, position
        self._recent = [-1] * _RECENT
        self._transit.restart(now - position * _TICK, now)
        self._aim()
