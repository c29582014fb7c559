"""Sends sequenced events in both directions while a call lasts."""

from random import Random
from typing import Final

import msgspec

from antiphon_transceiver.sctp.states import SETTING_UP, AssociationState
from support.sim.actors import SimulatedClient
from support.sim.world import World

SIZES: Final = (2, 200, 1000, 1100, 1200, 3000, 20_000)
"""Characters of an event: from almost none to many packets, and about as many as one packet carries."""

LONGEST, LONGEST_SHARE = 200_000, 0.02
"""Characters of the longest events, close to the largest message, and their share of all events."""

SHORT_SIZES: Final = (2, 200, 700)
"""Characters of an event over a narrow path, where longer ones would displace the audio."""

WRITABLE: Final = SETTING_UP | {AssociationState.ESTABLISHED}
"""States in which an association accepts messages."""

MOST_OUTSTANDING = 250_000
"""Largest number of characters in flight in one direction: less than any queue holds."""

SIDE_LABEL, SIDE_SIZE = "side", 2500
"""Label of a second channel, unordered and unreliable, without a receiver; and the size of its longest message."""


class EventExchange:
    """Sends an event about every `interval` seconds, in a random direction, from its construction on.

    With `side` it sends on the second channel as well.
    """

    def __init__(
        self, world: World, client: SimulatedClient, random: Random, interval: float, *, narrow: bool, side: bool
    ) -> None:
        self._world = world
        self._client = client
        self._random = random
        self._interval = interval
        self._sizes = SHORT_SIZES if narrow else SIZES
        self._longest_share = 0.0 if narrow else LONGEST_SHARE
        channels = client.core.channels
        assert channels is not None
        self._channels = channels
        self._side = channels.open_channel(SIDE_LABEL, ordered=False, max_retransmits=0) if side else None
        self._send()

    def _send(self) -> None:
        client, random = self._client, self._random
        if self._channels.association.state not in WRITABLE or client.closed is not None or not client.present:
            return
        size = LONGEST if random.random() < self._longest_share else random.choice(self._sizes)
        if random.random() < 0.5:
            self._send_up(size)
        else:
            self._send_down(size)
        if self._side is not None and self._channels.buffered(self._side) < MOST_OUTSTANDING:
            self._channels.send(self._side, bytes(random.randrange(SIDE_SIZE)))
        self._world.touch(client)
        self._world.later(random.expovariate(1 / self._interval), self._send)

    def _send_up(self, size: int) -> None:
        events = self._world.invariants.events_up[self._client.call_id]
        if events.outstanding + size < MOST_OUTSTANDING:
            event = events.send(size, self._world.now)
            self._client.core.send_message(msgspec.json.encode(event).decode())

    def _send_down(self, size: int) -> None:
        events = self._world.invariants.events_down[self._client.call_id]
        call = self._world.backend_call(self._client)
        if call is not None and events.outstanding + size < MOST_OUTSTANDING:
            sent = call.send_event(events.send(size, self._world.now))
            assert sent, "the queue of a backend is empty"
            self._world.drain()
