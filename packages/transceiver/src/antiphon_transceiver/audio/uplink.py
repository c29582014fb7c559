"""The caller's audio on its way to the backend: a jitter buffer, and a decoder where the backend wants PCM."""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from antiphon_common.errors import DecodeError
from antiphon_common.formats import AudioFormat
from antiphon_common.frames import FrameStatus
from antiphon_transceiver.audio.g711 import RATE as G711_RATE
from antiphon_transceiver.audio.g711 import G711Decoder
from antiphon_transceiver.audio.jitter_buffer import JitterBuffer
from antiphon_transceiver.audio.jitter_frame import JitterFrame
from antiphon_transceiver.audio.opus import OpusDecoder, OpusEncoder
from antiphon_transceiver.audio.payloads import G711, OPUS
from antiphon_transceiver.rtp.red import RedundantBlock


class UplinkFrame(msgspec.Struct, frozen=True, gc=False):
    """A stretch of the caller's audio in the backend's format.

    `position` counts samples since the first, of the PCM's rate or of Opus's 48 kHz. In Opus a stretch of which no
    packet came has no data: the backend's own decoder conceals it, or recovers it from the frame after.
    """

    data: bytes
    position: int
    status: FrameStatus


class Decoder(Protocol):
    """The decoder of one stream; samples are those of its rate, mono, 16-bit little-endian."""

    def decode(self, packet: bytes) -> bytes:
        """Return the PCM of `packet`; raise DecodeError."""

    def recover(self, packet: bytes, samples: int) -> bytes:
        """Return the `samples` that `packet` repeats of what came before it."""

    def conceal(self, samples: int) -> bytes:
        """Return `samples` that hide a loss."""


class UplinkAudio:
    """`receive` each RTP packet's payload, then `poll` until None; `poll` again at `poll_timeout`.

    `codec` is the caller's: `opus`, `pcmu` or `pcma`. Raises ValueError for an unknown `format`.
    """

    def __init__(self, format: str, codec: str = "opus") -> None:
        self.undecodable = 0
        """Packets the decoder refused; they were concealed."""
        self.concealed_ticks = 0
        """48 kHz ticks that the decoder concealed. Whoever charges for them resets it."""
        name, rate = AudioFormat.parse(format)
        self._decoder: Decoder | None = None
        self._framer: _OpusFramer | None = None
        if codec == "opus":
            self.jitter = JitterBuffer(OPUS)
            self._decoder = None if name == "opus" else OpusDecoder(rate)
        else:
            self.jitter = JitterBuffer(G711)
            self._framer = _OpusFramer() if name == "opus" else None
            rate = G711_RATE if self._framer else rate
            self._decoder = G711Decoder(codec, rate)
        self._ticks_per_sample = 48_000 // rate

    def restart(self) -> None:
        """Begin another stream (another SSRC) with the next packet."""
        self.jitter.restart()

    def receive(
        self, sequence: int, timestamp: int, payload: bytes, now: float, redundant: Sequence[RedundantBlock] = ()
    ) -> None:
        """Take the payload of an RTP packet, and those of packets before it that it repeats. Bad bytes are counted,
        never raised."""
        self.jitter.push(sequence, timestamp, payload, now, redundant)

    def skip(self, sequence: int) -> None:
        """Take the number of an RTP packet of another payload type, such as comfort noise or a telephone event."""
        self.jitter.skip(sequence, silent=True)

    def poll(self, now: float) -> UplinkFrame | None:
        """Return the next stretch that is due, or None."""
        release = self.jitter.pop(now)
        if self._decoder is None:
            return None if release is None else UplinkFrame(release.payload or b"", release.position, release.status)
        if self._framer is None:
            return None if release is None else self._decode(self._decoder, release)
        while release is not None:
            self._framer.append(self._decode(self._decoder, release))
            release = self.jitter.pop(now)
        return self._framer.poll()

    def poll_timeout(self) -> float:
        """Return when `poll` will next have something although nothing arrives; infinity for never."""
        return self.jitter.poll_timeout()

    def statistics(self) -> dict[str, int]:
        """Return every counter by its name."""
        counters = self.jitter.counters
        return {name: getattr(counters, name) for name in counters.__slots__} | {"undecodable": self.undecodable}

    def _decode(self, decoder: Decoder, release: JitterFrame) -> UplinkFrame:
        position, samples = release.position // self._ticks_per_sample, release.duration // self._ticks_per_sample
        try:
            if release.payload is not None:
                return UplinkFrame(decoder.decode(release.payload), position, release.status)
            if release.following is not None:
                return UplinkFrame(decoder.recover(release.following, samples), position, release.status)
        except DecodeError:
            self.undecodable += 1
        self.concealed_ticks += release.duration
        return UplinkFrame(decoder.conceal(samples), position, FrameStatus.CONCEALED)


class _OpusFramer:
    """Makes Opus packets of 20 ms out of stretches of PCM at 8 kHz, which may be of any length."""

    def __init__(self) -> None:
        self._encoder = OpusEncoder(G711_RATE, fec=False)
        self._pcm = b""
        self._position = 0
        """Of the first sample in `_pcm`; a packet's status is that of the part which was received worst."""
        self._status = FrameStatus.RECEIVED
        self._ready: list[UplinkFrame] = []

    def append(self, frame: UplinkFrame) -> None:
        """Take a stretch. Silence fills a gap before it as far as the packet reaches."""
        if self._pcm:
            reached = max(0, frame.position - self._position) * 2
            self._pcm = self._pcm.ljust(min(reached, self._encoder.frame_size), b"\0")
            if len(self._pcm) == self._encoder.frame_size:
                self._emit(self._pcm)
                self._pcm = b""
        if not self._pcm:
            self._position, self._status = frame.position, FrameStatus.RECEIVED
        self._pcm += frame.data
        self._status = max(self._status, frame.status)
        while len(self._pcm) >= self._encoder.frame_size:
            self._emit(self._pcm[: self._encoder.frame_size])
            self._pcm = self._pcm[self._encoder.frame_size :]
            self._position += self._encoder.frame_size // 2
            self._status = frame.status

    def poll(self) -> UplinkFrame | None:
        return self._ready.pop(0) if self._ready else None

    def _emit(self, pcm: bytes) -> None:
        packet = self._encoder.encode(pcm)
        self._ready.append(UplinkFrame(packet, self._position * 48_000 // G711_RATE, self._status))
