"""A transceiver's state of its relays: which live, which replace others, and what each receives and when."""

import pytest

from antiphon_common.core import Path
from antiphon_common.errors import LocalProtocolError
from antiphon_common.link import (
    MAX_ANNOUNCED_PATHS,
    VERIFIED_SECONDS,
    Announce,
    Confirm,
    LinkMessage,
    Moved,
    RelayHello,
    Release,
)
from antiphon_common.routing import Owner
from antiphon_transceiver.relays import (
    FORGET_AFTER,
    MAX_CLAIMED,
    MAX_RELAYS,
    REPEAT_INTERVAL,
    REPEAT_STEP,
    SILENT_AFTER,
    Address,
    AddressMoved,
    IngressFound,
    IngressLost,
    RelayBegan,
    Relays,
    RelaySilenced,
)

HELLO_INTERVAL = 0.025
OWNER, PREVIOUS = Owner(0, 1, 7000), Owner(0, 2, 7000)
FIRST, SECOND = ("10.0.0.1", 7000), ("10.0.0.2", 7000)
NEIGHBOUR = ("10.0.0.1", 7001)
"""Another worker on the host of the first."""


def path(number: int, ingress: int = 1) -> Path:
    return Path.of("203.0.113.1", number, ingress=ingress)


class Cluster:
    """Relays that send HELLO while they live, and the messages that the transceiver sends them."""

    def __init__(self) -> None:
        self.relays = Relays(OWNER)
        self.now = 0.0
        self.hellos: dict[Address, RelayHello] = {}
        self.received: dict[Address, list[LinkMessage]] = {}
        self.events: list[object] = []

    def begin(self, address: Address, *ingresses: int, boot_id: int = 1) -> None:
        self.hellos[address] = RelayHello(ingresses or (1,), boot_id)
        self.received[address] = []
        self.relays.receive_hello(self.hellos[address], address, self.now)
        self.turn()

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now += HELLO_INTERVAL
            for address, hello in self.hellos.items():
                self.relays.receive_hello(hello, address, self.now)
            self.turn()

    def turn(self) -> None:
        if self.relays.poll_timeout() <= self.now:
            self.relays.handle_timeout(self.now)
        while (notice := self.relays.poll_transmit()) is not None:
            for address in notice.relays:
                self.received[address].append(notice.message)
        while (event := self.relays.poll_event()) is not None:
            self.events.append(event)

    def take_received(self, address: Address) -> list[LinkMessage]:
        received, self.received[address] = self.received[address], []
        return received

    def announced(self, address: Address) -> list[Path]:
        return [
            path for message in self.take_received(address) if isinstance(message, Announce) for path in message.paths
        ]


def test_a_validated_path_is_confirmed_to_its_relay_and_announced_to_its_ingress_only() -> None:
    cluster = Cluster()
    other = ("10.0.0.9", 7000)
    for address, ingress in ((FIRST, 1), (SECOND, 1), (other, 2)):
        cluster.begin(address, ingress)
    paths = [path(number) for number in range(1, 4)]
    for one in paths:
        cluster.relays.announcements.confirm(one, FIRST, cluster.now)
    cluster.turn()
    assert cluster.take_received(FIRST) == [Confirm(one) for one in paths]
    assert cluster.take_received(SECOND) == [Announce(tuple(paths))]
    cluster.relays.announcements.confirm(paths[0], SECOND, cluster.now)  # again, with another answer to a check
    cluster.turn()
    assert cluster.take_received(FIRST) == []
    assert cluster.take_received(SECOND) == [Confirm(paths[0])]
    cluster.relays.announcements.release(paths[0], FIRST)
    cluster.turn()
    assert cluster.take_received(FIRST) == cluster.take_received(SECOND) == [Release(paths[0])]
    assert cluster.take_received(other) == []


def test_a_path_released_at_once_is_never_announced() -> None:
    cluster = Cluster()
    cluster.begin(FIRST)
    cluster.begin(SECOND)
    cluster.relays.announcements.confirm(path(1), FIRST, cluster.now)
    cluster.relays.announcements.release(path(1), FIRST)
    cluster.run(2 * REPEAT_INTERVAL)
    assert cluster.take_received(SECOND) == [Release(path(1))]


@pytest.mark.parametrize("again", [False, True], ids=["an unknown relay", "a relay that starts again"])
def test_a_new_relay_receives_all_announcements_at_once(again: bool) -> None:
    cluster = Cluster()
    cluster.begin(FIRST)
    if again:
        cluster.begin(SECOND)
    paths = [path(number) for number in range(1, 2 * MAX_ANNOUNCED_PATHS)]
    for one in paths:
        cluster.relays.announcements.confirm(one, FIRST, cluster.now)
    cluster.relays.announcements.claim_calls(PREVIOUS, cluster.now)
    cluster.turn()
    cluster.take_received(FIRST)
    cluster.begin(SECOND, boot_id=2)
    assert cluster.take_received(SECOND) == [
        Announce(tuple(paths[:MAX_ANNOUNCED_PATHS])),
        Announce(tuple(paths[MAX_ANNOUNCED_PATHS:])),
        Moved(PREVIOUS, OWNER),
    ]
    assert cluster.take_received(FIRST) == []


def test_all_paths_are_announced_again_every_few_seconds() -> None:
    cluster = Cluster()
    cluster.begin(FIRST)
    for number in range(1, 4):
        cluster.relays.announcements.confirm(path(number), FIRST, cluster.now)
        cluster.run(1.0)
    cluster.relays.announcements.claim_calls(PREVIOUS, cluster.now)
    cluster.take_received(FIRST)
    cluster.run(3 * (REPEAT_INTERVAL + REPEAT_STEP))
    received = cluster.take_received(FIRST)
    announced = [message.paths for message in received if isinstance(message, Announce)]
    assert announced == 3 * [(path(1),), (path(2),), (path(3),)]
    assert received.count(Moved(PREVIOUS, OWNER)) == 4
    assert cluster.relays.announcements.stop_claiming(PREVIOUS)
    assert not cluster.relays.announcements.stop_claiming(PREVIOUS)
    cluster.run(2 * REPEAT_INTERVAL)
    assert Moved(PREVIOUS, OWNER) not in cluster.take_received(FIRST)


def test_a_silent_relay_is_reported_once_and_receives_missed_announcements_on_return() -> None:
    cluster = Cluster()
    cluster.begin(FIRST)
    cluster.begin(SECOND)
    cluster.relays.announcements.confirm(path(1), FIRST, cluster.now)
    hello = cluster.hellos.pop(SECOND)
    cluster.run(SILENT_AFTER - HELLO_INTERVAL)
    assert RelaySilenced(SECOND) not in cluster.events
    cluster.run(2 * HELLO_INTERVAL)
    assert cluster.events == [RelayBegan(FIRST), RelayBegan(SECOND), RelaySilenced(SECOND)]
    assert cluster.relays.table.live == 1
    cluster.take_received(SECOND)
    cluster.hellos[SECOND] = hello
    cluster.run(HELLO_INTERVAL)
    assert cluster.announced(SECOND) == []
    del cluster.hellos[SECOND]
    cluster.run(FORGET_AFTER + SILENT_AFTER)
    assert len(cluster.relays.table) == 1
    cluster.hellos[SECOND] = hello
    cluster.run(HELLO_INTERVAL)
    assert cluster.announced(SECOND) == [path(1)]


def test_packets_of_a_relay_show_that_it_lives() -> None:
    cluster = Cluster()
    cluster.begin(FIRST)
    cluster.hellos.clear()
    for _ in range(20):
        cluster.run(2 * HELLO_INTERVAL)
        cluster.relays.table.receive_packet(FIRST, cluster.now)
        cluster.relays.table.receive_packet(SECOND, cluster.now)  # which never sent HELLO
    assert cluster.relays.table.is_live(FIRST)
    assert len(cluster.relays.table) == 1
    cluster.run(SILENT_AFTER + HELLO_INTERVAL)
    assert not cluster.relays.table.is_live(FIRST)


def test_an_ingress_is_lost_with_its_last_relay_and_found_with_any_relay() -> None:
    cluster = Cluster()
    cluster.begin(FIRST, 1, 2)
    cluster.begin(SECOND, 2)
    cluster.events.clear()
    hello = cluster.hellos.pop(FIRST)
    cluster.run(2 * SILENT_AFTER)
    assert cluster.events == [RelaySilenced(FIRST), IngressLost(1)]
    cluster.run(2 * FORGET_AFTER)
    cluster.hellos[("10.0.0.3", 7000)] = hello
    cluster.run(2 * HELLO_INTERVAL)
    assert cluster.events[2:] == [RelayBegan(("10.0.0.3", 7000)), IngressFound(1, ("10.0.0.3", 7000))]


def test_a_neighbour_on_the_same_host_stands_in_unless_it_may_be_dead_too() -> None:
    cluster = Cluster()
    for address in (FIRST, NEIGHBOUR, SECOND):
        cluster.begin(address)
    cluster.relays.table.receive_packet(SECOND, cluster.now)
    del cluster.hellos[FIRST]
    cluster.run(SILENT_AFTER)
    assert cluster.relays.table.stand_in(FIRST, 1) == NEIGHBOUR
    assert cluster.relays.table.stand_in(FIRST, 2) is None
    del cluster.hellos[NEIGHBOUR]
    cluster.run(SILENT_AFTER - HELLO_INTERVAL)
    assert cluster.relays.table.is_live(NEIGHBOUR)
    assert cluster.relays.table.stand_in(FIRST, 1) == SECOND


def test_a_shared_address_that_moves_between_live_relays_is_followed() -> None:
    cluster = Cluster()
    for address, away in ((FIRST, ()), (NEIGHBOUR, ()), (SECOND, (1,))):
        cluster.begin(address)
        cluster.hellos[address] = RelayHello((1,), 1, away)
    cluster.run(HELLO_INTERVAL)
    assert cluster.relays.table.serves(FIRST, 1)
    assert not cluster.relays.table.serves(SECOND, 1)
    cluster.events.clear()
    for address in (FIRST, NEIGHBOUR):
        cluster.hellos[address] = RelayHello((1,), 1, (1,))
    cluster.run(HELLO_INTERVAL)
    assert cluster.relays.table.stand_in(FIRST, 1) is None  # nobody has the address yet
    cluster.hellos[SECOND] = RelayHello((1,), 1)
    cluster.run(HELLO_INTERVAL)
    assert cluster.events == 3 * [AddressMoved(1)]
    assert cluster.relays.table.stand_in(FIRST, 1) == SECOND


def test_the_relay_that_packets_arrive_from_stands_in_for_a_silent_one() -> None:
    """It has the shared address. The others wait for it."""
    cluster = Cluster()
    hosts = [(f"10.0.0.{number}", 7000) for number in range(1, 5)]
    for address in hosts:
        cluster.begin(address)
    cluster.relays.table.receive_packet(hosts[2], cluster.now)
    del cluster.hellos[hosts[0]]
    cluster.run(SILENT_AFTER)
    assert cluster.relays.table.stand_in(hosts[0], 1) == hosts[2]


def test_held_entries_are_bounded_and_live_ones_are_kept() -> None:
    relays = Relays(OWNER)
    for number in range(MAX_RELAYS + 10):
        relays.receive_hello(RelayHello((1,), number), ("10.0.0.1", number), 0.0)
    assert (len(relays.table), relays.table.counters.refused) == (MAX_RELAYS, 10)
    relays.receive_hello(RelayHello((1,), 0), ("10.0.0.1", 0), SILENT_AFTER)
    relays.handle_timeout(1.5 * SILENT_AFTER)
    relays.receive_hello(RelayHello((1,), 0), SECOND, 1.5 * SILENT_AFTER)
    assert len(relays.table) == MAX_RELAYS
    assert relays.table.is_live(SECOND)
    assert relays.table.is_live(("10.0.0.1", 0))
    for number in range(MAX_CLAIMED):
        relays.announcements.claim_calls(Owner(1, number, 1), 0.0)
    for previous in (OWNER, PREVIOUS):
        with pytest.raises(LocalProtocolError):
            relays.announcements.claim_calls(previous, 0.0)
    assert len(relays.announcements.claimed) == MAX_CLAIMED


def test_only_identical_bytes_of_an_authenticated_hello_are_recognised_for_a_limited_time() -> None:
    relays = Relays(OWNER)
    assert not relays.table.repeats_hello(b"hello", FIRST, 0.0)
    relays.receive_hello(RelayHello((1,), 1), FIRST, 0.0, b"hello")
    assert not relays.table.repeats_hello(b"hellO", FIRST, 0.05)
    assert not relays.table.repeats_hello(b"hello", SECOND, 0.05)
    assert relays.table.repeats_hello(b"hello", FIRST, 0.05)
    relays.handle_timeout(0.05 + SILENT_AFTER / 2)
    assert relays.table.is_live(FIRST)
    assert not relays.table.repeats_hello(b"hello", FIRST, VERIFIED_SECONDS)
