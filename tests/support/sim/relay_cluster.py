"""Relays of one cluster that say HELLO, fall and rise, and how long a call's audio stays away meanwhile."""

from antiphon_common.routing import Owner
from support.sim.actors import INGRESS, Address, SimulatedClient, SimulatedRelay, encoded
from support.sim.step_invariants import ReceivedStream
from support.sim.world import SimulatedTransceiver, World

SHARED_ADDRESS_MOVES = 0.09
"""Seconds from the death of a relay's host until its shared address is another's: three adverts of 30 ms (VRRPv3)."""


class Gaps:
    """The longest silences of one call since it is watched, in seconds; where nothing came at all, all of it."""

    def __init__(self, world: World, client: SimulatedClient) -> None:
        self._world = world
        self._streams = world.invariants.up[client.call_id], world.invariants.down[client.number]
        self._longest = [0.0, 0.0]
        self._last = [world.now, world.now]
        world.observers.append(self._look)

    @property
    def up(self) -> float:
        return self._now(0)

    @property
    def down(self) -> float:
        return self._now(1)

    def _now(self, direction: int) -> float:
        return max(self._longest[direction], self._world.now - self._last[direction])

    def _look(self) -> None:
        for direction, stream in enumerate(self._streams):
            self._note(direction, stream)

    def _note(self, direction: int, stream: ReceivedStream) -> None:
        if stream.last_at > self._last[direction]:
            self._longest[direction] = max(self._longest[direction], stream.last_at - self._last[direction])
            self._last[direction] = stream.last_at


class RelayCluster(World):
    """A world whose relays say HELLO. The packets of a dead one are lost until its shared address has moved to another
    relay of the ingress."""

    def __init__(
        self, seed: int = 0, *, relays: int = 2, ingresses: int = 1, transceivers: int = 1, spray: bool = False
    ) -> None:
        super().__init__(seed, relays=relays, ingresses=ingresses, transceivers=transceivers, spray=spray)
        self._serving = list(self.relays)
        for relay in self.relays:
            self.greet(relay)

    def greet(self, relay: SimulatedRelay) -> None:
        """Let a relay know every transceiver."""
        relay.core.set_transceivers([there.address for there in self.transceivers])
        self.touch(relay)

    def serving(self, client: SimulatedClient) -> SimulatedRelay | None:
        """Return the relay that a client's packets to the first ingress come to now."""
        return self._choose(client.address, INGRESS)

    def kill(self, relay: SimulatedRelay) -> None:
        """Let a relay's host die."""
        relay.die()
        self.later(SHARED_ADDRESS_MOVES, self.move_from, relay)

    def move_from(self, relay: SimulatedRelay) -> None:
        """Let the other relays have what was sent to this one, dead or alive."""
        self._serving.remove(relay)
        relay.ingress.away = True

    def restart(self, relay: SimulatedRelay) -> None:
        """Let a relay begin anew, with nothing but its sockets."""
        relay.alive = True
        relay.forget()
        self.greet(relay)
        if relay not in self._serving:
            self._serving.append(relay)

    def relocate(self, there: SimulatedTransceiver, address: Address) -> None:
        """Let a transceiver go on at another address with all its calls, as if they had been handed over."""
        router, previous = there.router, there.router.tokens.owner
        there.address, there.encoded_address = address, encoded(*address)
        self._transceiver_at = {there.encoded_address: there for there in self.transceivers}
        for client in self.clients:
            if self.find(client) in list(router):
                client.home = there.encoded_address
        router.tokens.owner = router.relays.announcements.owner = Owner(
            0, self.networks.host_of(0, address[0]), address[1]
        )
        router.claim_calls(previous, self.now)
        self.touch(there)
        for relay in self.relays:
            self.greet(relay)

    def send_to_relay(self, data: bytes, source: Address, ingress: int = INGRESS) -> None:
        relay = self._choose(source, ingress)
        if relay is not None:
            relay.receive_media(data, source)

    def _choose(self, source: Address, ingress: int) -> SimulatedRelay | None:
        relays = [relay for relay in self._serving if relay.ingress.id == ingress]
        return self._spreader.choose(f"{source}".encode(), relays) if relays else None
