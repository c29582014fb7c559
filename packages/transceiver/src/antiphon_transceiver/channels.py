"""The data channels of one call, as a protocol core: the one that carries events, and any others, which are ignored.

Over the channel for events (`event_channels`), which the caller opens, both sides send events of the Realtime API: each
message is a JSON object. docs/reference/events.md describes it for those who write clients.
"""

from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from math import inf
from typing import Any

import msgspec

from antiphon_common import json_objects
from antiphon_common.control import SctpParameters
from antiphon_common.core import Path, Transmit
from antiphon_common.errors import DecodeError, LocalProtocolError
from antiphon_transceiver.event_channels import EventChannels
from antiphon_transceiver.events import EventReceived, MessageRefused
from antiphon_transceiver.sctp import (
    MAX_MESSAGE_SIZE,
    AssociationClosed,
    ChannelClosed,
    ChannelOpened,
    DataChannelEndpoint,
    MessageReceived,
)
from antiphon_transceiver.sctp.association import PORT

OURS = SctpParameters(PORT, MAX_MESSAGE_SIZE)
"""Our SCTP parameters in the answer."""

MAX_WAITING_BYTES = 4 * MAX_MESSAGE_SIZE
"""Bytes of events that wait for the caller to open the channel, or to take what was sent before: four of the longest,
as may wait the other way."""

MAX_WAITING_EVENTS = 1024
"""The same for events, since short ones take more memory than their bytes."""

MAX_ERRORS = 8
"""Messages of one datagram that are answered with an error. The rest are not answered, so that 59 messages of one byte
cost no more than 59 events."""

EVENT_ID_BYTES = 12

MAX_EVENT_ID = 512
"""Characters of a client's `event_id` that an error repeats, as the Realtime API limits it."""


class UndeliverableError(LocalProtocolError):
    """An event that cannot be sent to the caller."""


class ChannelCounters:
    """Messages and events of one call."""

    __slots__ = ("dropped", "ignored", "malformed", "received", "sent")

    def __init__(self) -> None:
        self.received = 0
        self.sent = 0
        self.malformed = 0
        """Messages on the channel for events that were no JSON objects."""
        self.ignored = 0
        """Messages on other channels."""
        self.dropped = 0
        """Events for the caller that it never got."""


class CallChannels:
    """The data channels of one call. `peer` has the SCTP parameters of the offer.

    Its five methods are those of `antiphon_common.core.Core`; a datagram is the content of one DTLS record, and every
    `Transmit` has path None. What `send` and `refuse` queue leaves at the next `handle_timeout`, which `poll_timeout`
    asks for at once.
    """

    def __init__(self, peer: SctpParameters, is_dtls_client: bool, random: Callable[[int], bytes]) -> None:
        self.counters = ChannelCounters()
        self.end: AssociationClosed | None = None
        """How the association ended, if it did before the call."""
        self.endpoint = DataChannelEndpoint(
            is_dtls_client,
            random,
            local_port=OURS.port,
            remote_port=peer.port,
            peer_max_message_size=peer.max_message_size,
        )
        self._max_message_size = min(peer.max_message_size or MAX_MESSAGE_SIZE, MAX_MESSAGE_SIZE)
        self._random = random
        self._channels = EventChannels()
        self._now = 0.0
        self._errors = 0
        """Errors since the last datagram."""
        self._waiting: deque[bytes] = deque()
        """Each as JSON in UTF-8."""
        self.waiting_bytes = 0
        self._events: deque[EventReceived | MessageRefused] = deque()

    @property
    def idle(self) -> bool:
        """Whether everything that was sent has reached the caller."""
        return self.endpoint.association.sender.idle

    def statistics(self) -> dict[str, Any]:
        """Return figures for people and programs."""
        counters = {name: getattr(self.counters, name) for name in ChannelCounters.__slots__}
        end = None if self.end is None else f"{self.end.reason.value} {self.end.detail}".rstrip()
        return {"open": self._channels.current is not None, "ended": end, "waiting": len(self._waiting), **counters}

    # Local actions

    def start(self, now: float, round_trip: float | None) -> None:
        """Begin, once DTLS is connected; `round_trip` in seconds is what it measured."""
        self.endpoint.start(now, round_trip)

    def send(self, event: msgspec.Raw | Mapping[str, Any]) -> None:
        """Send an event to the caller, encoded by `json_objects` or not. It waits while the channel is not open, and
        while much was sent before.

        Raises `UndeliverableError` when too much waits, and for an event that is too long or is no JSON.
        """
        try:
            self._queue(event)
        except UndeliverableError:
            self.counters.dropped += 1
            raise

    def refuse(self, code: str, message: str, event_id: str | None = None) -> None:
        """Report to the caller that a message was refused; `event_id` is that of the event in it, if it had one."""
        self._report(error_event(code, message, event_id))

    def announce_end(self, code: str, message: str) -> None:
        """Report to the caller why the call is about to end."""
        self._report(error_event(code, message, kind="server_error"))

    def _report(self, error: dict[str, Any]) -> None:
        with suppress(UndeliverableError):  # counted; earlier errors are waiting for the caller
            self.send({**error, "event_id": f"event_{self._random(EVENT_ID_BYTES).hex()}"})

    def finish(self, now: float) -> bool:
        """Begin to end, once everything has reached the caller or after 5 s; return whether that is done."""
        self._send_at_once()
        if self.idle and not (self._waiting and self._channels.current is not None):
            return True
        self.endpoint.close(now)
        return self.endpoint.closed

    def abort(self, now: float) -> None:
        """End at once, with what was just sent on its way."""
        self._send_at_once()
        self.endpoint.handle_timeout(now)
        self.endpoint.abort(now)

    # The five methods

    def receive_datagram(self, data: bytes, source: Path | None, now: float) -> None:
        """Take one SCTP packet; `source` does not matter here."""
        self._errors = 0
        self.endpoint.receive_datagram(data, source, now)
        self._drain(now)

    def handle_timeout(self, now: float) -> None:
        self.endpoint.handle_timeout(now)
        self._drain(now)

    def poll_transmit(self) -> Transmit | None:
        return self.endpoint.poll_transmit()

    def poll_event(self) -> EventReceived | MessageRefused | None:
        return self._events.popleft() if self._events else None

    def poll_timeout(self) -> float:
        timeout, ready_at = self.endpoint.poll_timeout(), self._channels.ready_at
        if self._waiting and self._now < ready_at < inf:
            return min(timeout, ready_at)
        return timeout

    # What the endpoint reports

    def _drain(self, now: float) -> None:
        self._now = now
        while (event := self.endpoint.poll_event()) is not None:
            match event:
                case MessageReceived(channel, data):
                    self._receive_message(channel, data)
                case ChannelOpened(id=channel, label=label):
                    self._channels.opened(channel, label, now)
                case ChannelClosed(channel):
                    self._channels.closed(channel)
                case AssociationClosed():
                    self._receive_end(event)
        self._send_waiting()

    def _receive_message(self, channel: int, data: str | bytes) -> None:
        if not self._channels.carries(channel):
            self.counters.ignored += 1
            return
        try:
            self._events.append(EventReceived(read_event(data)))
            self.counters.received += 1
            self._channels.end_wait()
        except json_objects.UnsupportedError as error:
            event_id = _text(error.members.get("event_id"))
            self._refuse_malformed("event_refused", f"the event cannot be encoded: {error}", event_id)
        except DecodeError as error:
            self._refuse_malformed("invalid_event", str(error))

    def _refuse_malformed(self, code: str, message: str, event_id: str | None = None) -> None:
        self.counters.malformed += 1
        self._events.append(MessageRefused())
        self._errors += 1
        if self._errors <= MAX_ERRORS:
            self.refuse(code, message, event_id)

    def _receive_end(self, end: AssociationClosed) -> None:
        self.end = end
        self._channels.clear()
        self.counters.dropped += len(self._waiting)
        self._waiting.clear()
        self.waiting_bytes = 0

    # Sending

    def _queue(self, event: msgspec.Raw | Mapping[str, Any]) -> None:
        if self.end is not None:
            raise UndeliverableError("the caller's data channels are closed")
        text = write_event(event)
        size = len(text)
        if size > self._max_message_size:
            raise UndeliverableError(f"an event of {size} bytes, where the caller takes {self._max_message_size}")
        if self.waiting_bytes + size > MAX_WAITING_BYTES or len(self._waiting) >= MAX_WAITING_EVENTS:
            raise UndeliverableError(f"{len(self._waiting)} events with {self.waiting_bytes} bytes wait already")
        self._waiting.append(text)
        self.waiting_bytes += size
        self._send_waiting()

    def _send_at_once(self) -> None:
        self._channels.end_wait()
        self._send_waiting()

    def _send_waiting(self) -> None:
        while self._waiting and self._now >= self._channels.ready_at:
            channel = self._channels.current
            assert channel is not None
            text = self._waiting[0]
            try:
                self.endpoint.send(channel, text.decode())
            except LocalProtocolError:  # no room, or the caller is closing this channel
                return
            self._waiting.popleft()
            self.waiting_bytes -= len(text)
            self.counters.sent += 1


def read_event(data: str | bytes) -> msgspec.Raw:
    """Return the JSON object in a message, encoded by `json_objects`. Raises DecodeError when it is none, or beyond the
    limits."""
    try:
        return json_objects.from_json(data)
    except json_objects.UnsupportedError:
        raise
    except DecodeError as error:
        what = "event has" if isinstance(error, json_objects.LimitError) else "message is"
        raise DecodeError(f"the {what} {error}") from None


def write_event(event: msgspec.Raw | Mapping[str, Any]) -> bytes:
    """Return an event as JSON. Raises UndeliverableError when JSON cannot express it."""
    try:
        packed = event if isinstance(event, msgspec.Raw) else json_objects.pack(event)
        return json_objects.to_json(packed)
    except ValueError as error:
        raise UndeliverableError(f"an event that is no JSON: {error}") from None


def event_id_of(event: msgspec.Raw) -> str | None:
    """Return the `event_id` of an event, None where it has none."""
    with suppress(ValueError):
        return _text(json_objects.unpack(event).get("event_id"))
    return None


def error_event(
    code: str, message: str, event_id: str | None = None, *, kind: str = "invalid_request_error"
) -> dict[str, Any]:
    """Return an `error` event for whoever sent the event with `event_id`, if that had any."""
    error = {"type": kind, "code": code, "message": message, "param": None, "event_id": event_id}
    return {"type": "error", "error": error}


def _text(event_id: object) -> str | None:
    return event_id if isinstance(event_id, str) and len(event_id) <= MAX_EVENT_ID else None
