"""The audio of a call: Opus, the jitter buffer, the way up to the backend and the paced way down to the caller."""

from antiphon_common.formats import opus_duration as packet_duration
from antiphon_transceiver.audio.fec import carries_fec
from antiphon_transceiver.audio.jitter import DEFAULT_TARGET, JitterBuffer, JitterCounters, Release
from antiphon_transceiver.audio.libopus import OpusUnavailableError
from antiphon_transceiver.audio.opus import OpusDecoder, OpusEncoder
from antiphon_transceiver.audio.playout import MAX_BUFFERED_MS, OverrunError, Playout, PlayoutPacket
from antiphon_transceiver.audio.uplink import UplinkAudio, UplinkFrame

__all__ = [
    "DEFAULT_TARGET",
    "MAX_BUFFERED_MS",
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
]
