"""Relays of one cluster that send HELLO, fail and restart, and the gaps in the audio of calls."""

from antiphon_common.routing import Owner
from support.sim.actors import INGRESS, Address, SimulatedClient, SimulatedRelay, encoded
from support.sim.step_invariants import ReceivedStream
from support.sim.world import SimulatedTransceiver, World

SHARED_ADDRESS_MOVES = 0.09
"""Seconds until the shared address of a failed host moves to another: three adverts of 30 ms (VRRPv3)."""


class Gaps:
    """The longest gaps of one call in seconds, since construction, including gaps still open."""

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
    """A world whose relays send HELLO. The packets of a failed relay are lost until its shared address moves."""

    def __init__(
        self, seed: int = 0, *, relays: int = 2, ingresses: int = 1, transceivers: int = 1, spray: bool = False
    ) -> None:
        super().__init__(seed, relays=relays, ingresses=ingresses, transceivers=transceivers, spray=spray)
        self._serving = list(self.relays)
        for relay in self.relays:
            self.greet(relay)

    def greet(self, relay: SimulatedRelay) -> None:
        """Configure a relay with every transceiver, so that it sends HELLO to them."""
        relay.core.set_transceivers([there.address for there in self.transceivers])
        self.touch(relay)

    def serving(self, client: SimulatedClient) -> SimulatedRelay | None:
        """Return the relay that now receives a client's packets to the first ingress."""
        return self._choose(client.address, INGRESS)

    def kill(self, relay: SimulatedRelay) -> None:
        """Stop a relay's host."""
        relay.die()
        self.later(SHARED_ADDRESS_MOVES, self.move_from, relay)

    def move_from(self, relay: SimulatedRelay) -> None:
        """Move the shared address from a relay, running or not, to the other relays."""
        self._serving.remove(relay)
        relay.ingress.away = True

    def restart(self, relay: SimulatedRelay) -> None:
        """Restart a relay without state."""
        relay.alive = True
        relay.forget()
        self.greet(relay)
        if relay not in self._serving:
            self._serving.append(relay)

    def relocate(self, there: SimulatedTransceiver, address: Address) -> None:
        """Move a transceiver with all its calls to another address, as if a successor had claimed them."""
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
