"""Writes what happens to calls and relays to the log, and counts it in the metrics."""

import logging

from antiphon_common.control import CallRequest
from antiphon_common.core import Path
from antiphon_transceiver import events, ice, transport_events
from antiphon_transceiver.call import Call
from antiphon_transceiver.call_router import (
    CallConnected,
    CallEnded,
    CallRaised,
    CallReported,
    CallThrottled,
    Event,
)
from antiphon_transceiver.metrics import TransceiverMetrics
from antiphon_transceiver.outcome import EndReason
from antiphon_transceiver.relays import AddressMoved, IngressFound, IngressLost, RelayBegan, RelaySilenced

log = logging.getLogger(__name__)


class CallLog:
    """One line of the log, and the metrics, for each event. Subscribe `handle_event` to the packet pump."""

    def __init__(self, metrics: TransceiverMetrics) -> None:
        self._metrics = metrics

    def attempted(self) -> None:
        """Count an offer."""
        self._metrics.attempted.inc()

    def refused(self, request: CallRequest, reason: EndReason, error: Exception) -> None:
        """Report a call that was never opened."""
        self._set_up_failed(request.call_id, reason, str(error))

    def handle_event(self, event: Event) -> None:
        """Report one event of the router."""
        match event:
            case CallConnected(call, connected, path):
                self._connected(call, connected, path)
            case CallThrottled(call):
                log.warning("call exceeds its budget, and loses packets", extra={"call": call.id})
            case CallReported(call, reported):
                self._reported(call, reported)
            case CallEnded(call, reason, detail, error):
                self._ended(call, reason, detail, error)
            case CallRaised(call, error):
                log.error("call raised after its end", extra={"call": call.id}, exc_info=error)
            case RelayBegan(relay):
                log.info("relay began", extra={"relay": str(Path.of(*relay))})
            case RelaySilenced(relay):
                log.info("relay silent", extra={"relay": str(Path.of(*relay))})
            case AddressMoved(ingress):
                log.info("shared address moved", extra={"ingress": ingress})
            case IngressLost(ingress):
                log.warning("ingress lost: all its relays are silent", extra={"ingress": ingress})
            case IngressFound(ingress, relay):
                log.info("ingress found", extra={"ingress": ingress, "relay": str(Path.of(*relay))})

    def _connected(self, call: Call, event: transport_events.Connected, path: Path | None) -> None:
        self._metrics.connected.inc()
        self._metrics.setup_seconds.observe(event.handshake_after)
        figures = {
            "path": path,
            "srtp": event.srtp_profile.name,
            "first_check_ms": round(event.first_check_after * 1000),
            "handshake_ms": round(event.handshake_after * 1000),
        }
        log.info("call connected", extra={"call": call.id, **figures})

    def _reported(self, call: Call, event: events.CallEvent) -> None:
        match event:
            case events.MediaMissing():
                self._set_up_failed(call.id, EndReason.NO_MEDIA, "connected, but no audio came; the call goes on")
            case events.MediaStarted(after):
                log.info("call received audio", extra={"call": call.id, "first_audio_ms": round(after * 1000)})
            case events.MediaEnded():
                log.info("call's audio ended", extra={"call": call.id})
            case ice.Disconnected():
                log.warning("call disconnected", extra={"call": call.id})
            case ice.Reconnected():
                log.info("call reconnected", extra={"call": call.id})

    def _ended(self, call: Call, reason: EndReason, detail: str, error: Exception | None) -> None:
        if not call.connected:
            self._set_up_failed(call.id, reason, detail, error)
            return
        self._metrics.ended.labels(reason).inc()
        level = logging.INFO if error is None else logging.ERROR
        log.log(level, "call ended", extra={"call": call.id, "reason": reason, "detail": detail}, exc_info=error)

    def _set_up_failed(self, call_id: str, reason: EndReason, detail: str, error: Exception | None = None) -> None:
        self._metrics.failed.labels(reason).inc()
        log.warning("set-up failed", extra={"call": call_id, "reason": reason, "detail": detail}, exc_info=error)
