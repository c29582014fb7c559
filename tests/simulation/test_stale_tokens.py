"""Route tokens of ended calls, replayed from random addresses while other callers connect."""

from random import Random

from antiphon_common.control import IceParameters
from antiphon_common.core import Path
from antiphon_common.link import LinkKeys
from antiphon_transceiver.ice_restarts import RESTARTS_AT_ONCE
from antiphon_transceiver.outcome import EndReason
from support.floods.packet_flood import check
from support.net.impairment import Impairment
from support.sim.actors import INGRESS, UNIX_START, SimulatedClient
from support.sim.world import World

STALE = 200
FLOOD_BITS = 7_000_000
NEW_CALLS = 20
STEP = 0.01
FAR_AWAY = Impairment(delay=0.025)


def stale_tokens(world: World, number: int) -> list[str]:
    """Return the ufrags of ended calls with the maximum number of ICE restarts."""
    router = world.transceivers[0].router
    ufrags: list[str] = []
    while len(ufrags) < number:
        client = world.call()
        call = world.find(client)
        assert call is not None
        ufrags.append(call.answer.ice.ufrag)
        for _ in range(RESTARTS_AT_ONCE):
            answer = router.restart_ice(call, IceParameters("them", "password" * 3), world.now)
            assert answer is not None
            ufrags.append(answer.ice.ufrag)
        router.end(call, EndReason.HANGUP, "", world.now)
        client.vanish()
    world.run(5.0)
    return ufrags[:number]


class Replay:
    """Sends checks with these tokens continuously, from random addresses."""

    def __init__(self, world: World, ufrags: list[str], seed: int) -> None:
        self._world = world
        self._random = Random(seed)
        self._checks = [check(self._random, ufrag, "them", "password" * 3) for ufrag in ufrags]
        self._per_step = round(FLOOD_BITS / 8 * STEP / len(self._checks[0]))
        self._step()

    def _step(self) -> None:
        for _ in range(self._per_step):
            host = f"198.18.{self._random.randrange(256)}.{self._random.randrange(256)}"
            request = self._random.choice(self._checks)
            self._world.send_to_relay(request, (host, self._random.randrange(1024, 65536)))
        self._world.later(STEP, self._step)


def connect(world: World) -> list[SimulatedClient]:
    """Let callers call in succession. Return those that connected within a second."""
    connected = []
    for _ in range(NEW_CALLS):
        client = world.call(impairment=FAR_AWAY)
        if world.run(1.0, lambda client=client: client.connected):  # type: ignore[misc]
            connected.append(client)
    return connected


def test_replayed_stale_tokens_do_not_prevent_new_calls() -> None:
    world = World(seed=21)
    router = world.transceivers[0].router
    ufrags = stale_tokens(world, STALE)
    Replay(world, ufrags, seed=21)
    world.run(1.0)
    reached = router.counters.unknown_ufrag
    assert len(connect(world)) == NEW_CALLS
    assert router.counters.unknown_ufrag - reached < STALE
    assert world.relay.counters.over_owner_limit == 0


def test_a_call_with_an_old_ufrag_continues_when_the_address_of_its_client_changes() -> None:
    """A token does not expire during its call."""
    world = World(seed=22)
    client = world.call(impairment=FAR_AWAY)
    assert world.run(5.0, lambda: client.connected)
    world.transceivers[0].set_clock(6 * 3600.0)
    world.relays[0].set_clock(6 * 3600.0)
    client.talk()
    world.run(12.0)
    heard = len(client.received)
    client.address = ("203.0.113.99", 4321)
    assert world.run(10.0, lambda: len(client.received) > heard + 100)


def test_a_transceiver_disowns_only_its_own_tokens() -> None:
    """Tokens of another owner and forged tokens are only counted."""
    world = World(seed=23, transceivers=2)
    clients = [world.call(number) for number in (0, 1)]
    own, others = (call.answer.ice.ufrag for call in map(world.find, clients) if call is not None)
    router = world.transceivers[0].router
    for call in list(router):
        router.end(call, EndReason.HANGUP, "", world.now)
    for client in clients:
        client.vanish()
    world.run(5.0)
    header = LinkKeys(world.keys.link).header(Path.of("198.51.100.1", 1, ingress=INGRESS), 0, UNIX_START)
    before = router.counters.disowned
    for ufrag in (own, others, own[:-1] + ("A" if own[-1] != "A" else "Q"), "A" * 22):
        request = check(Random(1), ufrag, "them", "password" * 3)
        router.receive_datagram(header + request, world.relays[0].address, world.now)
    assert router.counters.disowned == before + 1
