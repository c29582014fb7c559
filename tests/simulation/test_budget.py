"""Ten calls. One exceeds its budget: it is slowed, counted, reported once and ended. The others lose nothing."""

from contextlib import suppress
from typing import Any

import pytest

from antiphon.client.descriptions import read_answer
from antiphon_common import frames
from antiphon_transceiver.budget import BURST, EVENT, OVER_SECONDS, RATE, price_of
from antiphon_transceiver.call import Call
from antiphon_transceiver.call_router import CallEnded, CallThrottled
from antiphon_transceiver.ice.paths import MAX_PATHS
from antiphon_transceiver.outcome import EndReason
from antiphon_transceiver.sctp.association import BufferFullError
from support.floods.packet_flood import checks
from support.net.impairment import Impairment
from support.sim.actors import SimulatedClient
from support.sim.world import World

CALLS = 10
SETUP_SECONDS = 5.0
FAR_AWAY, NEAR = Impairment(delay=0.025), Impairment(delay=0.0005)
RTP, RTCP, DTLS, STUN = b"\x80\x6f", b"\x80\xc9", b"\x17\xfe\xfd\0\1", b"\x01\x01\0\0\x21\x12\xa4\x42"
MBIT = 1_000_000 / 8
EVENTS_IN_ONE = 1200 // 28
"""Events of 12 bytes, each a DATA chunk (RFC 9260 §3.3.1), in one datagram."""


class BudgetScene:
    """Calls that send audio. The first one exceeds its budget, from the maximum number of addresses."""

    def __init__(self, seed: int = 5) -> None:
        answers: list[str] = []

        def keep(answer: str) -> str:
            answers.append(answer)
            return answer

        self.world = world = World(seed)
        self.greedy, *self.others = [
            world.call(impairment=FAR_AWAY if number else NEAR, rewrite=keep, data_channels=True)
            for number in range(CALLS)
        ]
        assert world.run(SETUP_SECONDS, lambda: all(client.connected for client in world.clients))
        for client in self.others:
            client.talk()
        world.run(1.0)
        self.router = world.transceivers[0].router
        found = world.find(self.greedy)
        assert found is not None
        self.call: Call = found
        self.addresses = [self.greedy.address, *((f"198.51.100.{number}", 5000) for number in range(1, MAX_PATHS))]
        remote = self.greedy.core.offer().partition("ice-ufrag:")[2].split()[0]
        self._checks = checks(seed, read_answer(answers[0]).ice, remote)
        self.spent = 0.0
        self._meter()

    def _meter(self) -> None:
        """Add up the prices of the inputs of the call."""
        call = self.call
        receive_datagram = call.receive_datagram

        def metered(data: bytes, source: Any, now: float) -> None:
            self.spent += price_of(data)
            receive_datagram(data, source, now)

        call.receive_datagram = metered  # type: ignore[method-assign]

    def flood(self, datagram: bytes, rate: float, seconds: float) -> None:
        """Send datagrams of the first call from all its addresses in turn, until it ends."""
        world, sent = self.world, 0
        began = world.now
        next_check = began
        while world.now < began + seconds and self.call in list(self.router):
            if world.now >= next_check:
                next_check += 2.0
                for address in self.addresses:
                    world.send_to_relay(self._checks[sent % len(self._checks)], address)
            due = round((world.now - began + 0.01) * rate)
            for number in range(sent, due):
                world.send_to_relay(datagram, self.addresses[number % MAX_PATHS])
            sent = due
            world.run(0.01)

    def of_kind(self, kind: type[CallThrottled] | type[CallEnded]) -> list[Any]:
        return [event for event in self.world.transceivers[0].events if isinstance(event, kind)]

    def check_others(self) -> None:
        """Assert that the other calls have lost no packet, except packets in flight."""
        assert all(len(client.sent) - len(client.received) < 10 for client in self.others)
        assert all(self.world.find(client) is not None for client in self.others)


@pytest.mark.parametrize(
    ("datagram", "size"),
    [(RTP, 40), (RTCP, 1200), (DTLS, 1200), (STUN, 40)],
    ids=["SRTP", "SRTCP", "DTLS", "STUN response"],
)
def test_a_flood_over_every_path_of_a_call_affects_that_call_only(datagram: bytes, size: int) -> None:
    """8,000 packets per second, 500 by each of 16 paths: the most that a relay forwards."""
    scene = BudgetScene()
    scene.flood(datagram.ljust(size, b"\1"), 8000, 2.0)
    assert 0.9 * RATE * 2.0 <= scene.spent <= BURST + RATE * 2.0
    assert [event.call for event in scene.of_kind(CallThrottled)] == [scene.call]
    assert not scene.of_kind(CallEnded)
    scene.check_others()


def test_a_call_over_its_budget_for_long_ends_and_other_calls_lose_nothing() -> None:
    scene = BudgetScene()
    began = scene.world.now
    scene.flood(RTP.ljust(40, b"\1"), 8000, OVER_SECONDS + 2)
    elapsed = scene.world.now - began
    assert scene.spent <= BURST + RATE * elapsed
    (end,) = scene.of_kind(CallEnded)
    assert (end.call, end.reason) == (scene.call, EndReason.OVER_BUDGET)
    assert OVER_SECONDS <= elapsed <= OVER_SECONDS + 1
    assert [event.call for event in scene.of_kind(CallThrottled)] == [scene.call]
    status = scene.router.status(scene.call.id, "tenant", scene.world.now)
    assert status is not None
    assert status.statistics["throttled"] == scene.router.counters.throttled > 0
    scene.check_others()


@pytest.mark.parametrize("datagram", [RTP, RTCP, DTLS, STUN], ids=["SRTP", "SRTCP", "DTLS", "STUN response"])
@pytest.mark.parametrize("size", [20, 1200])
def test_a_megabit_per_second_of_the_most_expensive_inputs_stays_within_the_budget(datagram: bytes, size: int) -> None:
    scene = BudgetScene()
    began = scene.world.now
    scene.flood(datagram.ljust(size, b"\1"), MBIT / size, 5)
    assert scene.spent <= BURST + RATE * (scene.world.now - began)
    scene.check_others()


@pytest.mark.parametrize("message", ['{"type":"x"}', "no event at."], ids=["events", "no events"])
def test_each_of_many_tiny_messages_is_charged(message: str) -> None:
    """10,000 messages per second, many per datagram. Losses slow the sender (RFC 9260 §7.2)."""
    scene = BudgetScene()
    world, channels = scene.world, scene.call.channels
    assert channels is not None
    began = world.now
    while world.now < began + 3:
        with suppress(BufferFullError):
            for _ in range(100):
                scene.greedy.core.send_message(message)
        world.touch(scene.greedy)
        world.run(0.01)
    taken = channels.counters.received + channels.counters.malformed
    assert taken * EVENT.base + scene.spent <= BURST + RATE * (world.now - began) + EVENTS_IN_ONE * EVENT.base
    assert taken * EVENT.base > 0.1 * RATE
    assert scene.router.counters.throttled
    scene.check_others()


def test_a_call_ends_when_its_backend_floods_it_with_frames() -> None:
    scene = BudgetScene()
    world = scene.world
    flood = [frames.Clear(scene.call.backend.number, 0)] * frames.MAX_FRAMES
    for _ in range(5):
        world.receive_from_backend(world.transceivers[0], frames.encode(flood))
    world.drain()
    world.run(1)
    assert [(end.call, end.reason) for end in scene.of_kind(CallEnded)] == [(scene.call, EndReason.OVER_BUDGET)]
    scene.check_others()


def test_audio_feedback_and_long_messages_of_a_caller_stay_within_the_budget() -> None:
    scene = BudgetScene()
    client: SimulatedClient = scene.greedy
    client.talk()
    for _ in range(5):
        client.core.send_message('{"type":"x","audio":"' + "A" * 200_000 + '"}')
        scene.world.touch(client)
        scene.world.run(3)
    assert scene.router.counters.throttled == 0
    assert scene.world.find(client) is scene.call
    scene.check_others()
