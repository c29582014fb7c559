"""Attackers against whole calls in memory: bytes sent to spoofed sources, bounds of tables, owners of addresses."""

from collections import Counter
from collections.abc import Callable

import pytest

from antiphon.client.descriptions import read_answer
from antiphon_common.control import IceParameters
from antiphon_common.demux import Protocol, classify
from antiphon_common.link import HEADER_SIZE, MESSAGE
from antiphon_common.sockaddr import decode_address
from antiphon_transceiver.call_router import CallEnded
from antiphon_transceiver.ice.paths import AMPLIFICATION_LIMIT, MAX_PATHS
from support.floods.packet_flood import checks, junk
from support.net.impairment import Impairment
from support.sim.actors import INGRESS, Address, SimulatedClient
from support.sim.world import World

FAR_AWAY = Impairment(delay=0.025)
SETUP_SECONDS = 5.0
PACKETS, PACKETS_PER_SECOND = 10_000, 1_000
HERS = "198.51.100.66"
"""Where the attacker really is."""
VICTIM: Address = ("203.0.113.200", 40000)


class FloodedWorld(World):
    """A world that counts bytes by source and by target address. `disguise` may replace the source of a datagram."""

    def __init__(self, *, transceivers: int = 1) -> None:
        self.claimed: Counter[Address] = Counter()
        self.got: Counter[Address] = Counter()
        self.disguise: Callable[[bytes, Address], Address] = lambda data, source: source
        super().__init__(transceivers=transceivers)

    def send_to_relay(self, data: bytes, source: Address, ingress: int = INGRESS) -> None:
        source = self.disguise(data, source)
        self.claimed[source] += len(data)
        super().send_to_relay(data, source, ingress)

    def send_down(self, data: bytes, target: bytes, ingress: int) -> None:
        self.got[decode_address(target)] += len(data)
        super().send_down(data, target, ingress)

    def live_calls(self, number: int) -> list[SimulatedClient]:
        """Return calls that are connected and send audio."""
        clients = [self.call(index % len(self.transceivers), impairment=FAR_AWAY) for index in range(number)]
        assert self.run(SETUP_SECONDS, lambda: all(client.connected for client in clients))
        for client in clients:
            client.talk()
        return clients

    def flood(self, datagrams: list[bytes], sources: list[Address]) -> None:
        for number in range(PACKETS):
            self.send_to_relay(datagrams[number % len(datagrams)], sources[number % len(sources)])
            self.run(1 / PACKETS_PER_SECOND)

    def check_bounds(self) -> None:
        calls = sum(len(there.router) for there in self.transceivers)
        assert len(self.relay.flows) <= MAX_PATHS * calls
        for there in self.transceivers:
            assert len(there.router.paths) <= MAX_PATHS * len(there.router)


class Attacker:
    """A caller that sends checks with the credentials of its own call from any source address."""

    def __init__(self, world: FloodedWorld, transceiver: int = 0) -> None:
        answers: list[str] = []

        def keep(answer: str) -> str:
            answers.append(answer)
            return answer

        self.address = (HERS, 40000 + transceiver)
        self.client = world.call(transceiver, address=self.address, impairment=FAR_AWAY, rewrite=keep)
        self.server = read_answer(answers[0]).ice
        self.ufrag = self.client.core.offer().partition("ice-ufrag:")[2].split()[0]

    def checks(self) -> list[bytes]:
        return checks(1, self.server, self.ufrag)


def addresses(number: int) -> list[Address]:
    return [(f"198.18.{index % 200}.1", 10000 + index // 200) for index in range(number)]


def assert_lossless(world: FloodedWorld, clients: list[SimulatedClient]) -> None:
    """Assert that every packet came back, except packets in flight."""
    for client in clients:
        assert len(client.sent) - len(client.received) < 10
    assert not [event for there in world.transceivers for event in there.events if isinstance(event, CallEnded)]


@pytest.mark.parametrize("forged", [False, True], ids=["junk", "wrong MESSAGE-INTEGRITY"])
def test_an_unauthenticated_client_gets_no_answer_and_leaves_no_state(*, forged: bool) -> None:
    world = FloodedWorld()
    callers = world.live_calls(3)
    attacker = Attacker(world)
    world.run(1)
    live = world.find(callers[0])
    assert live is not None
    tokens = [attacker.server.ufrag, live.ufrags[0].decode()]
    wrong = [request for ufrag in tokens for request in checks(1, IceParameters(ufrag, "wrong" * 5), "them")]
    flows, paths = len(world.relay.flows), len(world.transceivers[0].router.paths)
    spoofed_sources = addresses(5000)
    world.flood(wrong if forged else junk(1), spoofed_sources)
    assert not any(world.got[source] for source in spoofed_sources)
    assert (len(world.relay.flows), len(world.transceivers[0].router.paths)) == (flows, paths)
    assert_lossless(world, callers)


@pytest.mark.parametrize("connected", [True, False])
@pytest.mark.parametrize("spoofed_sources", [1, 20, 3000])
def test_a_spoofed_source_receives_at_most_three_times_what_was_sent_from_it(
    spoofed_sources: int, *, connected: bool
) -> None:
    """Valid checks, half of them nominations, for the attackers' calls at both transceivers."""
    world = FloodedWorld(transceivers=2)
    callers = world.live_calls(4)
    attackers = [Attacker(world, number) for number in (0, 1)]
    for attacker in attackers:
        attacker.client.honest = connected
        if not connected:
            attacker.client.vanish()
    world.observers.append(world.check_bounds)
    targets = addresses(spoofed_sources)
    world.flood([request for attacker in attackers for request in attacker.checks()], targets)
    world.run(10)
    assert any(world.got[target] for target in targets)
    for target in targets:
        assert world.got[target] <= AMPLIFICATION_LIMIT * world.claimed[target]
    assert all(len(client.sent) - len(client.received) < 10 for client in callers)


def test_a_client_receives_no_packets_of_a_call_that_claims_its_address() -> None:
    world = FloodedWorld(transceivers=2)
    callers = world.live_calls(4)
    attackers = [Attacker(world, number) for number in (0, 1)]
    world.run(1)
    requests = [request for attacker in attackers for request in attacker.checks()]
    theirs = {request[8:20] for request in requests} | {attacker.ufrag.encode() for attacker in attackers}
    foreign: list[bytes] = []

    def observe(client: SimulatedClient, data: bytes, upwards: bool) -> None:
        if not upwards and client in callers and any(mark in data for mark in theirs):
            foreign.append(data)

    world.observe_datagram = observe
    world.flood(requests, [caller.address for caller in callers])
    assert_lossless(world, callers)
    assert not foreign


def test_media_does_not_follow_a_nomination_to_a_spoofed_source() -> None:
    """All traffic of the attacker has the victim's source address, media included. The victim answers nothing."""
    world = FloodedWorld()
    attacker = Attacker(world)
    assert world.run(SETUP_SECONDS, lambda: attacker.client.connected)
    attacker.client.talk()
    world.run(1)
    world.disguise = lambda data, source: VICTIM if source == attacker.address else source
    world.run(8)
    assert world.claimed[VICTIM] > 0
    assert world.got[VICTIM] <= AMPLIFICATION_LIMIT * world.claimed[VICTIM]
    call = world.find(attacker.client)
    assert call is not None
    assert call.agent.selected is not None
    assert call.agent.selected.host == HERS


def test_a_handshake_validates_only_the_address_that_its_flights_were_sent_to() -> None:
    """The attacker reads the handshake at its own address, and completes it from the victim's."""
    world = FloodedWorld()
    attacker = Attacker(world)
    requests = attacker.checks()
    world.send_to_relay(requests[0], attacker.address)
    world.send_to_relay(requests[0], VICTIM)

    def disguise(data: bytes, source: Address) -> Address:
        done = source == attacker.address and attacker.client.connected
        return VICTIM if done and classify(data) == Protocol.DTLS else source

    world.disguise = disguise
    assert world.run(SETUP_SECONDS, lambda: (call := world.find(attacker.client)) is not None and call.connected)
    for request in requests[1::2][:50]:
        world.send_to_relay(request, VICTIM)
        world.run(0.1)
    assert world.claimed[VICTIM] > 0
    assert world.got[VICTIM] <= AMPLIFICATION_LIMIT * world.claimed[VICTIM]


@pytest.mark.parametrize("transceiver", [0, 1])
def test_a_client_connects_from_an_address_that_an_attacker_spoofed_before(transceiver: int) -> None:
    """The attacker continues to spoof the address while the call is connected."""
    world = FloodedWorld(transceivers=2)
    attacker = Attacker(world)
    requests = attacker.checks()

    def attack() -> None:
        for request in requests[:100]:
            world.send_to_relay(request, VICTIM)
            world.run(0.02)

    attack()
    caller = world.call(transceiver, address=VICTIM, impairment=FAR_AWAY)
    assert world.run(0.5, lambda: caller.connected)
    caller.talk()
    attack()
    assert len(caller.sent) - len(caller.received) < 10


def test_a_transceiver_drops_downlink_packets() -> None:
    """Its own datagrams, with valid tags, return from the address of a relay."""
    world = FloodedWorld()
    callers = world.live_calls(2)
    there, relay = world.transceivers[0], world.relays[0]
    downwards: list[bytes] = []
    deliver = world.deliver_to_relay

    def record(data: bytes, target: Address, source: Address) -> None:
        downwards.append(data)
        deliver(data, target, source)

    world.deliver_to_relay = record  # type: ignore[method-assign]
    world.run(8)
    media = [data for data in downwards if not data[0] & MESSAGE]
    assert any(data[HEADER_SIZE] <= 3 for data in media)
    counters = there.router.counters
    before = counters.unknown_ufrag, counters.unknown_path, counters.foreign_path
    for data in media:
        there.receive(data, relay.address)
    assert counters.downlink == len(media)
    assert (counters.unknown_ufrag, counters.unknown_path, counters.foreign_path) == before
    world.run(1)
    assert_lossless(world, callers)
