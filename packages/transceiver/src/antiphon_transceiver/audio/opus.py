"""Opus by libopus: a decoder and an encoder of one stream each. PCM is mono, 16-bit little-endian."""

from typing import Any, Final

from antiphon_common.errors import DecodeError, LocalProtocolError
from antiphon_common.formats import FRAME_MS, MAX_PACKET_BYTES
from antiphon_transceiver.audio import libopus

MAX_PACKET_MS: Final = 120

DEFAULT_LOSS_PERCENT: Final = 10
"""Loss that the encoder assumes until reports arrive. At 0 libopus writes no FEC."""

_APPLICATION_VOIP = 2048
_SET_BITRATE = 4002
_SET_COMPLEXITY = 4010
_SET_INBAND_FEC = 4012
_SET_PACKET_LOSS_PERC = 4014
_SET_DTX = 4016


class OpusDecoder:
    """Decodes the packets of one stream to mono PCM at `sample_rate`: 8, 12, 16, 24 or 48 kHz.

    Call `decode` for each packet, and `recover` or `conceal` for each loss. Raises LocalProtocolError for another rate.
    """

    def __init__(self, sample_rate: int) -> None:
        ffi, functions, _ = libopus.load()
        error = ffi.new("int *")
        state = functions.opus_decoder_create(sample_rate, 1, error)
        if error[0]:
            raise LocalProtocolError(f"libopus cannot decode to {sample_rate} Hz: {_reason(error[0])}")
        self.sample_rate = sample_rate
        self._state = ffi.gc(state, functions.opus_decoder_destroy)
        self._decode = functions.opus_decode
        self._nothing: Any = ffi.NULL
        self._capacity = sample_rate * MAX_PACKET_MS // 1000
        self._pcm = ffi.new("char[]", self._capacity * 2)
        self._view = ffi.buffer(self._pcm)

    def decode(self, packet: bytes) -> bytes:
        """Return the PCM of `packet`. Raises DecodeError when it is not Opus."""
        if not packet:  # libopus would conceal a loss
            raise DecodeError("an empty Opus packet")
        return self._run(packet, len(packet), self._capacity, 0)

    def recover(self, packet: bytes, samples: int) -> bytes:
        """Return the `samples` before `packet`, whose predecessor was lost. Call it before `decode(packet)`.

        They come from the in-band FEC in `packet`, or are concealed if it has none. `samples` is a multiple of 2.5 ms.
        Raises DecodeError when `packet` is not Opus.
        """
        return self._run(packet, len(packet), samples, 1)

    def conceal(self, samples: int) -> bytes:
        """Return `samples` that conceal a loss. `samples` is a multiple of 2.5 ms."""
        return self._run(self._nothing, 0, samples, 0)

    def _run(self, packet: Any, size: int, samples: int, fec: int) -> bytes:
        count = self._decode(self._state, packet, size, self._pcm, samples, fec)
        if count < 0:
            raise DecodeError(f"libopus: {_reason(count)}")
        pcm: bytes = self._view[: count * 2]
        return pcm


class OpusEncoder:
    """Encodes mono PCM at `sample_rate` to one Opus packet for each 20 ms. Call `encode` for each 20 ms, in order.

    `complexity` is 0 to 10, `bitrate` is in bits a second. With `dtx`, a packet of at most two bytes means silence and
    need not be sent. Raises LocalProtocolError for values that libopus refuses.
    """

    def __init__(
        self, sample_rate: int, *, bitrate: int = 32_000, complexity: int = 5, fec: bool = True, dtx: bool = False
    ) -> None:
        ffi, functions, _ = libopus.load()
        error = ffi.new("int *")
        state = functions.opus_encoder_create(sample_rate, 1, _APPLICATION_VOIP, error)
        if error[0]:
            raise LocalProtocolError(f"libopus cannot encode {sample_rate} Hz: {_reason(error[0])}")
        self.sample_rate = sample_rate
        self.frame_size = sample_rate * FRAME_MS // 1000 * 2
        """Bytes of PCM that `encode` takes."""
        self._ffi = ffi
        self._state = ffi.gc(state, functions.opus_encoder_destroy)
        self._encode = functions.opus_encode
        self._control = functions.opus_encoder_ctl
        self._samples = self.frame_size // 2
        self._packet = ffi.new("char[]", MAX_PACKET_BYTES)
        self._view = ffi.buffer(self._packet)
        self._set(_SET_COMPLEXITY, complexity)
        self._set(_SET_DTX, dtx)
        self.set_bitrate(bitrate)
        self.set_loss(DEFAULT_LOSS_PERCENT if fec else 0, fec=fec)

    def encode(self, pcm: bytes) -> bytes:
        """Return the packet for `frame_size` bytes of PCM. Raises LocalProtocolError for another size."""
        if len(pcm) != self.frame_size:
            raise LocalProtocolError(f"{len(pcm)} bytes of PCM where {self.frame_size} make 20 ms")
        size = self._encode(self._state, pcm, self._samples, self._packet, MAX_PACKET_BYTES)
        if size < 0:
            raise LocalProtocolError(f"libopus: {_reason(size)}")
        packet: bytes = self._view[:size]
        return packet

    def set_bitrate(self, bitrate: int) -> None:
        """Use `bitrate` bits a second from the next packet on: 6,000 to 510,000 (RFC 6716 §2.1.1)."""
        self._set(_SET_BITRATE, bitrate)

    def set_loss(self, percent: int, *, fec: bool = True) -> None:
        """Assume that `percent` (0 to 100) of the packets are lost, with in-band FEC or without."""
        self._set(_SET_INBAND_FEC, fec)
        self._set(_SET_PACKET_LOSS_PERC, percent)

    def _set(self, request: int, value: int) -> None:
        result = self._control(self._state, request, self._ffi.cast("int", value))
        if result:
            raise LocalProtocolError(f"libopus refuses {value} for request {request}: {_reason(result)}")


def _reason(error: int) -> str:
    ffi, functions, _ = libopus.load()
    text = ffi.string(functions.opus_strerror(error))
    return text.decode() if isinstance(text, bytes) else text
