"""Senders of audio with wrong RTP clocks, and the stream that receives their packets."""

from collections.abc import Callable, Iterator
from math import inf
from random import Random
from typing import NamedTuple

from antiphon_common.control import Codec
from antiphon_common.frames import FrameStatus
from antiphon_transceiver.audio import UplinkFrame
from antiphon_transceiver.media import AudioStream
from antiphon_transceiver.rtcp.feedback import GenericNack
from antiphon_transceiver.rtcp.packets import decode_rtcp
from antiphon_transceiver.rtp import RtpOptions, RtpPacket

OPUS = Codec("opus", 111, 48_000, parameters={"useinbandfec": "1"}, redundancy=63)
SSRC = 0x11111111
FRAME = 0.02

_CONFIGURATIONS = {2.5: 28, 5: 29, 10: 30, 20: 31}
"""CELT configurations by the milliseconds of a frame (RFC 6716 §3.1)."""


def opus(number: int, milliseconds: float = 20) -> bytes:
    """Return a valid Opus packet that carries a number."""
    return bytes((_CONFIGURATIONS[milliseconds] << 3,)) + number.to_bytes(4, "big") * 4


def number_of(packet: bytes) -> int:
    return int.from_bytes(packet[1:5], "big")


class Packet(NamedTuple):
    """An RTP packet with its arrival time. `media` is the time of its capture, by a correct clock."""

    arrives: float
    data: bytes
    media: float = 0.0


def rtp(sequence: int, timestamp: int, payload: bytes, payload_type: int = 111, *, marker: bool = False) -> bytes:
    return RtpPacket(marker, payload_type, sequence & 0xFFFF, timestamp & 0xFFFFFFFF, SSRC, payload).encode()


class ReceivedFrame(NamedTuple):
    """A frame that the backend received, and its time."""

    now: float
    frame: UplinkFrame


class ReceivingStream:
    """An audio stream that receives packets in order of their arrival. `heard` has the frames for the backend."""

    def __init__(self, codec: Codec = OPUS, format: str = "opus", feedback: tuple[str, ...] = ("nack",)) -> None:
        self.stream = AudioStream(codec, format, "call", Random(1).randbytes, 0.0, RtpOptions(feedback=feedback))
        self.stream.start(0.0)
        self.heard: list[ReceivedFrame] = []
        self.requested: list[int] = []
        """Sequence numbers asked for by NACK."""

    def receive(self, packets: list[Packet], *, rest: float = 1.0) -> None:
        """Receive packets in order of their arrival, and let `rest` seconds pass after the last."""
        for packet in sorted(packets):
            self._wait_until(packet.arrives)
            self.stream.receive_rtp(packet.data, packet.arrives)
            self._poll(packet.arrives)
        self._wait_until(max(packet.arrives for packet in packets) + rest)

    @property
    def numbers(self) -> list[int]:
        """The numbers of the packets played, in order."""
        return [number_of(frame.data) for _, frame in self.heard if frame.data]

    @property
    def concealed(self) -> list[UplinkFrame]:
        return [frame for _, frame in self.heard if frame.status is FrameStatus.CONCEALED]

    def _wait_until(self, time: float) -> None:
        while (due := self.stream.poll_timeout(sends=True)) < min(time, inf):
            before = len(self.heard)
            self._poll(due)
            assert len(self.heard) > before or self.stream.poll_timeout(sends=True) != due, "a timeout in vain"

    def _poll(self, now: float) -> None:
        while (frame := self.stream.poll_frame(now)) is not None:
            self.heard.append(ReceivedFrame(now, frame))
        while (feedback := self.stream.poll_feedback(now)) is not None:
            for part in decode_rtcp(feedback):
                if isinstance(part, GenericNack):
                    self.requested += part.sequences


class NetworkModel(NamedTuple):
    """Losses, jitter and reordering of packets. Times are in seconds."""

    loss: float = 0.0
    jitter: float = 0.0
    reordering: float = 0.0

    def carry(self, packets: Iterator[Packet], chance: Random) -> list[Packet]:
        """Return the packets that arrive."""
        arriving, newest = [], 0.0
        for packet in packets:
            arrives = packet.arrives + 0.03 + chance.uniform(0, self.jitter)
            if chance.random() < self.reordering:
                arrives += chance.uniform(0, 0.03)
            else:
                arrives = newest = max(newest, arrives)
            if chance.random() >= self.loss:
                arriving.append(packet._replace(arrives=arrives))
        return arriving


Clock = Callable[[int, float], int]
"""Returns the timestamp of a packet, given its number and the time of its capture."""


def speak(clock: Clock, spurts: list[tuple[float, float]], *, marker: bool = False) -> Iterator[Packet]:
    """Yield packets of 20 ms for talkspurts and the pauses after them, both in seconds."""
    number, now = 0, 0.0
    for talk, pause in spurts:
        for index in range(round(talk / FRAME)):
            data = rtp(65_000 + number, clock(number, now), opus(number), marker=marker and not index)
            yield Packet(now, data, now)
            number, now = number + 1, now + FRAME
        now += pause
