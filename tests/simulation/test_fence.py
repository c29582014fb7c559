"""Exceptions at every entry into a call. That call ends with `internal_error` and leaves no state. Others continue."""

from operator import attrgetter
from random import Random
from typing import Any

import pytest

from antiphon_common import frames
from antiphon_common.control import IceParameters
from antiphon_common.core import Path
from antiphon_common.link import LinkKeys
from antiphon_common.routing import Owner, RouteTokens
from antiphon_transceiver.call import Call
from antiphon_transceiver.call_router import CallEnded, CallRaised, CallRouter
from antiphon_transceiver.ice import MAX_GENERATIONS
from antiphon_transceiver.outcome import EndReason
from support.floods.packet_flood import check
from support.net.impairment import Impairment
from support.peers.certificates import certificate
from support.sim.actors import INGRESS, UNIX_START, SimulatedClient
from support.sim.relay_cluster import RelayCluster
from support.sim.world import World

SETUP_SECONDS = 5.0
FAR_AWAY = Impairment(delay=0.025)
NEXT_CHECK = 7.0
"""Seconds in which everything happens to a call at rest: media, checks, reports, frames, timers."""


class Planted(RuntimeError):
    """An exception that no code of ours raises."""


class Broken:
    """A substitute for a part of a call, whose named methods raise."""

    def __init__(self, real: Any, *methods: str) -> None:
        self._real = real
        self._methods = methods

    def __getattr__(self, name: str) -> Any:
        return explode if name in self._methods else getattr(self._real, name)


def explode(*arguments: Any, **options: Any) -> None:
    raise Planted


def break_part(part: Any, *methods: str) -> None:
    """Make methods of a part of a call raise."""
    for method in methods:
        setattr(part, method, explode)


class FenceScene:
    """Three calls that send audio. `break_part` breaks one; `check` examines all of them."""

    def __init__(self, *, ingresses: int = 1) -> None:
        self.world = world = RelayCluster(seed=11, relays=ingresses, ingresses=ingresses)
        self.clients = [world.call(impairment=FAR_AWAY, data_channels=True) for _ in range(3)]
        assert world.run(SETUP_SECONDS, lambda: all(client.connected for client in self.clients))
        for client in self.clients:
            client.talk()
        world.run(1.0)
        self.router = world.transceivers[0].router
        self.victim = self.clients[0]
        self.call = self.call_of(self.victim)
        self.others = [self.call_of(client) for client in self.clients[1:]]

    def call_of(self, client: SimulatedClient) -> Call:
        call = self.world.find(client)
        assert call is not None
        return call

    def break_backend(self, *methods: str) -> None:
        broken: Any = Broken(self.call.backend, *methods)
        self.call.backend = self.call.media.backend = broken

    def of_kind(self, kind: type[CallEnded] | type[CallRaised]) -> list[Any]:
        return [event for event in self.world.transceivers[0].events if isinstance(event, kind)]

    def check(self, raised: int = 0) -> None:
        """Let time pass. Check that the broken call left no state and the others continue. `raised` is the number of
        exceptions allowed after its end."""
        world, router = self.world, self.router
        world.run(NEXT_CHECK)
        (end,) = self.of_kind(CallEnded)
        assert (end.call, end.reason, type(end.error)) == (self.call, EndReason.INTERNAL_ERROR, Planted)
        assert [event.call for event in self.of_kind(CallRaised)] == [self.call] * raised
        status = router.status(self.call.id, "tenant", world.now)
        assert status is not None
        assert (status.state, status.reason) == ("ended", EndReason.INTERNAL_ERROR)
        assert list(router) == self.others
        for client, call in zip(self.clients[1:], self.others, strict=True):
            assert len(client.sent) - len(client.received) < 10
            assert self.call_of(client) is call
        paths = {path.encode() for call in self.others for path in call.routes}
        assert len(router.paths) == len(paths)
        assert all(len(relay.core.flows) <= len(paths) for relay in world.relays)
        before = router.counters.unknown_ufrag
        self.victim.core.close(world.now)
        header = LinkKeys(world.keys.link).header(Path.of("198.51.100.1", 1, ingress=INGRESS), 0, UNIX_START)
        router.receive_datagram(header + self.a_check(), world.relays[0].address, world.now)
        assert router.counters.unknown_ufrag == before + 1

    def a_check(self) -> bytes:
        """Return a binding request for the broken call, from an unknown address."""
        return check(Random(1), self.call.ufrags[-1].decode(), "them", "password" * 3)


@pytest.mark.parametrize("method", ["receive_datagram", "handle_timeout", "send_rtp", "send_rtcp"])
def test_an_exception_of_a_transport_ends_only_its_call(method: str) -> None:
    """Datagrams, checks, timers, and sending."""
    scene = FenceScene()
    break_part(scene.call.transport, method)
    scene.check()


@pytest.mark.parametrize("method", ["receive_rtp", "send_uplink", "handle_timeout", "poll_timeout", "play"])
def test_an_exception_of_the_media_ends_only_its_call(method: str) -> None:
    """Packets, timers and backend frames."""
    scene = FenceScene()
    break_part(scene.call.media, method)
    scene.check()


@pytest.mark.parametrize("method", ["receive_rtp", "uplink.poll", "poll_rtp", "poll_rtcp", "poll_feedback"])
def test_an_exception_of_a_stream_ends_only_its_call(method: str) -> None:
    scene = FenceScene()
    *part, name = method.split(".")
    break_part(attrgetter(*part)(scene.call.stream) if part else scene.call.stream, name)
    scene.check()


@pytest.mark.parametrize("method", ["send_audio", "grant"])
def test_an_exception_of_the_backend_side_ends_only_its_call(method: str) -> None:
    scene = FenceScene()
    scene.break_backend(method)
    scene.check()


@pytest.mark.parametrize("entry", ["status", "end", "announce_end", "restart_ice", "receive_frame", "inspect"])
def test_an_exception_in_an_operation_ends_only_its_call(entry: str) -> None:
    """Requests of the control API, a drain, a frame, and statistics."""
    scene = FenceScene()
    router, call, now = scene.router, scene.call, scene.world.now
    break_part(call.stream, "statistics")
    break_part(call.transport, "close")
    break_part(call.channels, "announce_end")
    break_part(call.agent, "restart")
    break_part(call.media, "handle_timeout")
    match entry:
        case "status":
            router.status(call.id, "tenant", now)
        case "end":
            router.end(call, EndReason.HANGUP, "", now)
        case "announce_end":
            router.announce_end(call, "code", "message", now)
        case "restart_ice":
            assert router.restart_ice(call, IceParameters("remote", "password" * 3), now) is None
        case "receive_frame":
            router.receive_frame(call.backend, frames.HangUp(call.backend.number), now)
        case "inspect":
            router.inspect(lambda shown, now: explode() if shown is call else None, now)
    scene.world.drain()
    scene.check()


def test_a_call_ends_although_an_exception_occurs_while_it_ends() -> None:
    """Ending the backend's half raises, both with the call and after the exception."""
    scene = FenceScene()
    scene.break_backend("end")
    scene.router.end(scene.call, EndReason.HANGUP, "", scene.world.now)
    scene.world.drain()
    scene.check(raised=1)


def test_an_exception_after_the_end_of_a_call_is_reported_and_ends_no_other_call() -> None:
    """The close alert is repeated some time after the call has ended (RFC 5246 §7.2.1)."""
    scene = FenceScene()
    scene.router.end(scene.call, EndReason.HANGUP, "", scene.world.now)
    scene.world.drain()
    break_part(scene.call.transport, "handle_timeout")
    scene.world.run(NEXT_CHECK)
    assert [end.reason for end in scene.of_kind(CallEnded)] == [EndReason.HANGUP]
    assert [event.call for event in scene.of_kind(CallRaised)] == [scene.call]
    assert list(scene.router) == scene.others


def test_an_exception_during_a_change_of_ingress_ends_only_that_call() -> None:
    scene = FenceScene(ingresses=2)
    break_part(scene.call.agent, "unreachable")
    scene.world.relays[0].die()
    scene.world.run(NEXT_CHECK)
    assert [(end.call, end.reason) for end in scene.of_kind(CallEnded)] == [(scene.call, EndReason.INTERNAL_ERROR)]
    assert list(scene.router) == scene.others


def test_calls_have_different_ufrags_when_a_nonce_is_drawn_twice() -> None:
    """With repeated entropy, calls and the ICE generations of one call still have different ufrags."""
    world = World()
    there = world.transceivers[0]
    router = there.router = CallRouter(
        Owner(0, 1, 7000),
        RouteTokens(world.keys.route),
        LinkKeys(world.keys.link),
        certificate("transceiver"),
        bytes,
        unix_now=UNIX_START,
        ntp_offset=UNIX_START,
    )
    for _ in range(3):
        world.call()
    calls = list(router)
    for _ in range(MAX_GENERATIONS + 1):
        assert router.restart_ice(calls[0], IceParameters("remote", "password" * 3), world.now) is not None
    ufrags = [ufrag for call in calls for ufrag in call.ufrags]
    assert len(set(ufrags)) == len(ufrags) == 2 + MAX_GENERATIONS
    for call in calls:
        router.end(call, EndReason.HANGUP, "", world.now)
    assert len(router) == 0


def test_a_failed_call_is_not_woken_again() -> None:
    scene = FenceScene()
    break_part(scene.call.transport, "receive_datagram", "handle_timeout")
    break_part(scene.call.media, "handle_timeout", "poll_timeout")
    scene.check()
