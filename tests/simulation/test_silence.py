"""Whole calls whose caller falls silent and returns: relays and transceiver forward its packets again."""

from collections.abc import Callable

import pytest

from antiphon.client.call import AudioReceived
from antiphon_common.core import Path
from antiphon_common.demux import Protocol, classify
from antiphon_transceiver.call_router import CallReported
from antiphon_transceiver.ice import CHECK_AFTER
from antiphon_transceiver.ice.controlled import LONGEST_WAIT
from support.net.impairment import Impairment
from support.sim.world import SimulatedClient, World

ROUND_TRIP = 0.05


def is_media(datagram: bytes) -> bool:
    return classify(datagram) == Protocol.RTP


def is_answer(datagram: bytes) -> bool:
    return classify(datagram) == Protocol.STUN and datagram[0] == 1


class Filter:
    """A filter of the caller's datagrams."""

    def __init__(self, world: World) -> None:
        self.lets: Callable[[bytes], bool] = lambda datagram: True
        self._send = world.send_up
        world.send_up = self.send  # type: ignore[method-assign]

    def send(self, client: SimulatedClient, data: bytes, path: Path | None) -> None:
        if self.lets(data):
            self._send(client, data, path)


def talking() -> tuple[World, SimulatedClient, Filter]:
    world = World()
    filtered = Filter(world)
    client = world.call(impairment=Impairment(delay=ROUND_TRIP / 2))
    assert world.run(5.0, lambda: client.connected)
    client.talk()
    world.run(3.0)
    return world, client, filtered


def packets_received_by(client: SimulatedClient) -> int:
    return sum(isinstance(event, AudioReceived) for event in client.events)


@pytest.mark.parametrize("gap", [4.0, 6.0, 10.0, 15.0, 22.0])
@pytest.mark.parametrize("lets", [is_media, lambda data: is_media(data) or is_answer(data)], ids=["media", "answers"])
def test_audio_resumes_in_both_directions_for_a_caller_that_returns_without_checks(
    gap: float, lets: Callable[[bytes], bool]
) -> None:
    """Some clients check only until they connect. Afterwards they send media and answers to our checks."""
    world, client, filtered = talking()
    filtered.lets = lambda datagram: False
    world.run(gap)
    before, back = packets_received_by(client), world.now
    filtered.lets = lets
    assert world.run(LONGEST_WAIT + 2 * ROUND_TRIP, lambda: packets_received_by(client) > before)
    if gap >= 10.0:
        assert world.now - back < 3 * ROUND_TRIP, "our checks hold the path open"
    world.run(2.0)
    call = world.find(client)
    assert call is not None
    assert call.state == "connected"
    assert packets_received_by(client) > before + 90


def test_the_path_of_a_caller_that_returned_with_media_is_confirmed_again() -> None:
    world, _, filtered = talking()
    confirmed = world.transceivers[0].router.paths.confirmed
    filtered.lets = lambda datagram: False
    world.run(10.0)
    assert world.transceivers[0].router.paths.confirmed == 0
    filtered.lets = is_media
    world.run(1.0)
    assert world.transceivers[0].router.paths.confirmed == confirmed == 1


def test_another_caller_can_use_the_address_of_a_silent_caller() -> None:
    """A NAT reassigned the address. Our checks of the silent call do not claim it."""
    world, silent, filtered = talking()
    filtered.lets = lambda datagram: False
    world.run(2 * CHECK_AFTER + 4.0)
    filtered.lets = lambda datagram: True
    silent.vanish()
    other = world.call(address=silent.address, impairment=Impairment(delay=ROUND_TRIP / 2))
    assert world.run(3.0, lambda: other.connected)
    other.talk()
    world.run(10.0)
    assert packets_received_by(other) > 480
    reports = [event for event in world.transceivers[0].events if isinstance(event, CallReported)]
    assert all(report.call is not world.find(other) for report in reports if "Disconnected" in str(report.event))


def test_checks_of_a_silent_call_do_not_claim_the_provisional_path_of_another_caller() -> None:
    world, silent, filtered = talking()
    silent.vanish()
    world.run(8.0)
    filtered.lets = lambda datagram: classify(datagram) == Protocol.STUN and not is_answer(datagram)
    other = world.call(address=silent.address, impairment=Impairment(delay=ROUND_TRIP / 2))
    world.run(0.5)
    paths = world.transceivers[0].router.paths
    assert paths.confirmed == 0
    for _ in range(16):
        assert paths.lookup(other.key) is world.find(other)
        world.run(0.25)
    assert world.find(silent) is not None, "it is silent still, and checks"
