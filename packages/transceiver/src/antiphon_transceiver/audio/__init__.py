"""The audio of a call: Opus, the jitter buffer, the way up to the backend and the paced way down to the caller."""

from antiphon_transceiver.audio.formats import sample_rate
from antiphon_transceiver.audio.jitter import DEFAULT_TARGET, JitterBuffer, JitterCounters, Release
from antiphon_transceiver.audio.libopus import OpusUnavailableError
from antiphon_transceiver.audio.opus import FRAME_MS, OpusDecoder, OpusEncoder
from antiphon_transceiver.audio.playout import MAX_BUFFERED_MS, OverrunError, Playout, PlayoutPacket
from antiphon_transceiver.audio.toc import TICKS_PER_SECOND, carries_fec, packet_duration
from antiphon_transceiver.audio.uplink import UplinkAudio, UplinkFrame

__all__ = [
    "DEFAULT_TARGET",
    "FRAME_MS",
    "MAX_BUFFERED_MS",
    "TICKS_PER_SECOND",
    "JitterBuffer",
    "JitterCounters",
    "OpusDecoder",
    "OpusEncoder",
    "OpusUnavailableError",
    "OverrunError",
    "Playout",
    "PlayoutPacket",
    "Release",
    "UplinkAudio",
    "UplinkFrame",
    "carries_fec",
    "packet_duration",
    "sample_rate",
]
