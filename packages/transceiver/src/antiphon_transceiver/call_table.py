"""The calls of one process by id and by ufrag, and the last state of those that have ended."""

from collections.abc import Iterator

from antiphon_common.control import CallStatus
from antiphon_common.errors import LocalProtocolError
from antiphon_transceiver.call import Call

KEPT_ENDED = 1000
"""Ended calls whose status can still be asked for: a few minutes of calls at the highest rate of one process."""


class CallTable:
    """Iterates over the running calls, oldest first. `by_ufrag` finds a call by each ufrag that checks may name."""

    def __init__(self) -> None:
        self.by_ufrag: dict[bytes, Call] = {}
        self._running: dict[str, Call] = {}
        self._ended: dict[str, tuple[str, CallStatus]] = {}

    def __len__(self) -> int:
        return len(self._running)

    def __iter__(self) -> Iterator[Call]:
        return iter(self._running.values())

    def __contains__(self, call: Call) -> bool:
        return self._running.get(call.id) is call

    def check_free(self, call_id: str) -> None:
        """Raise `LocalProtocolError` when a running call has this id."""
        if call_id in self._running:
            raise LocalProtocolError(f"call {call_id} exists")

    def add(self, call: Call) -> None:
        """Add a call whose id is free, with its ufrags."""
        self._running[call.id] = call
        for ufrag in call.ufrags:
            self.by_ufrag[ufrag] = call

    def add_ufrag(self, call: Call, ufrag: bytes) -> None:
        """Add the ufrag of another ICE generation."""
        call.ufrags.append(ufrag)
        self.by_ufrag[ufrag] = call

    def remove_ufrag(self, call: Call, ufrag: bytes) -> None:
        """Remove the ufrag of a generation whose checks are no longer answered."""
        call.ufrags.remove(ufrag)
        del self.by_ufrag[ufrag]

    def remove(self, call: Call, status: CallStatus) -> None:
        """Remove a running call, and keep its last state."""
        del self._running[call.id]
        for ufrag in call.ufrags:
            del self.by_ufrag[ufrag]
        while len(self._ended) >= KEPT_ENDED:
            del self._ended[next(iter(self._ended))]
        self._ended.pop(call.id, None)
        self._ended[call.id] = call.tenant, status

    def get(self, call_id: str) -> Call | None:
        """Return the running call with an id, of whatever tenant."""
        return self._running.get(call_id)

    def find(self, call_id: str, tenant: str) -> Call | None:
        """Return a tenant's running call; another tenant's is as unknown as one that never was."""
        call = self._running.get(call_id)
        return call if call is not None and call.tenant == tenant else None

    def last_status(self, call_id: str, tenant: str) -> CallStatus | None:
        """Return the last state of a tenant's call that ended not long ago."""
        owner, status = self._ended.get(call_id, (None, None))
        return status if owner == tenant else None
