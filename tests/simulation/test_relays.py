"""Calls over a cluster's relays while relays fail, restart or share packets, and while a transceiver moves."""

from collections.abc import Callable

import pytest

from antiphon_common.core import Path
from antiphon_common.routing import Owner
from antiphon_transceiver.call_router import CallEnded
from support.net.impairment import Impairment
from support.sim.relay_cluster import Gaps, RelayCluster
from support.sim.world import SimulatedClient

FAR_AWAY = Impairment(delay=0.025)
SETUP_SECONDS = 5.0
CALLS = 6
LONGEST_GAP = 0.15
"""Longest gap in seconds after a relay fails, including the move of the shared address."""
USUAL_GAP = 0.06
"""Seconds between packets where nothing is lost: each has 20 ms, and a story may begin anew."""
CLIENT_MOVES_AFTER = 3.7
"""Seconds until Chromium changes to another path."""

Fault = Callable[[RelayCluster], None]


def start(
    world: RelayCluster, calls: int = CALLS, *, behaviour: str = "loopback", speaking: bool = True
) -> list[SimulatedClient]:
    """Return calls that have been connected for a while."""
    clients = [world.call(impairment=FAR_AWAY, behaviour=behaviour) for _ in range(calls)]
    assert world.run(SETUP_SECONDS, lambda: all(client.connected for client in clients))
    for client in clients:
        if speaking:
            client.talk()
    world.run(2.0)
    return clients


def endings(world: RelayCluster) -> list[CallEnded]:
    return [event for there in world.transceivers for event in there.events if isinstance(event, CallEnded)]


def relay_of(world: RelayCluster, client: SimulatedClient) -> str:
    """Return the relay by which a call's transceiver reaches its caller."""
    call = world.find(client)
    assert call is not None
    status = call.status()
    assert status is not None
    return str(status.statistics["relay"])


def one_dies(world: RelayCluster) -> None:
    world.kill(world.relays[0])


def one_loses_its_address(world: RelayCluster) -> None:
    world.move_from(world.relays[0])


def one_begins_anew(world: RelayCluster) -> None:
    world.restart(world.relays[0])


def all_begin_anew(world: RelayCluster) -> None:
    for relay in world.relays:
        world.restart(relay)


@pytest.mark.parametrize(
    ("behaviour", "speaking"),
    [("loopback", True), ("stories", False), ("silent", True)],
    ids=["both speak", "the caller listens", "the caller speaks"],
)
@pytest.mark.parametrize(
    ("fault", "longest"),
    [
        (one_dies, LONGEST_GAP),
        (one_loses_its_address, USUAL_GAP),
        (one_begins_anew, USUAL_GAP),
        (all_begin_anew, USUAL_GAP),
    ],
    ids=["one dies", "one loses its address", "one begins anew", "all begin anew"],
)
def test_failing_relays_cause_short_gaps(fault: Fault, longest: float, behaviour: str, speaking: bool) -> None:
    world = RelayCluster()
    clients = start(world, behaviour=behaviour, speaking=speaking)
    assert {world.serving(client) for client in clients} == set(world.relays)
    gaps = [Gaps(world, client) for client in clients]
    fault(world)
    world.run(5.0)
    assert endings(world) == []
    if speaking:
        assert max(gap.up for gap in gaps) < longest
    if behaviour != "silent":
        assert max(gap.down for gap in gaps) < longest


def test_a_relay_that_joins_receives_the_calls_before_their_packets() -> None:
    world = RelayCluster()
    world.kill(world.relays[1])
    clients = start(world)
    gaps = [Gaps(world, client) for client in clients]
    world.run(1.0)
    world.restart(world.relays[1])
    assert any(world.serving(client) is world.relays[1] for client in clients)
    world.run(5.0)
    assert max(max(gap.up, gap.down) for gap in gaps) < USUAL_GAP
    assert all(
        relay_of(world, client) == f"10.0.0.{world.relays.index(serving) + 1}:7000"
        for client in clients
        if (serving := world.serving(client)) is not None
    )


def test_no_packet_is_lost_when_packets_are_sprayed_over_all_relays() -> None:
    world = RelayCluster(relays=3, spray=True)
    clients = start(world)
    gaps = [Gaps(world, client) for client in clients]
    world.run(5.0)
    assert max(max(gap.up, gap.down) for gap in gaps) < USUAL_GAP


def test_downlink_media_follows_only_authenticated_packets() -> None:
    world = RelayCluster()
    (client,) = start(world, 1)
    old = world.serving(client)
    (new,) = (relay for relay in world.relays if relay is not old)
    assert old is not None
    captured: list[bytes] = []
    world.observe_datagram = lambda client, data, up: captured.append(data) if up and data[0] >= 0x80 else None
    world.run(0.1)
    before = relay_of(world, client)
    for data in (b"\x80" + bytes(40), *captured):  # forged and replayed, from the caller's address
        new.receive_media(data, client.address)
        world.run(0.01)
    assert relay_of(world, client) == before == f"{old.address[0]}:{old.address[1]}"
    world.move_from(old)
    assert world.run(0.05, lambda: relay_of(world, client) != before)


def test_a_call_continues_over_another_ingress() -> None:
    world = RelayCluster(ingresses=2)
    (client,) = start(world, 1)
    gaps = Gaps(world, client)
    assert relay_of(world, client) == "10.0.0.1:7000"
    world.kill(world.relays[0])
    world.run(CLIENT_MOVES_AFTER)
    assert relay_of(world, client) == "10.0.0.2:7000"
    assert client.core.transport is not None
    client.core.agent.nominate(Path.of(*world.ingresses[2]), world.now)
    client.core.transport.flush(world.now)
    world.run(1.0)
    assert endings(world) == []
    assert gaps.up < CLIENT_MOVES_AFTER + 0.2
    later_gaps = Gaps(world, client)
    world.run(2.0)
    assert max(later_gaps.up, later_gaps.down) < USUAL_GAP


def test_a_caller_that_only_listens_receives_from_the_other_ingress_at_once() -> None:
    world = RelayCluster(ingresses=2)
    clients = start(world, behaviour="stories", speaking=False)
    gaps = [Gaps(world, client) for client in clients]
    world.kill(world.relays[0])
    world.run(CLIENT_MOVES_AFTER)
    assert max(gap.down for gap in gaps) < LONGEST_GAP


def test_calls_continue_when_the_address_of_their_transceiver_changes() -> None:
    world = RelayCluster()
    clients = start(world)
    gaps = [Gaps(world, client) for client in clients]
    world.relocate(world.transceivers[0], ("10.0.1.9", 7000))
    world.run(2.0)
    all_begin_anew(world)
    world.run(8.0)  # past the next checks, whose tokens name the old address
    assert endings(world) == []
    assert max(max(gap.up, gap.down) for gap in gaps) < USUAL_GAP


def test_packets_for_a_previous_owner_reach_its_successor() -> None:
    world = RelayCluster(transceivers=2)
    clients = start(world, 3)
    gone, successor = (there.router for there in world.transceivers)
    for client in clients:
        client.home = world.transceivers[1].encoded_address
    successor.claim_calls(Owner(0, 1, 7000), world.now)
    world.touch(world.transceivers[1])
    world.run(0.1)
    packets = gone.counters.received - gone.counters.messages
    said = sum(len(client.sent) for client in clients)
    world.run(10.0)
    assert gone.counters.received - gone.counters.messages == packets
    assert successor.counters.unknown_path > sum(len(client.sent) for client in clients) - said
    assert successor.counters.unknown_ufrag >= len(clients)
