"""Owns voice calls: ICE, DTLS, SRTP, Opus, playout, and the link to the inference backend."""

from antiphon_transceiver.outcome import EndReason
from antiphon_transceiver.service import TransceiverPorts, serve_transceiver

__all__ = ["EndReason", "TransceiverPorts", "serve_transceiver"]
