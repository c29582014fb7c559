"""The calls of one process by id and by ufrag, and the last state of those that have ended."""

from collections.abc import Iterator

from antiphon_common.control import CallStatus
from antiphon_common.errors import LocalProtocolError
from antiphon_transceiver.call import Call

KEPT_ENDED = 1000
"""Ended calls whose status can still be asked for: a few minutes of calls at the highest rate of one process."""


class CallTable:
    """The running calls by id and by ufrag; it iterates over them, oldest first. Look a call up in `by_id` or
    `by_ufrag`, or with `find` in the name of a tenant.

    `last_status` returns how a call ended, for the last `KEPT_ENDED` calls.
    """

    def __init__(self) -> None:
        self.by_id: dict[str, Call] = {}
        """The running calls, oldest first."""
        self.by_ufrag: dict[bytes, Call] = {}
        """The running calls by each ufrag that checks may name."""
        self._ended: dict[str, tuple[str, CallStatus]] = {}

    def __len__(self) -> int:
        return len(self.by_id)

    def __iter__(self) -> Iterator[Call]:
        return iter(self.by_id.values())

    def __contains__(self, call: Call) -> bool:
        return self.by_id.get(call.id) is call

    def check_free(self, call_id: str) -> None:
        """Raises LocalProtocolError when a running call has this id."""
        if call_id in self.by_id:
            raise LocalProtocolError(f"call {call_id} exists")

    def add(self, call: Call) -> None:
        """Add a call whose id is free, with its ufrags."""
        self.by_id[call.id] = call
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
        """Remove a running call, and keep its last status."""
        del self.by_id[call.id]
        for ufrag in call.ufrags:
            del self.by_ufrag[ufrag]
        while len(self._ended) >= KEPT_ENDED:
            del self._ended[next(iter(self._ended))]
        self._ended.pop(call.id, None)
        self._ended[call.id] = call.tenant, status

    def find(self, call_id: str, tenant: str) -> Call | None:
        """Return a tenant's running call; None also where the call is another tenant's."""
        call = self.by_id.get(call_id)
        return call if call is not None and call.tenant == tenant else None

    def last_status(self, call_id: str, tenant: str) -> CallStatus | None:
        """Return the last state of a tenant's call that ended not long ago."""
        owner, status = self._ended.get(call_id, (None, None))
        return status if owner == tenant else None
