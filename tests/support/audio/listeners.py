"""Two receivers for the same packets: ours, and aiortc's jitter buffer with its decoder."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from aiortc.codecs.opus import OpusDecoder as AiortcDecoder
from aiortc.jitterbuffer import JitterBuffer as AiortcBuffer
from aiortc.rtp import RtpPacket
from av import AudioFrame

from antiphon_transceiver.audio import UplinkAudio, UplinkFrame
from antiphon_transceiver.rtp import RedEncoder, decode_red
from support.audio.lossy_speech import FRAME_SECONDS, RATE, TICKS, Arrival, Samples

OPUS_PAYLOAD_TYPE = 111

SHIFT = 1000.0
"""Seconds on the receivers' clock at which the stream begins."""


class ReceiverOutput(NamedTuple):
    """The output of a receiver: the audio placed by its timestamps, with silence in the gaps; the delay of each packet
    in seconds from its capture to its output; and counts of packets."""

    sound: Samples
    delays: list[float]
    lost: int
    discarded: int
    recovered_fec: int = 0
    recovered_red: int = 0
    concealed: int = 0


Receiver = Callable[[Sequence[bytes], Sequence[Arrival]], ReceiverOutput]


def antiphon(packets: Sequence[bytes], arrivals: Sequence[Arrival], *, offsets: Sequence[int] = ()) -> ReceiverOutput:
    """Receive as a transceiver does for a backend with PCM. `offsets` are the redundancy offsets of each packet (RFC
    2198)."""
    uplink, red = UplinkAudio(f"pcm16/{RATE}"), RedEncoder(OPUS_PAYLOAD_TYPE)
    payloads = [red.encode(packet, index * TICKS, offsets) for index, packet in enumerate(packets)]
    released: list[tuple[float, UplinkFrame]] = []

    def poll(now: float) -> None:
        while (frame := uplink.poll(now)) is not None:
            released.append((now, frame))

    for time, index in arrivals:
        while (timeout := uplink.poll_timeout()) < time + SHIFT:
            poll(timeout)
        payload, repeated = decode_red(payloads[index], OPUS_PAYLOAD_TYPE)
        uplink.receive(index & 0xFFFF, index * TICKS, payload, time + SHIFT, repeated)
        poll(time + SHIFT)

    first = arrivals[0].packet * TICKS
    sound = np.zeros(len(packets) * TICKS, np.float32)
    delays = []
    for now, frame in released:
        pcm = np.frombuffer(frame.data, "<i2").astype(np.float32) / 32768
        start = first + frame.position
        sound[start : start + len(pcm)] = pcm[: len(sound) - start]
        if not frame.status:
            delays.append(now - SHIFT - start / RATE)
    counters = uplink.jitter.counters
    return ReceiverOutput(
        sound,
        delays,
        lost=len(packets) - len(arrivals),
        discarded=counters.late,
        recovered_fec=counters.recovered - counters.redundant,
        recovered_red=counters.redundant,
        concealed=counters.concealed,
    )


class BufferedPacket(RtpPacket):
    """An RTP packet as aiortc's receiver puts it into its jitter buffer."""

    def __init__(self, index: int, payload: bytes) -> None:
        super().__init__(payload_type=OPUS_PAYLOAD_TYPE, sequence_number=index & 0xFFFF, timestamp=index * TICKS)
        self.payload = self._data = payload


class CountedBuffer(AiortcBuffer):
    """aiortc's jitter buffer with the number of packets that wait in it."""

    @property
    def waiting(self) -> int:
        return sum(packet is not None for packet in self._packets)


def aiortc(packets: Sequence[bytes], arrivals: Sequence[Arrival]) -> ReceiverOutput:
    """Receive as RTCRtpReceiver does, without RED, in-band FEC and concealment."""
    buffer, decoder = CountedBuffer(capacity=16, prefetch=4), AiortcDecoder()
    sound = np.zeros(len(packets) * TICKS, np.float32)
    delays = []
    for time, index in arrivals:
        _, encoded = buffer.add(BufferedPacket(index, packets[index]))
        if encoded is None:
            continue
        delays.append(time - encoded.timestamp // TICKS * FRAME_SECONDS)
        for frame in decoder.decode(encoded):
            assert isinstance(frame, AudioFrame)
            stereo = frame.to_ndarray().reshape(-1, 2).astype(np.float32) / 32768
            sound[encoded.timestamp : encoded.timestamp + len(stereo)] = stereo.mean(axis=1)
    discarded = len(arrivals) - len(delays) - buffer.waiting
    return ReceiverOutput(sound, delays, len(packets) - len(arrivals), discarded)
