"""Codecs of simulated callers: Opus, Opus with RED, or G.711. Opus packets carry their caller and number."""

from typing import NamedTuple

from antiphon.client.call import AudioReceived
from antiphon.client.descriptions import OPUS_PAYLOAD_TYPE
from antiphon_transceiver.audio.adaptation import APART, NEAREST
from antiphon_transceiver.rtp import RedEncoder, decode_red
from support.sim.speech_source import FRAME_TICKS, opus_packet

RED_PAYLOAD_TYPE = 63
G711_FRAME = 160
"""Samples, and bytes, of 20 ms."""


class CallerPacket(NamedTuple):
    """A packet to send: its payload type, payload, and timestamp in ticks of the codec's clock."""

    payload_type: int
    payload: bytes
    timestamp: int


class OpusCaller:
    """A caller with Opus packets of 20 ms. `packet` returns what to send, `read` what was received."""

    numbered = True
    """Whether packets still carry their numbers at the backend."""

    def offer(self, sdp: str) -> str:
        """Return an offer of Opus as one of this codec."""
        return sdp

    def packet(self, number: int, speaker: int) -> CallerPacket:
        return CallerPacket(OPUS_PAYLOAD_TYPE, opus_packet(number, speaker), number * FRAME_TICKS)

    def read(self, received: AudioReceived) -> tuple[bytes, list[bytes]]:
        """Return the payload of a received packet, and its redundant blocks, oldest first."""
        if received.payload_type != RED_PAYLOAD_TYPE:
            return received.payload, []
        payload, redundant = decode_red(received.payload, OPUS_PAYLOAD_TYPE)
        return payload, [block.payload for block in redundant]


class RedCaller(OpusCaller):
    """A caller with RED (RFC 2198), which sends redundant blocks at the given offsets in packets."""

    def __init__(self, offsets: tuple[int, ...]) -> None:
        self._offsets = offsets
        self._encoder = RedEncoder(OPUS_PAYLOAD_TYPE)

    def offer(self, sdp: str) -> str:
        opus = f"a=rtpmap:{OPUS_PAYLOAD_TYPE} opus/48000/2\r\n"
        red = f"a=rtpmap:{RED_PAYLOAD_TYPE} red/48000/2\r\na=fmtp:{RED_PAYLOAD_TYPE} 111/111\r\n"
        return sdp.replace(f"SAVPF {OPUS_PAYLOAD_TYPE}", f"SAVPF {OPUS_PAYLOAD_TYPE} {RED_PAYLOAD_TYPE}").replace(
            opus, opus + red
        )

    def packet(self, number: int, speaker: int) -> CallerPacket:
        _, payload, timestamp = super().packet(number, speaker)
        return CallerPacket(RED_PAYLOAD_TYPE, self._encoder.encode(payload, timestamp, self._offsets), timestamp)


class G711Caller(OpusCaller):
    """A caller with G.711 only, `pcmu` or `pcma`."""

    numbered = False

    def __init__(self, codec: str) -> None:
        self._codec = codec
        self._payload_type = {"pcmu": 0, "pcma": 8}[codec]

    def offer(self, sdp: str) -> str:
        lines = [line for line in sdp.split("\r\n") if not line.startswith("a=fmtp:")]
        opus, own = f":{OPUS_PAYLOAD_TYPE} ", f":{self._payload_type} "
        return (
            "\r\n".join(lines)
            .replace(f"SAVPF {OPUS_PAYLOAD_TYPE}", f"SAVPF {self._payload_type}")
            .replace(opus, own)
            .replace("opus/48000/2", f"{self._codec.upper()}/8000")
        )

    def packet(self, number: int, speaker: int) -> CallerPacket:
        return CallerPacket(self._payload_type, number.to_bytes(4, "big") * (G711_FRAME // 4), number * G711_FRAME)


def caller_codec(name: str) -> OpusCaller:
    """Return the codec of a name: `opus`, `red1` as browsers send RED, `red2` as we do, `pcmu` or `pcma`."""
    if name == "opus":
        return OpusCaller()
    return RedCaller(APART if name == "red2" else NEAREST[:1]) if name.startswith("red") else G711Caller(name)
