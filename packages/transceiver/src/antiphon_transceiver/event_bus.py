"""The event bus of a call: it carries events of the Realtime API between the participants of the call.

Each event has a source. `RECIPIENTS` lists the recipients of each source. A further participant, such as a
sideband, is one more source with its own line there, and a consumer that is attached to the bus.
"""

from enum import IntEnum
from typing import Protocol

import msgspec

from antiphon_common.errors import AntiphonError
from antiphon_transceiver.budget import EVENT, SENT_EVENT, Budget
from antiphon_transceiver.channels import event_id_of


class EventSource(IntEnum):
    """Who sent an event."""

    CALLER = 0
    """The client of the call, over its data channel."""
    BACKEND = 1


RECIPIENTS = {
    EventSource.CALLER: (EventSource.BACKEND,),
    EventSource.BACKEND: (EventSource.CALLER,),
}

PRICES = {EventSource.CALLER: EVENT, EventSource.BACKEND: SENT_EVENT}
"""What an event costs the call, by its source. A frame of the backend has been paid for before its event gets here."""


class DeliveryError(AntiphonError):
    """A consumer cannot take an event. `code` is that of the error event for the source."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class EventConsumer(Protocol):
    """Where one participant receives events. It bounds what it holds, and refuses the rest."""

    def deliver(self, source: EventSource, event: msgspec.Raw) -> None:
        """Take an event, encoded by `json_objects`. Raises DeliveryError."""

    def report_error(self, error: DeliveryError, event_id: str | None) -> None:
        """Send the participant an error about its own event; `event_id` is that of the event, if it had one."""


class EventBus:
    """Delivers the events of a call at once; it holds none itself. Attach a consumer for each source, then publish.

    Each event is charged to `budget`.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._consumers: dict[EventSource, EventConsumer] = {}

    def attach(self, source: EventSource, consumer: EventConsumer) -> None:
        """Deliver to a participant from now on."""
        self._consumers[source] = consumer

    def publish(self, source: EventSource, event: msgspec.Raw, now: float) -> None:
        """Deliver an event to all its recipients; a refusal is reported to the source."""
        price = PRICES[source]
        self._budget.charge(price.base + price.per_byte * len(memoryview(event)), now)
        for recipient in RECIPIENTS[source]:
            try:
                self._consumers[recipient].deliver(source, event)
            except DeliveryError as error:
                self._consumers[source].report_error(error, event_id_of(event))

    def refuse(self, now: float) -> None:
        """Charge for a message that is no event: its sender has got an error for it already."""
        self._budget.charge(EVENT.base, now)
