"""The audio of a call: codecs, the jitter buffer, the uplink to the backend and the paced playout to the caller."""

from antiphon_common.formats import opus_duration as packet_duration
from antiphon_transceiver.audio.adaptation import SendAdaptation
from antiphon_transceiver.audio.jitter_buffer import MAX_TARGET_DELAY, MIN_TARGET_DELAY, JitterBuffer
from antiphon_transceiver.audio.jitter_frame import JitterCounters, JitterFrame
from antiphon_transceiver.audio.libopus import OpusUnavailableError
from antiphon_transceiver.audio.opus import OpusDecoder, OpusEncoder
from antiphon_transceiver.audio.payloads import G711, OPUS, PayloadKind, carries_fec
from antiphon_transceiver.audio.playout import MAX_BUFFERED_MS, OverrunError, Playout, PlayoutPacket
from antiphon_transceiver.audio.uplink import UplinkAudio, UplinkFrame

__all__ = [
    "G711",
    "MAX_BUFFERED_MS",
    "MAX_TARGET_DELAY",
    "MIN_TARGET_DELAY",
    "OPUS",
    "JitterBuffer",
    "JitterCounters",
    "JitterFrame",
    "OpusDecoder",
    "OpusEncoder",
    "OpusUnavailableError",
    "OverrunError",
    "PayloadKind",
    "Playout",
    "PlayoutPacket",
    "SendAdaptation",
    "UplinkAudio",
    "UplinkFrame",
    "carries_fec",
    "packet_duration",
]
