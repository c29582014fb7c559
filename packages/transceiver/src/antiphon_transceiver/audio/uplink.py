"""The caller's audio on its way to the backend: a jitter buffer, and a decoder where the backend wants PCM."""

import msgspec

from antiphon_common.errors import DecodeError
from antiphon_common.formats import AudioFormat
from antiphon_common.frames import Origin
from antiphon_transceiver.audio.jitter import DEFAULT_TARGET, JitterBuffer, Release
from antiphon_transceiver.audio.opus import OpusDecoder


class UplinkFrame(msgspec.Struct, frozen=True, gc=False):
    """A stretch of the caller's audio in the backend's format.

    `position` counts samples since the first, of the PCM's rate or of Opus's 48 kHz. In Opus a stretch that was not
    received has no data: the backend's own decoder conceals it, or recovers it from the frame after.
    """

    data: bytes
    position: int
    origin: Origin


class UplinkAudio:
    """`receive` each RTP packet's payload, then `poll` until None; `poll` again at `poll_timeout`.

    Raises ValueError for an unknown `format`.
    """

    def __init__(self, format: str, target: float = DEFAULT_TARGET) -> None:
        self.jitter = JitterBuffer(target)
        self.undecodable = 0
        """Packets libopus refused; they were concealed."""
        name, rate = AudioFormat.parse(format)
        self._decoder = None if name == "opus" else OpusDecoder(rate)
        self._ticks_per_sample = 48_000 // rate

    def restart(self) -> None:
        """Say that the next packet begins another stream (another SSRC)."""
        self.jitter.restart()

    def receive(self, sequence: int, timestamp: int, payload: bytes, now: float) -> None:
        """Take the payload of an RTP packet. Bad bytes are counted, never raised."""
        self.jitter.push(sequence, timestamp, payload, now)

    def poll(self, now: float) -> UplinkFrame | None:
        """Return the next stretch that is due, or None."""
        release = self.jitter.pop(now)
        if release is None:
            return None
        if self._decoder is None:
            data = release.payload if release.payload and release.origin is Origin.RECEIVED else b""
            return UplinkFrame(data, release.position, release.origin)
        return self._decode(self._decoder, release)

    def poll_timeout(self) -> float | None:
        """Return when `poll` will next have something although nothing arrives, or None."""
        return self.jitter.poll_timeout()

    def statistics(self) -> dict[str, int]:
        """Return every counter by its name."""
        counters = self.jitter.counters
        return {name: getattr(counters, name) for name in counters.__slots__} | {"undecodable": self.undecodable}

    def _decode(self, decoder: OpusDecoder, release: Release) -> UplinkFrame:
        payload, origin = release.payload, release.origin
        position, samples = release.position // self._ticks_per_sample, release.duration // self._ticks_per_sample
        if payload is not None:
            try:
                if origin is Origin.RECEIVED:
                    return UplinkFrame(decoder.decode(payload), position, origin)
                return UplinkFrame(decoder.recover(payload, samples), position, origin)
            except DecodeError:
                self.undecodable += 1
        return UplinkFrame(decoder.conceal(samples), position, Origin.CONCEALED)
