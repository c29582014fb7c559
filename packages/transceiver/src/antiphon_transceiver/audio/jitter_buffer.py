"""A jitter buffer for a machine as listener: packets in order are released at once.

The buffer waits for a missing packet until its playout time: the smallest transit plus `target_delay`. Then the hole is
filled, and the packets behind it are released. So audio is delayed by at most the target delay, which follows the
jitter of the last second. A redundant block of a missing packet fills its hole at once. Times are in
seconds, positions and durations in ticks of 48 kHz.
"""

from bisect import bisect, insort
from collections.abc import Sequence
from math import ceil, inf
from operator import itemgetter
from typing import Final

from antiphon_common.errors import DecodeError
from antiphon_common.frames import FrameStatus
from antiphon_transceiver.audio.clock import SenderClock
from antiphon_transceiver.audio.delay_tracker import DelayTracker
from antiphon_transceiver.audio.jitter_frame import JitterCounters, JitterFrame
from antiphon_transceiver.audio.late_packets import LatePacket, LatePacketDetector
from antiphon_transceiver.audio.payloads import OPUS, PayloadKind
from antiphon_transceiver.rtp.red import RedundantBlock

MIN_TARGET_DELAY: Final = 0.04
"""Seconds: two frames. Without jitter, one frame's time is left for a packet that was overtaken, or for the next one,
which may repeat the missing packet."""

MAX_TARGET_DELAY: Final = 0.15
"""Seconds. Jitter of 80 to 100 ms is still compensated. Longer waits harm a conversation more than losses do."""

HEADROOM: Final = 1.25
"""Factor on the jitter of the last second, since delays with a long tail soon exceed their recent maximum."""

TARGET_DELAY_MARGIN: Final = 0.005
"""Seconds added to the target delay, since timers are late."""

MAX_CONCEALED: Final = 4_800
"""Largest number of contiguous ticks that are concealed: five frames of 20 ms. Longer concealment would be silence or
noise, so the position jumps instead."""

MAX_HELD: Final = 128
"""Packets held behind a hole. The longest target delay holds 8 packets of 20 ms or 60 of 2.5 ms. More are a flood, and
the hole is skipped."""

TIMER_SLACK: Final = 0.005
"""Seconds after its playout time in which a missing frame is still filled: the lateness of timers. Filled later, it
would delay the audio after it."""

MAX_BURST: Final = 2.0
"""Seconds of audio that may arrive at once, for example when a stalled network empties its queue. After a longer stall
most of it would be late."""

MAX_SPEED: Final = 1.05
"""Seconds of audio accepted per second beyond `MAX_BURST`. Clocks of senders err by far less."""

MAX_SKIPPED: Final = 128
"""Sequence numbers without audio that are remembered behind a missing packet: 2.5 s of telephone events."""

_HALF = 0x8000
_FRAME_TICKS = 960
_SHORTEST_TICKS = 120
_DTX_SIZE = 2
_MAX_DROPOUT = 3000
_RECENT = 256
_TICKS_PER_SECOND = 48_000
_COST = 1 / (48_000 * MAX_SPEED)
_TICK = 1 / _TICKS_PER_SECOND
_RECEIVED = FrameStatus.RECEIVED
_POSITION = itemgetter(1)


class JitterBuffer:
    """Orders the packets of one RTP stream. Call `push` for each packet, then `pop` until it returns None.

    Call `pop` again at `poll_timeout`. Before that, push every packet that waits at the socket, or it counts as
    missing.

    Every drain ends, since positions advance with each frame. A frame is a held packet, or its FEC, or at least 2.5 ms
    of concealment, which ends at `MAX_CONCEALED`. So a packet causes at most 43 frames: itself, its FEC, and 41
    concealed ones. A redundant block causes as many.
    """

    def __init__(self, kind: PayloadKind = OPUS) -> None:
        self.target_delay = MIN_TARGET_DELAY
        """Seconds that the buffer waits for a missing packet."""
        self.counters = JitterCounters()
        self._unit, self._duration, self._repeats = kind.unit, kind.duration, kind.repeats
        self._clock = SenderClock(kind.clock_ticks)
        self._transit = DelayTracker()
        self._late = LatePacketDetector()
        self._held: list[tuple[int, int, int, bytes, FrameStatus]] = []
        """Extended sequence number, position, duration, payload and status of each packet, sorted."""
        self._recent = [-1] * _RECENT
        self._skipped: set[int] = set()
        """Extended sequence numbers of packets without audio, from `_next_sequence` on."""
        self._shift = 0
        """Added to the sequence numbers of the present source, so that they continue those of the source before."""
        self._next_sequence = 0
        self._next_position = 0
        self._frame = _FRAME_TICKS
        """Duration of the last packet released, which is assumed for missing packets."""
        self._reach = 0
        """Largest timestamp offset of the newest packet's redundant blocks, in ticks."""
        self._concealed = 0
        """Ticks concealed since the last packet released."""
        self._concealing = 0
        """Frames concealed since the last packet released. They count once the next packet is released."""
        self._silent = True
        """True while no packet is expected: at the start, in DTX, and after the longest concealment."""
        self._release_through = 0
        """Packets up to this extended sequence number are released without waiting for earlier ones."""
        self._restart_next = True
        self._paid_until = 0.0
        """When all audio accepted would have arrived at `MAX_SPEED`."""
        self._resuming = False
        """True while the packets of a late run are pushed again."""

    def restart(self) -> None:
        """Begin another stream (another SSRC) with the next packet. Held packets are still released."""
        self._restart_next = True

    def skip(self, sequence: int, *, silent: bool) -> None:
        """Record the extended sequence number of a packet without audio, such as padding. No audio is missing there.

        If it is `silent`, as comfort noise and telephone events are, no packet is expected until the next one.
        """
        if self._restart_next:
            return
        extended = sequence + self._shift
        if not -_HALF <= extended - self._clock.sequence < _HALF:
            extended = self._clock.sequence + self._align(sequence)
        if extended < self._next_sequence or self._recent[extended % _RECENT] == extended:
            return
        self._recent[extended % _RECENT] = extended
        self._skip(extended)
        self._silent = self._silent or (silent and extended < self._next_sequence)

    def push(
        self, sequence: int, timestamp: int, payload: bytes, now: float, redundant: Sequence[RedundantBlock] = ()
    ) -> None:
        """Add a packet with its extended sequence number, RTP timestamp, and redundant blocks."""
        try:
            duration = self._duration(payload)
        except DecodeError:
            self.counters.invalid += 1
            if not payload:  # padding only, with which browsers probe a path
                self.skip(sequence, silent=False)
            return
        if self._restart_next:
            self._restart(sequence, timestamp, now, continues=False)
        clock, transit = self._clock, self._transit
        offset = sequence + self._shift - clock.sequence
        if not -_HALF <= offset < _HALF:
            offset = self._align(sequence)
        extended = clock.sequence + offset
        slot = extended % _RECENT
        if self._recent[slot] == extended:
            self.counters.duplicate += 1
            return
        self._recent[slot] = extended
        self.counters.received += 1
        if offset == 1 and timestamp == clock.next_timestamp:
            position = clock.end
        else:
            position = self._place(extended, timestamp, duration, now)
        took, largest = now - position * _TICK, transit.largest
        if took > largest:
            transit.rise(took)
            self._aim()
        if (
            took > transit.smallest + self.target_delay
            or position < self._next_position
            or extended < self._next_sequence
        ):
            self._receive_late(LatePacket(extended, timestamp, payload, redundant, now, took), largest)
            return
        if self._late.packets and self._ends_late_run(LatePacket(extended, timestamp, payload, redundant, now, took)):
            return
        paid_until = self._paid_until
        paid_until = (paid_until if paid_until > now else now) + duration * _COST
        if paid_until > now + MAX_BURST:
            self.counters.excess += 1
            self._skip(extended)
            return
        self._paid_until = paid_until
        unremarkable = transit.lowest <= took <= transit.highest and now < transit.until
        if not unremarkable and transit.update(took, now):
            self._aim()
        if extended >= clock.sequence:
            clock.advance(extended, timestamp, position, duration)
            self._held.append((extended, position, duration, payload, _RECEIVED))
        else:
            self.counters.reordered += 1
            insort(self._held, (extended, position, duration, payload, _RECEIVED))
        reach = round(max(ticks for ticks, _ in redundant) * clock.ticks) if redundant else 0
        if reach != self._reach:
            self._reach = reach
            self._aim()
        for ticks, again in redundant:
            self._insert_repeated(position - round(ticks * clock.ticks), again)

    def _align(self, sequence: int) -> int:
        """Renumber a source that began again, so that this packet lies closest to the newest one.

        Return its distance from the newest packet.
        """
        newest = self._clock.sequence
        ahead = (sequence - newest + _HALF & 0xFFFF) - _HALF
        self._shift = newest + ahead - sequence
        return ahead

    def _place(self, extended: int, timestamp: int, duration: int, now: float) -> int:
        """Return the position of a packet that is not contiguous with the newest one."""
        clock = self._clock
        skipped = sum(clock.sequence < other < extended for other in self._skipped) if self._skipped else 0
        horizon = (now - self._transit.smallest) * _TICKS_PER_SECOND
        position = clock.place(extended, timestamp, horizon, skipped)
        if extended < self._next_sequence or (self._concealed and position < self._next_position):
            return position  # its playout time has passed
        if not self._held:
            return max(position, self._next_position)
        index = bisect(self._held, (extended,))
        if index < len(self._held):
            position = min(position, self._held[index][1] - duration)
        return max(position, self._held[index - 1][1] + self._held[index - 1][2] if index else self._next_position)

    def _skip(self, extended: int) -> None:
        """Record that no audio is missing at a sequence number."""
        self._skipped.add(extended)
        if len(self._skipped) > MAX_SKIPPED:
            self._skipped.remove(min(self._skipped))
        self._pass_skipped()

    def _pass_skipped(self) -> None:
        """Advance past the sequence numbers without audio that come next."""
        clock, skipped = self._clock, self._skipped
        while clock.sequence + 1 in skipped:
            clock.sequence += 1
        while self._next_sequence in skipped:
            skipped.remove(self._next_sequence)
            self._next_sequence += 1

    def _count_skipped(self, sequence: int) -> int:
        """Return how many packets between `_next_sequence` and `sequence` held no audio."""
        return sum(other < sequence for other in self._skipped)

    def _insert_repeated(self, position: int, payload: bytes) -> None:
        """Hold a redundant block, if its packet is missing and its playout time has not passed.

        A block has no sequence number. It is estimated from the number of such blocks that fit between `position` and
        the next held packet. Since timestamps are not exact, the block is moved by up to half its length to fit.
        """
        if position <= self._next_position - _FRAME_TICKS:
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
        extended = max(first, following - (ends - position + (duration >> 1)) // duration)
        fitted = max(free, min(position, ends - duration))
        if fitted <= ends - duration and 2 * abs(fitted - position) < duration and extended < following:
            self._recent[extended % _RECENT] = extended
            self._held.insert(index, (extended, fitted, duration, payload, FrameStatus.RECOVERED))
            self._paid_until += duration * _COST

    def pop(self, now: float) -> JitterFrame | None:
        """Return the next frame that is due, or None. Call it until it returns None."""
        if not self._held:
            return None if self._silent or now < self.poll_timeout() else self._guess(now)
        sequence, position, *_ = self._held[0]
        if (
            sequence == self._next_sequence
            or position - self._next_position < _SHORTEST_TICKS
            or sequence <= self._release_through
            or len(self._held) > MAX_HELD
        ):
            return self._release()
        return self._fill(now)

    def poll_timeout(self) -> float:
        """Return when a frame is due even if no packet arrives; infinity for never. Call `pop` until None before."""
        if self._held:
            return self._playout(self._hole()[1])
        return inf if self._silent else self._transit.smallest + self.target_delay + self._next_position * _TICK

    def _playout(self, position: int) -> float:
        return self._transit.smallest + self.target_delay + position * _TICK

    def _aim(self) -> None:
        """Set the target delay: the time until redundancy arrives, plus the jitter with its margins.

        In-band FEC repeats the frame before its packet, so it arrives a frame later, also in a redundant block.
        """
        jitter = self._transit.largest - self._transit.smallest
        target = (self._frame + self._reach) * _TICK + jitter * HEADROOM + TARGET_DELAY_MARGIN
        self.target_delay = min(max(target, MIN_TARGET_DELAY), MAX_TARGET_DELAY)

    def _hole(self) -> tuple[int, int]:
        """Return how many ticks are missing before the first held packet, and the position of the next missing frame.

        If the gap between positions is longer than the missing audio, the sender paused.
        """
        sequence, position, *_ = self._held[0]
        packets = sequence - self._next_sequence
        if self._skipped:
            packets -= self._count_skipped(sequence)
        missing = packets * self._frame - self._concealed
        worth_a_wait = self._frame if self._concealed >= MAX_CONCEALED else max(missing, self._frame)
        return missing, max(self._next_position, position - worth_a_wait)

    def _guess(self, now: float) -> JitterFrame | None:
        """Conceal the next frame, whose playout time has come. Overdue frames are skipped."""
        start = self._next_position
        start += self._overdue(start, now)
        self._concealed += start - self._next_position
        self._next_position = start
        self._silent = self._concealed >= MAX_CONCEALED
        if self._silent or now < self._playout(start):
            return None
        return self._conceal(start, self._frame)

    def _fill(self, now: float) -> JitterFrame | None:
        """Recover or conceal the next missing frame before the first held packet, if its playout time has come.

        Overdue concealment is skipped; received and recovered audio never is.
        """
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
        if gap - fec < _SHORTEST_TICKS:
            return self._recover(position, fec, payload) if fec else self._release()
        if self._concealed >= MAX_CONCEALED:
            return self._release()
        return self._conceal(start, min(self._frame, gap - fec))

    def _overdue(self, start: int, now: float) -> int:
        """Return the duration of the whole frames from `start` on that are overdue, in ticks."""
        late = now - self._playout(start) - TIMER_SLACK
        return ceil(late * _TICKS_PER_SECOND / self._frame) * self._frame if late > 0 else 0

    def _release(self) -> JitterFrame:
        sequence, position, duration, payload, status = self._held.pop(0)
        skipped = sequence - self._next_sequence
        if 0 < skipped < _MAX_DROPOUT:
            self.counters.lost += skipped - (self._count_skipped(sequence) if self._skipped else 0)
        ahead = position - self._next_position
        if ahead < _SHORTEST_TICKS:
            position = self._next_position
            if ahead < 0:
                self._clock.next_timestamp = -1
        self._next_sequence = sequence + 1
        self._next_position = position + duration
        if self._skipped:
            self._skipped = {other for other in self._skipped if other > sequence}
            self._pass_skipped()
        if duration != self._frame:
            self._frame = duration
            self._aim()
        self.counters.concealed += self._concealing
        self._concealed = self._concealing = 0
        self._silent = len(payload) <= _DTX_SIZE
        if status:
            self.counters.lost += 1
            self.counters.recovered += 1
            self.counters.redundant += 1
        return JitterFrame(position, duration, payload, status)

    def _recover(self, end: int, duration: int, following: bytes) -> JitterFrame:
        """Return the frame that the in-band FEC of the packet at `end` holds."""
        self.counters.recovered += 1
        self._next_position = end
        self._paid_until += duration * _COST
        return JitterFrame(end - duration, duration, None, FrameStatus.RECOVERED, following)

    def _conceal(self, start: int, duration: int) -> JitterFrame:
        """Return a concealed frame of at least `_SHORTEST_TICKS`, in whole units."""
        duration = max(min(duration, _FRAME_TICKS), _SHORTEST_TICKS) // self._unit * self._unit
        self._concealing += 1
        self._concealed += duration
        self._silent = self._concealed >= MAX_CONCEALED
        self._next_position = start + duration
        self._paid_until += duration * _COST
        return JitterFrame(start, duration, None, FrameStatus.CONCEALED)

    def _receive_late(self, packet: LatePacket, largest: float) -> None:
        """Keep a late packet. If the run of late packets shows that it is not late, begin again with its packets.

        `largest` is the largest transit before this packet.
        """
        behind = packet.extended < self._next_sequence
        if self._resuming:
            self._late.dropped += 1
        elif self._late.add(packet, largest - self._transit.smallest, behind=behind):
            self._resume(packet.arrived)
        self.counters.late = self._late.dropped

    def _ends_late_run(self, packet: LatePacket) -> bool:
        """End a run of late packets with a timely one. Return True if it shows that the run was not late.

        In that case all of them have been pushed, including the timely packet.
        """
        resumed = self._late.is_continued(packet.transit, packet.arrived)
        if resumed:
            self._late.packets.append(packet)
            self._resume(packet.arrived)
        else:
            self._late.drop()
        self.counters.late = self._late.dropped
        return resumed

    def _resume(self, now: float) -> None:
        """Begin again with the packets of a late run that are not too old."""
        timely = self._late.take(now, MAX_TARGET_DELAY)
        self.counters.received -= len(timely)
        first, smallest = timely[0], min(packet.transit for packet in timely)
        due = first.arrived - first.transit + smallest
        shift = self._shift
        self._restart(first.extended - shift, first.timestamp, due, continues=True)
        self._resuming = True
        for packet in timely:
            self.push(packet.extended - shift, packet.timestamp, packet.payload, packet.arrived, packet.redundant)
        self._resuming = False

    def _restart(self, sequence: int, timestamp: int, now: float, *, continues: bool) -> None:
        """Continue with a packet of another source or clock, behind the held packets.

        Its position follows from the time that has passed. If the stream `continues`, packets between are lost.
        """
        self._restart_next = False
        if not continues:
            self._late.drop()
            self.counters.late = self._late.dropped
        self.counters.resynchronised += self.counters.received > 0
        expected, earliest = self._next_sequence, self._next_position
        if self._held:
            last, position, duration, *_ = self._held[-1]
            expected, earliest = last + 1, position + duration
        extended = expected + ((sequence - expected) & 0xFFFF)
        self._shift = extended - sequence
        position = max(earliest, round(max(0.0, now - self._transit.smallest) * _TICKS_PER_SECOND))
        if not self._held and not continues:
            self._next_sequence = extended
        self._release_through = extended
        self._clock.restart(extended, timestamp, position, continues=continues)
        self._recent = [-1] * _RECENT
        self._skipped.clear()
        self._transit.restart(now - position * _TICK, now)
        self._aim()
