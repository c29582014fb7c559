"""Who writes letters both ways while a call lasts."""

from random import Random
from typing import Final

import msgspec

from antiphon_transceiver.sctp.states import SETTING_UP, AssociationState
from support.sim.actors import Client
from support.sim.world import World

SIZES: Final = (2, 200, 1000, 1100, 1200, 3000, 20_000)
"""Characters: from nothing to many packets, and about as many as one packet takes."""

LONGEST, LONGEST_SHARE = 200_000, 0.02
"""A few are nearly as long as a message may be."""

SHORT_SIZES: Final = (2, 200, 700)
"""For a narrow path, where more would crowd out the audio."""

WRITABLE: Final = SETTING_UP | {AssociationState.ESTABLISHED}
"""States of an association that takes messages."""

MOST_OUTSTANDING = 250_000
"""Characters on their way in one direction: fewer than may wait anywhere."""

SIDE_LABEL, SIDE_SIZE = "side", 2500
"""A channel beside `oai-events`, unordered and unreliable, to which nobody listens; and its longest message."""


class Correspondence:
    """Posts a letter about every `interval` seconds, in one direction or the other; with `side` it uses another channel
    as well."""

    def __init__(
        self, world: World, client: Client, random: Random, interval: float, *, narrow: bool, side: bool
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
        self._write()

    def _write(self) -> None:
        client, random = self._client, self._random
        if self._channels.association.state not in WRITABLE or client.closed is not None or not client.present:
            return
        size = LONGEST if random.random() < self._longest_share else random.choice(self._sizes)
        if random.random() < 0.5:
            self._post_up(size)
        else:
            self._post_down(size)
        if self._side is not None and self._channels.buffered(self._side) < MOST_OUTSTANDING:
            self._channels.send(self._side, bytes(random.randrange(SIDE_SIZE)))
        self._world.touch(client)
        self._world.later(random.expovariate(1 / self._interval), self._write)

    def _post_up(self, size: int) -> None:
        mail = self._world.watch.mail_up[self._client.call_id]
        if mail.outstanding + size < MOST_OUTSTANDING:
            event = mail.post(size, self._world.now)
            self._client.core.send_message(msgspec.json.encode(event).decode())

    def _post_down(self, size: int) -> None:
        mail = self._world.watch.mail_down[self._client.call_id]
        call = self._world.backend_call(self._client)
        if call is not None and mail.outstanding + size < MOST_OUTSTANDING:
            sent = call.send_event(mail.post(size, self._world.now))
            assert sent, "a backend that is read at once has room"
            self._world.drain()
