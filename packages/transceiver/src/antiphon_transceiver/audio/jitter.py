"""A jitter buffer for a listener that is a machine: what comes in order is released at once.

A hole is waited for until its playout time, the smallest transit seen plus `target`; then it is filled, and what was
held behind it follows. So audio is delayed by at most the target, and a consumer that plays what it is given never
falls further behind than that. Times are seconds, positions and durations 48 kHz ticks.
"""

from bisect import insort
from math import ceil
from typing import Final

import msgspec

from antiphon_common.errors import DecodeError
from antiphon_common.formats import opus_duration
from antiphon_common.frames import Origin
from antiphon_transceiver.audio.fec import carries_fec, frame_duration
from antiphon_transceiver.audio.late import LatePacket, LateRun
from antiphon_transceiver.audio.transit import MinimalTransit

DEFAULT_TARGET: Final = 0.06
"""Three frames: covers the jitter of a good Wi-Fi and leaves a reordered packet its chance."""

MAX_CONCEALED: Final = 4_800
"""Ticks concealed in a row, five frames of 20 ms: beyond that concealment is silence or noise, and the position jumps
instead."""

MAX_HELD: Final = 128
"""Packets held behind a hole. The target holds 3 of 20 ms and 24 of 2.5 ms; more is a flood, and the hole is given
up."""

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


class Release(msgspec.Struct, frozen=True, gc=False):
    """A stretch of audio whose turn it is.

    `payload` is the packet itself; for a recovered stretch the packet after it, whose in-band FEC holds the stretch;
    for a concealed one None. Positions never go back; where one jumps there was silence, or concealment had ended.
    """

    position: int
    duration: int
    payload: bytes | None
    origin: Origin


class JitterCounters:
    """Packets unless said otherwise. Of the packets sent up to the newest released one, received - late were released
    and lost were not.

    `lost` counts sequence numbers that were passed over, whether they came late or never; `late` packets came after
    their playout time. `concealed` and `recovered` are releases. `resynchronised` counts how often the stream's clock
    was taken anew.
    """

    __slots__ = (
        "concealed",
        "duplicate",
        "invalid",
        "late",
        "lost",
        "received",
        "recovered",
        "reordered",
        "resynchronised",
    )

    def __init__(self) -> None:
        self.received = 0
        self.lost = 0
        self.recovered = 0
        self.concealed = 0
        self.late = 0
        self.duplicate = 0
        self.reordered = 0
        self.invalid = 0
        self.resynchronised = 0


class JitterBuffer:
    """Orders the Opus packets of one RTP stream. `push` each, then `pop` until None; `pop` again at `poll_timeout`.

    Read every packet that waits at the socket before popping at a timeout: what was not pushed is not there.
    """

    def __init__(self, target: float = DEFAULT_TARGET) -> None:
        self.target = target
        self.counters = JitterCounters()
        self._transit = MinimalTransit()
        self._late = LateRun()
        self._arrival = 0.0
        self._held: list[tuple[int, int, int, bytes]] = []
        """Extended sequence number, position, duration, packet; sorted."""
        self._highest = 0
        """Extended sequence number of the newest packet; `_timestamp` and `_position` are its own."""
        self._timestamp = 0
        self._position = 0
        self._recent = [-1] * _RECENT
        self._next_sequence = 0
        self._next_position = 0
        self._frame = _FRAME_TICKS
        """Duration of the last packet released, and so presumably of those missing."""
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

    def push(self, sequence: int, timestamp: int, payload: bytes, now: float) -> None:
        """Take a packet with its RTP sequence number and timestamp."""
        try:
            duration = opus_duration(payload)
        except DecodeError:
            self.counters.invalid += 1
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
        position = self._position + offset - (offset >> 31 << 32)
        took = now - position * _TICK
        transit = self._transit
        if took < transit.value - MAX_LEAP:
            self._restart(sequence, timestamp, now, continues=True)
            extended, position, took = self._highest, self._position, transit.value
        if took > transit.value + self.target or position < self._next_position or extended < self._next_sequence:
            self._recent[extended % _RECENT] = extended
            self._receive_late(LatePacket(sequence, timestamp, payload, now, took))
            return
        transit.update(took, now)
        self._arrival = now
        if self._late.packets:
            self._late.drop()
            self.counters.late = self._late.dropped
        self._recent[extended % _RECENT] = extended
        if extended >= self._highest:
            self._highest, self._timestamp, self._position = extended, timestamp, position
            self._held.append((extended, position, duration, payload))
        else:
            self._insert((extended, position, duration, payload))

    def pop(self, now: float) -> Release | None:
        """Return the next stretch that is due, or None. Call it until None."""
        if not self._held:
            return None if self._silent else self._guess(now)
        sequence, position, _, _ = self._held[0]
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
        return self._transit.value + self.target + position * _TICK

    def _hole(self) -> tuple[int, int]:
        """How many ticks are missing before the first held packet, and where the next of its missing frames begins.

        The gap between positions may be longer than what is missing: then the sender paused.
        """
        sequence, position, _, _ = self._held[0]
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
        """Recover or conceal the next missing frame before the first held packet, when its time has come."""
        _, position, _, payload = self._held[0]
        missing, start = self._hole()
        if now < self._playout(start):
            return None
        overdue = self._overdue(start, now)
        if missing <= overdue:
            return self._release()
        if overdue:
            self._concealed += overdue
            self._next_position = min(start + overdue, position)
            return self.pop(now)
        gap = position - start
        fec = frame_duration(payload) if carries_fec(payload) else 0
        if fec and 0 <= gap - fec < _SHORTEST_TICKS:
            self.counters.recovered += 1
            self._next_position = position
            return Release(position - fec, fec, payload, Origin.RECOVERED)
        if self._concealed >= MAX_CONCEALED:
            return self._release()
        return self._conceal(start, min(self._frame, gap - fec if gap > fec else gap))

    def _overdue(self, start: int, now: float) -> int:
        """Ticks of whole frames from `start` on for which it is too late."""
        late = now - self._playout(start) - TIMER_SLACK
        return ceil(late * _TICKS_PER_SECOND / self._frame) * self._frame if late > 0 else 0

    def _release(self) -> Release:
        sequence, position, duration, payload = self._held.pop(0)
        skipped = sequence - self._next_sequence
        if 0 < skipped < _MAX_DROPOUT:
            self.counters.lost += skipped
        position = max(position, self._next_position)
        self._next_sequence = sequence + 1
        self._next_position = position + duration
        self._frame = duration
        self._concealed = 0
        self._silent = len(payload) <= _DTX_SIZE
        return Release(position, duration, payload, Origin.RECEIVED)

    def _conceal(self, start: int, duration: int) -> Release:
        duration = min(duration, _FRAME_TICKS) // _SHORTEST_TICKS * _SHORTEST_TICKS
        self.counters.concealed += 1
        self._concealed += duration
        self._silent = self._concealed >= MAX_CONCEALED
        self._next_position = start + duration
        return Release(start, duration, None, Origin.CONCEALED)

    def _insert(self, packet: tuple[int, int, int, bytes]) -> None:
        self.counters.reordered += 1
        insort(self._held, packet)

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
            last, position, duration, _ = self._held[-1]
            expected, earliest = last + 1, position + duration
        extended = expected + ((sequence - expected) & 0xFFFF)
        position = max(earliest, round(max(0.0, now - self._transit.value) * _TICKS_PER_SECOND))
        if not self._held and not continues:
            self._next_sequence = extended
        self._highest = self._release_through = extended
        self._timestamp, self._position = timestamp, position
        self._recent = [-1] * _RECENT
        self._transit.restart(now - position * _TICK, now)
