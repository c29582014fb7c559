"""Whole calls in memory: their media, their ends, and the isolation of calls from each other."""

import re

import pytest

from antiphon.client.call import AudioReceived, ClientClosed
from antiphon_common import frames
from antiphon_common.control import IceParameters
from antiphon_transceiver.backends.call import RESUME_SECONDS
from antiphon_transceiver.call_router import CallEnded, CallReported
from antiphon_transceiver.ice import MAX_GENERATIONS
from antiphon_transceiver.ice_restarts import MAX_RESTARTS, RESTART_SECONDS, RESTARTS_AT_ONCE, TooManyRestarts
from antiphon_transceiver.outcome import EndReason
from support.net.impairment import PERFECT, ImpairedLink, Impairment
from support.sim.world import SimulatedClient, World, certificate, opus_packet

SETUP_SECONDS = 5.0
FAR_AWAY = Impairment(delay=0.025)


def start(world: World, *, calls: int = 1, impairment: Impairment = FAR_AWAY) -> list[SimulatedClient]:
    """Return calls that are connected and send audio."""
    clients = [world.call(impairment=impairment) for _ in range(calls)]
    assert world.run(SETUP_SECONDS, lambda: all(client.connected for client in clients))
    for client in clients:
        client.next_frame = world.now
    return clients


def received_by(client: SimulatedClient) -> list[bytes]:
    return [event.payload for event in client.events if isinstance(event, AudioReceived)]


def ends(world: World) -> list[CallEnded]:
    return [event for there in world.transceivers for event in there.events if isinstance(event, CallEnded)]


def test_every_packet_is_echoed_in_order() -> None:
    world = World()
    (client,) = start(world)
    world.run(5)
    client.next_frame = None
    world.run(1)
    assert len(client.sent) > 240
    assert received_by(client) == client.sent


def test_a_call_continues_with_loss_and_plays_packets_in_order() -> None:
    world = World(seed=7)
    (client,) = start(world, impairment=Impairment(delay=0.025, loss=0.05, reordering=0.1, duplication=0.02))
    client.downlink = ImpairedLink(PERFECT, world.random)  # what leaves the server is to be seen as it left
    world.run(20)
    numbers = [packet[1:5] for packet in received_by(client)]
    assert numbers == sorted(set(numbers))
    assert len(numbers) > 0.85 * len(client.sent)


def test_a_call_connects_within_the_round_trips_of_ice_and_dtls() -> None:
    """The offer is answered at once here, so only ICE and DTLS count. They are check, answer with ClientHello, and
    three more flights."""
    world = World()
    client = world.call(impairment=FAR_AWAY)
    assert world.run(SETUP_SECONDS, lambda: client.connected)
    assert world.now < 6 * 0.025 + 0.02


def test_close_notify_frees_all_state_of_the_call_at_once() -> None:
    world = World()
    (client, other) = start(world, calls=2)
    world.run(1)
    client.core.close(world.now)
    world.drain()
    world.run(0.1)
    assert world.find(client) is None
    assert [event.reason for event in ends(world)] == [EndReason.CLOSE_NOTIFY]
    world.run(1)
    assert world.find(other) is not None
    assert len(world.relay.flows) == 1
    assert len(world.transceivers[0].router.paths) == 1


def test_a_silent_client_is_disconnected_after_five_seconds_and_freed_after_thirty() -> None:
    world = World()
    (client,) = start(world)
    world.run(1)
    client.vanish()
    vanished = world.now
    world.run(40)
    reports = [event for event in world.transceivers[0].events if isinstance(event, CallReported)]
    assert [type(report.event).__name__ for report in reports] == ["MediaStarted", "Disconnected"]
    assert [event.reason for event in ends(world)] == [EndReason.PEER_SILENT]
    router = world.transceivers[0].router
    assert len(router) == len(router.paths) == 0
    assert len(world.relay.flows) == 0
    assert world.now - vanished == pytest.approx(40, abs=1)


def test_a_path_whose_release_was_lost_is_released_again_at_the_end_of_the_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    (client,) = start(world)
    client.vanish()
    with monkeypatch.context() as lossy:
        lossy.setattr(world, "deliver_to_relay", lambda data, target, source: None)
        world.run(10)
    assert len(world.relay.flows) == 1
    assert world.transceivers[0].router.paths.confirmed == 0
    assert world.run(30, lambda: world.find(client) is None)
    world.run(0.1)
    assert len(world.relay.flows) == 0


def test_an_exception_in_one_call_ends_only_that_call(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    victim, *others = start(world, calls=3)
    world.run(1)
    broken = world.find(victim)
    assert broken is not None

    def explode(packet: bytes, now: float) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr(broken.stream, "receive_rtp", explode)
    before = [len(received_by(client)) for client in others]
    world.run(2)
    (end,) = ends(world)
    assert end.reason is EndReason.INTERNAL_ERROR
    assert isinstance(end.error, RuntimeError)
    assert world.find(victim) is None
    assert all(len(received_by(client)) - was > 95 for client, was in zip(others, before, strict=True))


@pytest.mark.parametrize(
    ("make_bad_frame", "ended"),
    [
        (lambda call: [6, call, "no bytes"], [EndReason.BACKEND_ERROR]),
        (lambda call: [6, call, b"\x0f" * 1500, 0, 0, 99], [EndReason.BACKEND_ERROR]),
        (lambda call: [99, call, "from the future"], []),
        (lambda call: [17, call, {"type": "server event"}], []),
    ],
    ids=["malformed audio", "audio of no response", "unknown tag", "reserved tag"],
)
def test_a_malformed_frame_ends_its_call_and_an_unknown_tag_ends_none(make_bad_frame, ended: list[EndReason]) -> None:  # type: ignore[no-untyped-def]
    world = World()
    victim, other = start(world, calls=2)
    world.run(1)
    call = world.find(victim)
    assert call is not None
    world.receive_from_backend(world.transceivers[0], frames.encode([make_bad_frame(call.backend.number)]))
    world.drain()
    before = len(received_by(other))
    world.run(2)
    assert [end.reason for end in ends(world)] == ended
    assert (world.find(victim) is None) == bool(ended)
    assert len(received_by(other)) - before > 95


def test_a_call_ends_when_its_backend_exceeds_the_credit() -> None:
    world = World()
    victim, other = start(world, calls=2)
    world.run(1)
    call = world.find(victim)
    assert call is not None
    flood = [frames.Audio(call.backend.number, opus_packet(number), response=1) for number in range(500)]
    world.receive_from_backend(world.transceivers[0], frames.encode(flood))
    world.drain()
    world.run(1)
    assert [end.reason for end in ends(world)] == [EndReason.BACKEND_ERROR]
    assert world.find(other) is not None


def test_calls_continue_after_their_backend_fails_and_end_if_none_returns() -> None:
    world = World()
    clients = start(world, calls=2)
    backend = world.transceivers[0].backends[0]
    backend.die(away=2.0)
    world.run(2.5)
    before = [len(received_by(client)) for client in clients]
    world.run(1)
    assert ends(world) == []
    assert all(len(received_by(client)) - was >= 48 for client, was in zip(clients, before, strict=True))
    backend.die(away=RESUME_SECONDS + 1)
    world.run(RESUME_SECONDS + 1)
    assert [end.reason for end in ends(world)] == [EndReason.BACKEND_LOST] * 2
    assert all(isinstance(client.events[-1], ClientClosed) for client in clients)


@pytest.mark.parametrize(
    ("impairment", "pattern", "replacement", "reason"),
    [
        (Impairment(loss=1.0), "$^", "", EndReason.NO_STUN),
        (Impairment(), "ice-pwd:.*", "ice-pwd:" + "x" * 24, EndReason.BAD_CREDENTIALS),
        (Impairment(), "a=fingerprint:.*", "a=fingerprint:sha-256 " + ":".join(["00"] * 32), EndReason.DTLS_ALERT),
    ],
    ids=["nothing arrives", "wrong password", "the client refuses our certificate"],
)
def test_a_call_that_does_not_connect_ends_with_one_reason(
    impairment: Impairment, pattern: str, replacement: str, reason: EndReason
) -> None:
    world = World()
    world.call(
        impairment=impairment, rewrite=lambda answer: re.sub(pattern, replacement, answer) if pattern else answer
    )
    world.run(60)
    assert [end.reason for end in ends(world)] == [reason]


def test_a_client_whose_certificate_does_not_match_its_offer_is_refused() -> None:
    world = World()
    client = world.call(presents=certificate("somebody else"))
    assert world.run(5, lambda: client.core.closed is not None)
    assert [end.reason for end in ends(world)] == [EndReason.CERTIFICATE_MISMATCH]


def test_a_call_continues_when_the_address_of_its_client_changes() -> None:
    world = World()
    (client,) = start(world)
    world.run(3)
    before = len(received_by(client))
    client.address = ("203.0.113.77", 1234)
    moved = world.now
    assert world.run(10, lambda: len(received_by(client)) > before + 25)
    assert world.now - moved < 7.0  # the next consent check, and one round trip for our own
    assert ends(world) == []


def test_an_ice_restart_keeps_the_owner_the_keys_and_the_backend_call() -> None:
    world = World(transceivers=2)
    (client,) = start(world)
    world.run(2)
    call = world.find(client)
    assert call is not None
    for _ in range(6):  # more than are kept, so that the oldest make room
        world.restart_ice(client)
        world.run(1)
    client.next_frame = None
    world.run(1)
    assert world.find(client) is call
    assert received_by(client) == client.sent
    assert len(call.ufrags) == MAX_GENERATIONS


def test_ice_restarts_are_limited_in_rate_and_in_total() -> None:
    """Each restart makes a route token. A client with an unstable network has enough of them."""
    world = World()
    (client,) = start(world)
    call, router, remote = world.find(client), world.transceivers[0].router, IceParameters("them", "password" * 3)
    assert call is not None
    for _ in range(RESTARTS_AT_ONCE):
        assert router.restart_ice(call, remote, world.now)
    ufrags = list(call.ufrags)
    with pytest.raises(TooManyRestarts) as refused:
        router.restart_ice(call, remote, world.now)
    assert refused.value.retry_after == RESTART_SECONDS
    assert call.ufrags == ufrags
    world.run(RESTART_SECONDS + 0.1)
    assert router.restart_ice(call, remote, world.now)
    later = world.now
    for number in range(RESTARTS_AT_ONCE + 1, MAX_RESTARTS):
        assert router.restart_ice(call, remote, later + number * (RESTART_SECONDS + 0.1))
    with pytest.raises(TooManyRestarts) as refused:
        router.restart_ice(call, remote, later + 2 * MAX_RESTARTS * RESTART_SECONDS)
    assert refused.value.retry_after is None
    assert world.find(client) is call


def test_an_ice_restart_from_another_address_takes_at_most_two_round_trips() -> None:
    world = World()
    (client,) = start(world)
    world.run(2)
    client.address = ("203.0.113.88", 2000)
    world.restart_ice(client)
    world.run(2)
    client.next_frame = None
    world.run(1)
    assert len(client.sent) - len(received_by(client)) <= 0.1 / 0.02


def test_one_port_makes_calls_to_two_transceivers_in_succession() -> None:
    world = World(transceivers=2)
    address = ("203.0.113.5", 5000)
    first = world.call(0, address=address)
    assert world.run(SETUP_SECONDS, lambda: first.connected)
    first.core.close(world.now)
    world.drain()
    world.run(0.1)
    world.clients[0].address = ("0.0.0.0", 0)
    second = world.call(1, address=address)
    assert world.run(SETUP_SECONDS, lambda: second.connected)


def test_checks_for_another_call_from_the_address_of_a_caller_have_no_effect() -> None:
    """An attacker spoofs a caller's address in valid checks for its own calls."""
    world = World(seed=3, transceivers=2)
    (victim,) = start(world)
    attackers = [world.call(number, address=("198.51.100.9", 9000 + number)) for number in (0, 1)]
    for attacker in attackers:
        attacker.address = victim.address  # whatever it sends claims to be the victim
        world.clients.remove(attacker)
        world.clients.append(attacker)
    world.run(10)
    assert len(victim.sent) - len(received_by(victim)) < 5
    assert ends(world) == []
    world.run(1)
    assert len(received_by(victim)) > 540
