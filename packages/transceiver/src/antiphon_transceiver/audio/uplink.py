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
    """A frame of the caller's audio in the backend's format. `UplinkAudio` returns it, and it is sent as `Audio`.

    `position` counts samples since the first, at the rate of the PCM or at Opus's 48 kHz. In Opus, a frame whose packet
    is missing has no data: the backend's decoder conceals it, or recovers it from the next frame.
    """

    data: bytes
    position: int
    status: FrameStatus


class Decoder(Protocol):
    """The decoder of one stream of packets. `UplinkAudio` calls one method for each frame, in order.

    PCM has the decoder's rate, mono, 16-bit little-endian.
    """

    def decode(self, packet: bytes) -> bytes:
        """Return the PCM of `packet`. Raises DecodeError for a malformed packet."""

    def recover(self, packet: bytes, samples: int) -> bytes:
        """Return the `samples` before `packet`, from the in-band FEC in it. Raises DecodeError as `decode` does."""

    def conceal(self, samples: int) -> bytes:
        """Return `samples` that conceal a loss."""


class UplinkAudio:
    """The caller's audio of one call: takes the payloads of RTP packets and returns audio in the backend's `format`.

    Call `receive` for each payload, then `poll` until it returns None, and again at `poll_timeout`. `codec` is the
    caller's: `opus`, `pcmu` or `pcma`. Raises ValueError for an unknown `format`.
    """

    def __init__(self, format: str, codec: str = "opus") -> None:
        self.undecodable = 0
        """Packets that the decoder refused. They were concealed."""
        self.concealed_ticks = 0
        """Ticks of 48 kHz that the decoder concealed. The call resets it when it charges its budget for them."""
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
        """Add the payload of an RTP packet, and its redundant blocks. Malformed payloads are counted and raise nothing.

        `sequence` is the extended sequence number; `now` is when the packet arrived.
        """
        self.jitter.push(sequence, timestamp, payload, now, redundant)

    def skip(self, sequence: int) -> None:
        """Record the extended sequence number of a packet without audio, such as comfort noise or a telephone event."""
        self.jitter.skip(sequence, silent=True)

    def poll(self, now: float) -> UplinkFrame | None:
        """Return the next frame that is due, or None."""
        frame = self.jitter.pop(now)
        if self._decoder is None:
            return None if frame is None else UplinkFrame(frame.payload or b"", frame.position, frame.status)
        if self._framer is None:
            return None if frame is None else self._decode(self._decoder, frame)
        while frame is not None:
            self._framer.append(self._decode(self._decoder, frame))
            frame = self.jitter.pop(now)
        return self._framer.poll()

    def poll_timeout(self) -> float:
        """Return when a frame is due even if no packet arrives; infinity for never."""
        return self.jitter.poll_timeout()

    def statistics(self) -> dict[str, int]:
        """Return the value of each counter, by name."""
        counters = self.jitter.counters
        return {name: getattr(counters, name) for name in counters.__slots__} | {"undecodable": self.undecodable}

    def _decode(self, decoder: Decoder, frame: JitterFrame) -> UplinkFrame:
        position, samples = frame.position // self._ticks_per_sample, frame.duration // self._ticks_per_sample
        try:
            if frame.payload is not None:
                return UplinkFrame(decoder.decode(frame.payload), position, frame.status)
            if frame.following is not None:
                return UplinkFrame(decoder.recover(frame.following, samples), position, frame.status)
        except DecodeError:
            self.undecodable += 1
        self.concealed_ticks += frame.duration
        return UplinkFrame(decoder.conceal(samples), position, FrameStatus.CONCEALED)


class _OpusFramer:
    """Makes Opus packets of 20 ms from frames of PCM at 8 kHz, which may have any length."""

    def __init__(self) -> None:
        self._encoder = OpusEncoder(G711_RATE, fec=False)
        self._pcm = b""
        self._position = 0
        """Position of the first sample in `_pcm`. A packet has the worst status of its parts."""
        self._status = FrameStatus.RECEIVED
        self._ready: list[UplinkFrame] = []

    def append(self, frame: UplinkFrame) -> None:
        """Add a frame. A gap before it is filled with silence, up to the end of the present packet."""
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
        """Return the next packet, or None."""
        return self._ready.pop(0) if self._ready else None

    def _emit(self, pcm: bytes) -> None:
        packet = self._encoder.encode(pcm)
        self._ready.append(UplinkFrame(packet, self._position * 48_000 // G711_RATE, self._status))
