"""Audio of the backend on its way to the caller: a bounded buffer that lets one packet out at each deadline.

Deadlines lie on one packet grid for all calls of a process, which bounds how often it wakes. Packets are cut to slots
of 2.5 ms, and a talkspurt begins at every second slot: a tick of a busy process (`antiphon_common.shell.loop_pacer`).
RTP timestamps are read off that grid: they run on with wall time across silence and never go back.
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
"""What is held at most: the backend's credit, and room for one that counts in whole milliseconds."""

MAX_ENTRIES: Final = 2_048
"""Packets held at most. `MAX_BUFFERED_MS` of the shortest packets are 1,680; ends of responses make shorter ones."""

MAX_RESPONSES: Final = 32
"""Responses whose played time is remembered; a backend interrupts one of the last few."""

CREDIT_STEP_MS: Final = 100
"""Credit is given back in steps of at least this much: at most ten frames a second and call."""

MAX_LATE: Final = 0.06
"""Seconds that `poll` may be late and still make up for it, by three packets at once; beyond that time is skipped."""

LATE_DATA: Final = 0.003
"""Seconds after a deadline in which audio that ran out may still take it; later audio starts a deadline of its own."""

PARTIAL_WAIT: Final = 0.04
"""Seconds that less than a packet's worth of PCM waits for more before it is filled up with silence."""

TALKSPURT_GAP: Final = 0.1
"""Seconds of silence after which the next packet begins a talkspurt and has the marker (RFC 3551 §4.1)."""

_SLOT = 0.0025
_SLOTS_PER_SECOND = 400
_SLOT_TICKS = 120
_BEAT_SLOTS = 2
_FRAME_TICKS = 960
_ROUNDING = 1e-9
"""Seconds that float arithmetic may put `now` before a deadline."""


class OverrunError(AntiphonError):
    """The backend sent more audio than its credit allows."""


class PlayoutPacket(msgspec.Struct, frozen=True, gc=False):
    """A packet that is to leave now. `timestamp` is RTP's, u32 on the clock of the caller's codec."""

    payload: bytes
    timestamp: int
    marker: bool


class QueuedPacket(msgspec.Struct, frozen=True, gc=False):
    """Audio of one packet, in 48 kHz ticks. `ticks` is the part of `duration` that the backend sent."""

    response: int
    data: bytes
    duration: int
    ticks: int


class Playout:
    """Takes audio in `format` and returns packets of `codec` (`opus`, `pcmu`, `pcma`), each at its deadline.

    `append` and `end` at any time; `poll` until None; `poll` again at `poll_timeout`, which lies in the past when there
    is something to do at once. Audio is encoded when its packet is due; Opus passes through untouched to a caller who
    speaks it. Raises ValueError for an unknown `format`.
    """

    def __init__(self, format: str, codec: str = "opus", *, first_timestamp: int = 0) -> None:
        self._format = AudioFormat.parse(format)
        self.encoder: OpusEncoder | None = None
        """Its bitrate and loss may be set at any time; None where no Opus is made."""
        self._encode: Callable[[bytes], bytes] | None = None
        if codec != "opus":
            encoder = OpusToG711(codec) if format == "opus" else G711Encoder(codec, self._format.rate)
            self._encode = encoder.encode
        elif format != "opus":
            self.encoder = OpusEncoder(self._format.rate)
            self._encode = self.encoder.encode
        self._slot_timestamp = (48_000 if codec == "opus" else G711_RATE) // _SLOTS_PER_SECOND
        self.skipped = 0
        """How often `poll` came so late that time was skipped."""
        self.discarded_ms = 0
        """Audio that came for a response already cleared."""
        self._entries: deque[QueuedPacket] = deque()
        self._buffered = 0
        self._partial = b""
        self._partial_response = 0
        self._partial_due: float | None = None
        self._slot = 0
        """The next deadline, in slots of 2.5 ms on the clock of `now`; in silence where the last packet ended."""
        self._timestamp = first_timestamp
        """The RTP timestamp of slot 0, once the first packet has shown which slot is the first."""
        self._started = False
        self._ran_out = True
        """Whether there was nothing to send when last looked."""
        self._marker = True
        self._drained = 0
        self._longest_gap = 0.0
        self._cleared = 0
        self._played: dict[int, int] = {}

    @property
    def buffered_ms(self) -> int:
        """Milliseconds appended and neither played nor cleared."""
        return self._buffered // TICKS_PER_MS

    def append(self, response: int, data: bytes) -> None:
        """Take audio of a response, in order: any length of PCM, or one Opus packet; no bytes at all are harmless.

        Raises OverrunError beyond `MAX_BUFFERED_MS`, DecodeError for what is not audio of the format. What belongs to
        a response already cleared, or to one before it, is discarded.
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
        """Play what is left of a response: all of its audio was appended.

        Raises OverrunError when more than `MAX_ENTRIES` packets wait.
        """
        if 0 < response <= self._cleared:
            return
        self._check_entries()
        self._fill_up()

    def clear(self, response: int) -> int:
        """Drop what has not been played of `response` and of those before it; return how many ms of it were played."""
        dropped = 0
        while self._entries and self._entries[0].response <= response:  # what is kept costs no look
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
            self._slot = _BEAT_SLOTS * int(now / (_BEAT_SLOTS * _SLOT))
        return self._take()

    def poll_timeout(self) -> float:
        """Return when `poll` is due; infinity when nothing waits to be played."""
        if self._entries:
            return self._slot * _SLOT
        if self._partial:
            return self._slot * _SLOT if self._partial_due is None else self._partial_due
        return inf

    def take_drained(self) -> int:
        """Return the milliseconds played or dropped since last asked, to be granted anew; 0 below `CREDIT_STEP_MS`."""
        milliseconds = self._drained // TICKS_PER_MS
        if milliseconds < CREDIT_STEP_MS:
            return 0
        self._drained -= milliseconds * TICKS_PER_MS
        return milliseconds

    def take_longest_gap(self) -> float:
        """Return the longest silence in seconds, since last asked, that had more of the same response behind it."""
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
        """Begin anew at the next slot, after audio had run out."""
        before = self._slot
        self._note_gap(now - before * _SLOT)
        self._slot = _BEAT_SLOTS * ceil(now / (_BEAT_SLOTS * _SLOT) - _ROUNDING)
        self._marker = self._marker or (self._slot - before) * _SLOT >= TALKSPURT_GAP
        self._ran_out = False

    def _note_gap(self, silence: float) -> None:
        """Remember a silence, unless it is the one before a response; response 0 is whatever a backend says."""
        response = self._entries[0].response
        if response and response in self._played:
            self._longest_gap = max(self._longest_gap, silence)

    def _check_entries(self) -> None:
        if len(self._entries) >= MAX_ENTRIES:
            raise OverrunError(f"more than {MAX_ENTRIES} packets wait to be played")

    def _cut(self, response: int, pcm: bytes, size: int) -> None:
        """Queue PCM in packets of `size` bytes, and keep the rest until more comes."""
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
        """Tell whether the rest of the PCM has waited long enough, and then queue it."""
        if not self._partial:
            return False
        if self._partial_due is None:
            self._partial_due = max(now, self._slot * _SLOT) + PARTIAL_WAIT
        if now < self._partial_due:
            return False
        self._fill_up()
        return True

    def _fill_up(self) -> None:
        """Queue the rest of the PCM with silence behind it."""
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
