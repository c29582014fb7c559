"""The HELLO of a relay, and the announcements that it receives: paths and moved calls."""

from collections import Counter

import pytest

from antiphon_common.core import Path
from antiphon_common.link import MAX_ANNOUNCED_PATHS, Announce, Confirm, Moved, RelayHello, decode_message
from antiphon_common.routing import Owner
from antiphon_common.sockaddr import encode_address
from antiphon_relay.flows import TAKEOVER_SECONDS
from antiphon_relay.forwarder import HELLO_INTERVAL, MAX_TRANSCEIVERS
from antiphon_relay.redirects import MAX_REDIRECTS, REDIRECT_SECONDS
from support.sim.relay_harness import (
    CLUSTER,
    CLUSTER6,
    FIRST_PORT,
    INGRESS,
    INGRESS6,
    LAST_PORT,
    LINK,
    Relay,
    Seen,
    binding_request,
    client,
)

RTP, ANSWER = b"\x80\x6frtp", b"\x01\x01\x00\x00\x21\x12\xa4\x42" + bytes(12)


@pytest.fixture
def relay() -> Relay:
    return Relay()


def hellos(relay: Relay, seconds: float) -> list[tuple[Path | None, object]]:
    """Return the HELLOs that a relay sends within some seconds, with their targets."""
    relay.wait(seconds)
    return [(seen.link, decode_message(seen.data)) for seen in relay.drain()]


def test_each_transceiver_receives_hello_forty_times_a_second(relay: Relay) -> None:
    assert hellos(relay, 2) == []
    relay.core.set_transceivers([("10.0.0.5", 9000), ("10.0.0.6", 9001), ("10.0.0.5", 9000)])
    links = [Path.of("10.0.0.5", 9000, ingress=LINK), Path.of("10.0.0.6", 9001, ingress=LINK)]
    received = hellos(relay, 1)
    assert {message for _, message in received} == {RelayHello((INGRESS, INGRESS6), 0)}
    counts = Counter(link for link, _ in received)
    assert set(counts) == set(links)
    assert all(abs(count - 1 / HELLO_INTERVAL) <= 1 for count in counts.values())
    relay.core.set_transceivers([("10.0.0.6", 9001)])
    assert {link for link, _ in hellos(relay, 1)} == {links[1]}


def test_each_start_has_a_new_boot_id() -> None:
    boots = set()
    for fill in (b"\1", b"\2"):
        relay = Relay(random=lambda size, fill=fill: fill * size)  # type: ignore[misc]
        relay.core.set_transceivers([("10.0.0.5", 9000)])
        boots |= {message.boot_id for _, message in hellos(relay, 1) if isinstance(message, RelayHello)}
    assert boots == {0x0101010101010101, 0x0202020202020202}


def test_hello_goes_to_a_bounded_number_of_addresses_in_the_transceivers_networks() -> None:
    relay = Relay()
    relay.core.set_transceivers([("10.0.1.5", 9000), ("10.0.0.5", LAST_PORT + 1), ("2001:db8::1", 9000)])
    assert hellos(relay, 1) == []
    everywhere = [(f"10.0.0.{host}", port) for host in range(256) for port in range(FIRST_PORT, LAST_PORT + 1)]
    relay.core.set_transceivers(everywhere)
    assert len({link for link, _ in hellos(relay, 1)}) == MAX_TRANSCEIVERS < len(everywhere)


def test_announced_paths_become_flows_of_their_announcer(relay: Relay) -> None:
    owner, rival = relay.transceiver(9000), relay.transceiver(9001)
    paths = [client(number) for number in range(MAX_ANNOUNCED_PATHS)]
    rival.confirm(paths[0])
    assert owner.send_message(Announce(tuple(paths))) == []
    assert relay.receive(RTP, paths[0]) == [Seen(RTP, paths[0], rival.link)]
    for path in paths[1:]:
        assert relay.receive(RTP, path) == [Seen(RTP, path, owner.link)]
    assert relay.counters.not_owner == 1
    assert relay.core.flows.confirmed == len(paths)


def test_announced_paths_of_an_owner_without_traffic_here_are_not_taken_over(relay: Relay) -> None:
    owner, rival = relay.transceiver(9000), relay.transceiver(9001)
    for _ in range(5):
        owner.send_message(Announce((client(0),)))
        relay.wait(TAKEOVER_SECONDS - 1)
        rival.send_message(Confirm(client(0)))
        assert relay.receive(RTP, client(0)) == [Seen(RTP, client(0), owner.link)]


@pytest.mark.parametrize("sender", ["previous", "successor"])
def test_the_calls_of_one_transceiver_move_to_another(relay: Relay, sender: str) -> None:
    ends = {"previous": relay.transceiver(9000), "successor": relay.transceiver(9001)}
    previous, successor = ends.values()
    request = binding_request(previous.token())
    previous.confirm(client(0))
    previous.send(ANSWER, client(1))
    assert relay.receive(request, client(2)) == [Seen(request, client(2), previous.link)]
    ends[sender].send_message(Moved(previous.owner, successor.owner))
    for path in (client(0), client(1)):
        assert relay.receive(RTP, path) == [Seen(RTP, path, successor.link)]
        assert successor.send(RTP, path) == [Seen(RTP, path)]
    assert relay.receive(request, client(2)) == [Seen(request, client(2), successor.link)]
    assert previous.send(RTP, client(0)) == []


def test_only_previous_owner_and_successor_may_redirect_calls(relay: Relay) -> None:
    previous, successor, rival = (relay.transceiver(port) for port in (9000, 9001, 9002))
    previous.confirm(client(0))
    outside = Owner(CLUSTER, 5, LAST_PORT + 1)
    for moved in (
        Moved(previous.owner, successor.owner),
        Moved(previous.owner, previous.owner),
        Moved(rival.owner, outside),
        Moved(outside, rival.owner),
    ):
        rival.send_message(moved)
    assert relay.counters.moved_refused == 4
    assert relay.receive(RTP, client(0)) == [Seen(RTP, client(0), previous.link)]


def test_a_redirect_ends_when_moved_is_not_repeated(relay: Relay) -> None:
    previous, successor = relay.transceiver(9000), relay.transceiver(9001)
    request = binding_request(previous.token())
    for _ in range(3):
        successor.send_message(Moved(previous.owner, successor.owner))
        relay.wait(REDIRECT_SECONDS - 5)
        assert relay.receive(request, client(0)) == [Seen(request, client(0), successor.link)]
    relay.wait(10)
    assert relay.receive(request, client(0)) == [Seen(request, client(0), previous.link)]


def test_a_cached_token_leads_to_its_owner_again_after_its_redirect_ends(relay: Relay) -> None:
    previous, successor = relay.transceiver(9000), relay.transceiver(9001)
    request = binding_request(previous.token())
    relay.wait(3)
    successor.send_message(Moved(previous.owner, successor.owner))
    relay.wait(REDIRECT_SECONDS - 1)
    assert relay.receive(request, client(0)) == [Seen(request, client(0), successor.link)]
    relay.wait(2.5)
    assert relay.receive(request, client(0)) == [Seen(request, client(0), previous.link)]


def test_redirects_are_followed_from_owner_to_owner_and_back(relay: Relay) -> None:
    first, second, third = (relay.transceiver(port) for port in (9000, 9001, 9002))
    request = binding_request(first.token())
    first.confirm(client(0))
    for previous, successor in ((first, second), (second, third), (third, first)):
        successor.send_message(Moved(previous.owner, successor.owner))
        assert relay.receive(RTP, client(0)) == [Seen(RTP, client(0), successor.link)]
        assert relay.receive(request, client(1)) == [Seen(request, client(1), successor.link)]


def test_redirects_are_bounded(relay: Relay) -> None:
    successor = relay.transceiver(9000)
    for number in range(MAX_REDIRECTS + 10):
        previous = Owner(CLUSTER, 10 + number // 10, FIRST_PORT + number % 10)
        successor.send_message(Moved(previous, successor.owner))
    assert len(relay.core.redirects) == MAX_REDIRECTS
    assert relay.counters.moved_refused == 10


def test_a_successor_of_another_address_family_is_refused(relay: Relay) -> None:
    """A successor of another address family: its address would not fit the link's socket."""
    previous = relay.transceiver()
    previous.confirm(client(0))
    previous.send_message(Moved(previous.owner, Owner(CLUSTER6, 5, FIRST_PORT)))
    assert relay.counters.moved_refused == 1
    assert relay.receive(RTP, client(0)) == [Seen(RTP, client(0), previous.link)]
    request = binding_request(previous.token())
    assert relay.receive(request, client(1)) == [Seen(request, client(1), previous.link)]


def test_an_address_is_redirected_only_while_its_calls_are_elsewhere(relay: Relay) -> None:
    """Cached flows name addresses. A redirect ends when its calls return, or when it is not repeated."""
    previous, successor = relay.transceiver(9000), relay.transceiver(9001)
    redirects = relay.core.redirects
    theirs, ours = (encode_address(end.link.host, end.link.port) for end in (previous, successor))
    assert redirects.follow_address(theirs) == theirs
    successor.send_message(Moved(previous.owner, successor.owner))
    assert redirects.follow_address(theirs) == ours
    previous.send_message(Moved(successor.owner, previous.owner))
    assert redirects.follow_address(theirs) == theirs
    assert redirects.follow_address(ours) == theirs
    relay.wait(REDIRECT_SECONDS + 1)
    assert redirects.follow_address(ours) == ours
