"""The event bus of a call: the receivers of an event, its charge, and the error that its source receives."""

from itertools import count

import msgspec
import pytest

from antiphon_common.json_objects import pack
from antiphon_transceiver.budget import EVENT, SENT_EVENT, Budget
from antiphon_transceiver.event_bus import DeliveryError, EventBus, EventSource

EVENT_OF_CALLER = pack({"type": "test", "event_id": "mine"})
EVENT_OF_BACKEND = pack({"type": "test", "text": "x" * 1000})


class Participant:
    """A participant that keeps received events, and may refuse them."""

    def __init__(self) -> None:
        self.received: list[tuple[EventSource, msgspec.Raw]] = []
        self.errors: list[tuple[str, str | None]] = []
        self.refuses = False

    def deliver(self, source: EventSource, event: msgspec.Raw) -> None:
        if self.refuses:
            raise DeliveryError("full", "too many events wait")
        self.received.append((source, event))

    def report_error(self, error: DeliveryError, event_id: str | None) -> None:
        self.errors.append((error.code, event_id))


class BusSetup:
    def __init__(self) -> None:
        self.budget = Budget()
        self.bus = EventBus(self.budget)
        self.caller, self.backend = Participant(), Participant()
        self.bus.attach(EventSource.CALLER, self.caller)
        self.bus.attach(EventSource.BACKEND, self.backend)

    def charged(self) -> int:
        """Return the microseconds of work charged so far. It uses up the budget."""
        return _work_left(Budget()) - _work_left(self.budget)


def _work_left(budget: Budget) -> int:
    """Charge work in steps of a microsecond up to the allowed debt. Return the number of steps."""
    return next(number for number in count() if not budget.charge(1.0, 0.0))


def test_an_event_reaches_the_other_participant_with_its_source() -> None:
    setup = BusSetup()
    setup.bus.publish(EventSource.CALLER, EVENT_OF_CALLER, 0.0)
    setup.bus.publish(EventSource.BACKEND, EVENT_OF_BACKEND, 0.0)
    assert setup.backend.received == [(EventSource.CALLER, EVENT_OF_CALLER)]
    assert setup.caller.received == [(EventSource.BACKEND, EVENT_OF_BACKEND)]


def test_the_source_of_a_refused_event_receives_an_error_with_its_event_id() -> None:
    setup = BusSetup()
    setup.backend.refuses = setup.caller.refuses = True
    setup.bus.publish(EventSource.CALLER, EVENT_OF_CALLER, 0.0)
    setup.bus.publish(EventSource.BACKEND, EVENT_OF_BACKEND, 0.0)
    assert setup.caller.errors == [("full", "mine")]
    assert setup.backend.errors == [("full", None)]


def test_each_event_is_charged_by_its_source() -> None:
    setup = BusSetup()
    for _ in range(10):
        setup.bus.publish(EventSource.CALLER, EVENT_OF_CALLER, 0.0)
        setup.bus.publish(EventSource.BACKEND, EVENT_OF_BACKEND, 0.0)
        setup.bus.refuse(0.0)
    expected = 10 * (2 * EVENT.base + SENT_EVENT.per_byte * len(memoryview(EVENT_OF_BACKEND)))
    assert setup.charged() == pytest.approx(expected, abs=1)
