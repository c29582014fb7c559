"""The impairment model behaves as its fields specify."""

from random import Random
from statistics import mean

import pytest

from support.net.impairment import PERFECT, Bursts, Change, ImpairedLink, Impairment, outage
from support.net.middleboxes import Nat, Spreader

COUNT = 20_000
INTERVAL = 0.02
SIZE = 200


def send(impairment: Impairment, *changes: Change, seed: int = 1, count: int = COUNT) -> list[list[float]]:
    """Return the delays with which each datagram arrived: none, one or two."""
    link = ImpairedLink(impairment, Random(seed), changes)
    sent = [number * INTERVAL for number in range(count)]
    return [[arrival - at for arrival in link.arrivals(SIZE, at)] for at in sent]


def arrived(transits: list[list[float]]) -> float:
    return sum(map(bool, transits)) / len(transits)


def in_order(transits: list[list[float]]) -> bool:
    arrivals = [number * INTERVAL + transit for number, copies in enumerate(transits) for transit in copies]
    return arrivals == sorted(arrivals)


def test_a_perfect_path_delivers_at_once() -> None:
    assert send(PERFECT) == [[0.0]] * COUNT


def test_the_same_seed_does_the_same() -> None:
    bad = Impairment(loss=0.1, bursts=Bursts.of_mean(0.05, 4), duplication=0.1, reordering=0.1, delay=0.05, jitter=0.02)
    assert send(bad, seed=5) == send(bad, seed=5) != send(bad, seed=6)


def test_loss_duplication_and_delay_are_as_configured() -> None:
    transits = send(Impairment(loss=0.05, duplication=0.02, delay=0.04))
    assert arrived(transits) == pytest.approx(0.95, abs=0.006)
    assert mean(len(copies) == 2 for copies in transits if copies) == pytest.approx(0.02, abs=0.004)
    assert {round(transit, 6) for copies in transits for transit in copies} == {0.04}


def test_burst_losses_have_the_configured_share_and_length() -> None:
    transits = send(Impairment(bursts=Bursts.of_mean(0.1, 5)), count=5 * COUNT)
    pattern = "".join("." if copies else "x" for copies in transits)
    runs = [len(run) for run in pattern.split(".") if run]
    assert arrived(transits) == pytest.approx(0.9, abs=0.01)
    assert mean(runs) == pytest.approx(5, abs=0.3)


def test_jitter_keeps_the_order_unless_it_reorders() -> None:
    steady = send(Impairment(delay=0.05, jitter=0.08))
    assert in_order(steady)
    wild = send(Impairment(delay=0.05, jitter=0.08, jitter_reorders=True))
    assert not in_order(wild)
    assert mean(copies[0] for copies in wild) == pytest.approx(0.09, abs=0.002)
    for transits in (steady, wild):
        assert 0.05 <= min(copies[0] for copies in transits) <= max(copies[0] for copies in transits) <= 0.13001


def test_a_reordered_datagram_is_overtaken() -> None:
    transits = send(Impairment(delay=0.05, reordering=0.1, held_back=0.1))
    assert not in_order(transits)
    assert mean(copies[0] > 0.05001 for copies in transits) == pytest.approx(0.1, abs=0.01)


def test_a_rate_delays_and_a_full_queue_drops() -> None:
    wide = send(Impairment(rate=2 * SIZE / INTERVAL))
    assert {round(copies[0], 6) for copies in wide} == {INTERVAL / 2}
    narrow = send(Impairment(rate=SIZE / INTERVAL / 2, backlog=0.3))
    assert arrived(narrow) == pytest.approx(0.5, abs=0.01)
    assert max(copies[0] for copies in narrow if copies) == pytest.approx(0.34, abs=0.01)


def test_datagrams_that_are_too_long_or_blocked_are_lost() -> None:
    link = ImpairedLink(Impairment(mtu=1200), Random(1))
    assert link.arrivals(1200, 0.0) == [0.0]
    assert link.arrivals(1201, 0.0) == []
    firewall = ImpairedLink(Impairment(blocked=True), Random(1))
    assert firewall.arrivals(100, 0.0) == []
    assert firewall.arrivals(100, 0.0, udp=False) == [0.0]


def test_changes_take_effect_at_their_time() -> None:
    transits = send(PERFECT, *outage(1.0, 0.3, Impairment(delay=0.1)), count=100)
    assert [bool(copies) for copies in transits] == [True] * 50 + [False] * 15 + [True] * 35
    assert transits[-1] == [pytest.approx(0.1)]


def test_a_nat_keeps_a_port_until_it_rebinds() -> None:
    nat: Nat[str] = Nat("192.0.2.9", Random(1))
    inside, relay, other_source = ("10.0.0.2", 5000), ("198.51.100.1", 3478), ("198.51.100.66", 3478)
    public = nat.outward(inside, relay)
    assert public[0] == "192.0.2.9"
    assert nat.outward(inside, relay) == public
    assert nat.inward(public, relay) == inside
    assert nat.inward(public, other_source) is None
    nat.rebind()
    assert nat.inward(public, relay) is None
    assert nat.outward(inside, relay) != public
    nat.rebind("192.0.2.10")
    assert nat.outward(inside, relay)[0] == "192.0.2.10"


def test_a_spreader_keeps_flows_together_or_apart() -> None:
    flows = [bytes(5) + bytes((number,)) for number in range(100)]
    sticky = Spreader(Random(1))
    assert [sticky.choose(flow, "abc") for flow in flows] == [sticky.choose(flow, "abc") for flow in flows]
    assert {sticky.choose(flow, "abc") for flow in flows} == set("abc")
    spraying = Spreader(Random(1), spray=True)
    assert {spraying.choose(flows[0], "abc") for _ in range(100)} == set("abc")
