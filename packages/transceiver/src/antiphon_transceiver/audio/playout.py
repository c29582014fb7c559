"""Paced playout of the backend's audio to the caller: a bounded buffer that returns one packet at each deadline.

The deadlines of all calls of a process lie on one packet grid, which bounds how often the process wakes. The grid has
slots of 2.5 ms. A talkspurt begins at an even slot, which is a tick of a busy process
(`antiphon_common.shell.loop_pacer`). RTP timestamps follow the grid: they advance with wall time in silence, and never
decrease.
"""

from collections import deque
from collections.abc import Callable
from math import ceil, inf
from typing import Final

import msgspec

from antiphon_common.errors import AntiphonError
from antiphon_common.formats import TICKS_PER_MS, AudioFormat
from antiphon_common.frames import CREDIT_MS
from antiphon_transceiver.audio.g711 import RATE as G711_RATE
from antiphon_transceiver.audio.g711 import G711Encoder, OpusToG711
from antiphon_transceiver.audio.opus import OpusEncoder

MAX_BUFFERED_MS: Final = CREDIT_MS + 200
"""Largest amount of audio held: the backend's credit, and room for backends that count in whole milliseconds."""

MAX_ENTRIES: Final = 2_048
"""Largest number of packets held. `MAX_BUFFERED_MS` of the shortest packets are 1,680; ends of responses can leave
shorter ones."""

MAX_RESPONSES: Final = 32
"""Responses whose played time is remembered. A backend interrupts one of the last few."""

CREDIT_STEP_MS: Final = 100
"""Smallest credit that is granted at once, so that a call needs at most ten `Credit` frames a second."""

MAX_LATE: Final = 0.06
"""Largest lateness of `poll`, in seconds, that is made up for by sending up to three packets at once. After a longer
one, time is skipped."""

LATE_DATA: Final = 0.003
"""Seconds after a missed deadline in which new audio is still sent at that deadline. Later audio begins at a new
slot."""

PARTIAL_WAIT: Final = 0.04
"""Seconds that PCM of less than one packet waits for more. Then it is padded with silence."""

TALKSPURT_GAP: Final = 0.1
"""Seconds of silence after which the next packet begins a talkspurt and has the marker (RFC 3551 §4.1)."""

_SLOT = 0.0025
_SLOTS_PER_SECOND = 400
_SLOT_TICKS = 120
_TALKSPURT_SLOTS = 2
"""A talkspurt begins at a slot divisible by this."""
_FRAME_TICKS = 960
_ROUNDING = 1e-9
"""Seconds by which rounding of floats may put `now` before a deadline."""


class OverrunError(AntiphonError):
    """The backend sent more audio than its credit allows. `Playout` raises it."""


class PlayoutPacket(msgspec.Struct, frozen=True, gc=False):
    """A packet to send now, from `Playout.poll`. `timestamp` is the RTP timestamp, 32 bits on the codec's clock."""

    payload: bytes
    timestamp: int
    marker: bool


class QueuedPacket(msgspec.Struct, frozen=True, gc=False):
    """The audio of one packet that waits in a `Playout`.

    `duration` is in ticks of 48 kHz. `ticks` is the part of it that the backend sent; the rest is silence.
    """

    response: int
    data: bytes
    duration: int
    ticks: int


class Playout:
    """Takes audio in `format` and returns packets of `codec` (`opus`, `pcmu`, `pcma`), each at its deadline.

    Call `append` and `end` at any time. Call `poll` until it returns None, and again at `poll_timeout`, which is in the
    past when a packet is due. Audio is encoded when its packet is due. A backend's Opus passes unchanged to a caller
    with Opus. Raises ValueError for an unknown `format`.
    """

    def __init__(self, format: str, codec: str = "opus", *, first_timestamp: int = 0) -> None:
        self._format = AudioFormat.parse(format)
        self.encoder: OpusEncoder | None = None
        """The Opus encoder, whose bitrate and loss may be set at any time; None if nothing is encoded to Opus."""
        self._encode: Callable[[bytes], bytes] | None = None
        if codec != "opus":
            encoder = OpusToG711(codec) if format == "opus" else G711Encoder(codec, self._format.rate)
            self._encode = encoder.encode
        elif format != "opus":
            self.encoder = OpusEncoder(self._format.rate)
            self._encode = self.encoder.encode
        self._slot_timestamp = (48_000 if codec == "opus" else G711_RATE) // _SLOTS_PER_SECOND
        self.skipped = 0
        """How often `poll` was called so late that time was skipped."""
        self.discarded_ms = 0
        """Milliseconds of audio that arrived for responses that were cleared before."""
        self._entries: deque[QueuedPacket] = deque()
        self._buffered = 0
        self._partial = b""
        self._partial_response = 0
        self._partial_due: float | None = None
        self._slot = 0
        """The next deadline in slots of 2.5 ms, on the scale of `now`; in silence, the end of the last packet."""
        self._timestamp = first_timestamp
        """The RTP timestamp of slot 0. Before the first packet it is the timestamp of that packet."""
        self._started = False
        self._ran_out = True
        """True if nothing waited to be played at the last check."""
        self._marker = True
        self._drained = 0
        self._longest_gap = 0.0
        self._cleared = 0
        self._played: dict[int, int] = {}

    @property
    def buffered_ms(self) -> int:
        """Milliseconds of audio that were appended, and neither played nor cleared."""
        return self._buffered // TICKS_PER_MS

    def append(self, response: int, data: bytes) -> None:
        """Append audio of a response, in order: PCM of any length, or one Opus packet. Empty data is ignored.

        Audio of a response that was cleared, or of one before it, is discarded.

        Raises:
            OverrunError: more than `MAX_BUFFERED_MS` of audio, or more than `MAX_ENTRIES` packets, would wait.
            DecodeError: `data` is no audio of the format.
        """
        if not data:
            return
        ticks = self._format.duration(data)
        if 0 < response <= self._cleared:
            self.discarded_ms += ticks // TICKS_PER_MS
            self._drained += ticks
            return
        if self._buffered + ticks > MAX_BUFFERED_MS * TICKS_PER_MS:
            waiting = (self._buffered + ticks) // TICKS_PER_MS
            raise OverrunError(f"{waiting} ms of audio would wait to be played where {CREDIT_MS} are allowed")
        self._check_entries()
        self._buffered += ticks
        if self._format.frame_bytes:
            self._cut(response, data, self._format.frame_bytes)
        else:
            self._entries.append(QueuedPacket(response, data, ticks, ticks))

    def end(self, response: int) -> None:
        """Record that all audio of a response was appended, so that its last, partial packet is played.

        Raises OverrunError when more than `MAX_ENTRIES` packets wait.
        """
        if 0 < response <= self._cleared:
            return
        self._check_entries()
        self._fill_up()

    def clear(self, response: int) -> int:
        """Drop the unplayed audio of `response` and of those before it. Return the milliseconds of it that were
        played."""
        dropped = 0
        while self._entries and self._entries[0].response <= response:  # entries that stay are not visited
            dropped += self._entries.popleft().ticks
        if self._partial and self._partial_response <= response:
            dropped += self._format.duration(self._partial)
            self._partial = b""
        self._buffered -= dropped
        self._drained += dropped
        self._cleared = max(self._cleared, response)
        self._ran_out = self._ran_out or not self._entries
        return self._played.get(response, 0) // TICKS_PER_MS

    def poll(self, now: float) -> PlayoutPacket | None:
        """Return the packet whose deadline has come, or None."""
        if not self._entries and not self._partial_is_due(now):
            return None
        behind = now - self._slot * _SLOT
        if behind < -_ROUNDING:
            self._ran_out = False
            return None
        if self._ran_out and behind > LATE_DATA:
            self._resume(now)
            if now - self._slot * _SLOT < -_ROUNDING:
                return None
        elif behind > MAX_LATE:
            self.skipped += 1
            self._note_gap(behind)
            self._slot = _TALKSPURT_SLOTS * int(now / (_TALKSPURT_SLOTS * _SLOT))
        return self._take()

    def poll_timeout(self) -> float:
        """Return when `poll` is due; infinity when nothing waits to be played."""
        if self._entries:
            return self._slot * _SLOT
        if self._partial:
            return self._slot * _SLOT if self._partial_due is None else self._partial_due
        return inf

    def take_drained(self) -> int:
        """Return the milliseconds played or dropped since the last call, to be granted as credit. Less than
        `CREDIT_STEP_MS` is kept for the next call."""
        milliseconds = self._drained // TICKS_PER_MS
        if milliseconds < CREDIT_STEP_MS:
            return 0
        self._drained -= milliseconds * TICKS_PER_MS
        return milliseconds

    def take_longest_gap(self) -> float:
        """Return the longest silence within a response since the last call, in seconds."""
        gap, self._longest_gap = self._longest_gap, 0.0
        return gap

    def _take(self) -> PlayoutPacket:
        entry = self._entries.popleft()
        timestamp = self._slot * self._slot_timestamp
        if not self._started:
            self._started = True
            self._timestamp -= timestamp
        self._slot += entry.duration // _SLOT_TICKS
        self._buffered -= entry.ticks
        self._drained += entry.ticks
        self._count_played(entry.response, entry.ticks)
        self._ran_out = not self._entries
        marker, self._marker = self._marker, False
        payload = entry.data if self._encode is None else self._encode(entry.data)
        return PlayoutPacket(payload, (self._timestamp + timestamp) & 0xFFFFFFFF, marker)

    def _resume(self, now: float) -> None:
        """Begin again at the next even slot, after audio had run out."""
        before = self._slot
        self._note_gap(now - before * _SLOT)
        self._slot = _TALKSPURT_SLOTS * ceil(now / (_TALKSPURT_SLOTS * _SLOT) - _ROUNDING)
        self._marker = self._marker or (self._slot - before) * _SLOT >= TALKSPURT_GAP
        self._ran_out = False

    def _note_gap(self, silence: float) -> None:
        """Record a silence, unless it is the one before a response. Response 0 stands for audio without responses."""
        response = self._entries[0].response
        if response and response in self._played:
            self._longest_gap = max(self._longest_gap, silence)

    def _check_entries(self) -> None:
        if len(self._entries) >= MAX_ENTRIES:
            raise OverrunError(f"more than {MAX_ENTRIES} packets wait to be played")

    def _cut(self, response: int, pcm: bytes, size: int) -> None:
        """Queue PCM in packets of `size` bytes, and keep the rest until more arrives."""
        if self._partial:
            if self._partial_response == response:
                pcm = self._partial + pcm
                self._partial = b""
            else:
                self._fill_up()
        whole = len(pcm) - len(pcm) % size
        for start in range(0, whole, size):
            self._entries.append(QueuedPacket(response, pcm[start : start + size], _FRAME_TICKS, _FRAME_TICKS))
        if whole < len(pcm):
            self._partial, self._partial_response, self._partial_due = pcm[whole:], response, None

    def _partial_is_due(self, now: float) -> bool:
        """Queue the rest of the PCM if it has waited long enough. Return True if it was queued."""
        if not self._partial:
            return False
        if self._partial_due is None:
            self._partial_due = max(now, self._slot * _SLOT) + PARTIAL_WAIT
        if now < self._partial_due:
            return False
        self._fill_up()
        return True

    def _fill_up(self) -> None:
        """Queue the rest of the PCM, padded with silence."""
        if self._partial:
            pcm = self._partial.ljust(self._format.frame_bytes, b"\0")
            self._entries.append(
                QueuedPacket(self._partial_response, pcm, _FRAME_TICKS, self._format.duration(self._partial))
            )
            self._partial = b""

    def _count_played(self, response: int, ticks: int) -> None:
        played = self._played
        if response not in played and len(played) >= MAX_RESPONSES:
            del played[next(iter(played))]
        played[response] = played.get(response, 0) + ticks
