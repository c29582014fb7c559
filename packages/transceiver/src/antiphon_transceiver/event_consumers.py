"""The participants of a call on its event bus: the caller behind its data channel, and the backend."""

from contextlib import suppress

import msgspec

from antiphon_transceiver.backends.call import BackendCall, EventRefused
from antiphon_transceiver.channels import CallChannels, UndeliverableError, error_event
from antiphon_transceiver.event_bus import DeliveryError, EventSource
from antiphon_transceiver.events import ChannelEvent
from antiphon_transceiver.peer_transport import PeerTransport


class CallerConsumer:
    """The caller on the event bus: events leave over its data channel."""

    def __init__(self, transport: PeerTransport[ChannelEvent], channels: CallChannels | None) -> None:
        self.undelivered = 0
        """Events for a caller without data channels."""
        self._transport = transport
        self._channels = channels

    def deliver(self, source: EventSource, event: msgspec.Raw) -> None:
        """Send an event, or queue it until the channel is open. Raises DeliveryError when too much waits."""
        if self._channels is None:
            self.undelivered += 1
            return
        try:
            self._channels.send(event)
        except UndeliverableError as error:
            raise DeliveryError("event_undeliverable", str(error)) from None
        finally:
            self._transport.update_timeout()

    def report_error(self, error: DeliveryError, event_id: str | None) -> None:
        """Send the caller an error event."""
        if self._channels is not None:
            self._channels.refuse(error.code, str(error), event_id)
            self._transport.update_timeout()

    def announce_end(self, code: str, message: str) -> None:
        """Send the caller the reason why the call is about to end."""
        if self._channels is not None:
            self._channels.announce_end(code, message)
            self._transport.update_timeout()


class BackendConsumer:
    """The backend on the event bus: events leave over its connection."""

    def __init__(self, backend: BackendCall) -> None:
        self._backend = backend

    def deliver(self, source: EventSource, event: msgspec.Raw) -> None:
        """Queue an event. Raises DeliveryError when it is too long, or too much waits."""
        try:
            self._backend.send_event(event)
        except EventRefused as error:
            raise DeliveryError("event_refused", str(error)) from None

    def report_error(self, error: DeliveryError, event_id: str | None) -> None:
        """Send the backend an error event, if it has room for that."""
        with suppress(EventRefused):
            self._backend.send_event(error_event(error.code, str(error), event_id))
