"""The router applies the impairment model to real packets."""

import os
import subprocess
import sys
from collections.abc import Iterator
from statistics import median

import msgspec
import pytest

from support.net.impairment import PERFECT, Bursts, Impairment
from support.net.namespaces import HostPlan, Network, network
from support.net.udp_probe import Echo

SERVER, SERVER6 = "198.51.100.2", "2001:db8::2"
NAT = "203.0.113.7"
PORT = 7000
OWN_DELAY = 0.002
"""Seconds that the router and two processes may add on a shared machine."""


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    """An echo server, a client with a public address, and a client behind a NAT."""
    plans = (
        HostPlan("server", (SERVER, SERVER6)),
        HostPlan("client", ("198.51.100.3", "2001:db8::3")),
        HostPlan("hidden", ("192.168.1.2",), nat=NAT),
    )
    probe = (sys.executable, "-m", "support.net.udp_probe", "echo")
    with (
        network(*plans, seed=1) as net,
        net["server"].start(*probe, SERVER, str(PORT)) as echo,
        net["server"].start(*probe, SERVER6, str(PORT)) as echo6,
    ):
        for process in (echo, echo6):
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        yield net


@pytest.fixture(autouse=True)
def _perfect(net: Network) -> Iterator[None]:
    yield
    for host in ("client", "hidden"):
        net.impair(host, PERFECT, PERFECT)


def probe(
    net: Network, host: str = "client", *, count: int = 500, interval: float = 0.002, size: int = 200, to: str = SERVER
) -> list[Echo]:
    arguments = (to, str(PORT), str(count), str(interval), str(size))
    printed = net[host].run(sys.executable, "-m", "support.net.udp_probe", "probe", *arguments)
    return msgspec.json.decode(printed, type=list[Echo])


@pytest.mark.parametrize("to", [SERVER, SERVER6], ids=["IPv4", "IPv6"])
def test_a_perfect_network_loses_nothing_and_adds_little(net: Network, to: str) -> None:
    echoes = probe(net, to=to)
    assert [echo.number for echo in echoes] == list(range(500))
    print(f"\nup {median_ms(echoes, 'up'):.2f} ms, down {median_ms(echoes, 'down'):.2f} ms", end="")
    assert median_ms(echoes, "up") < 1000 * OWN_DELAY


def test_delay_is_as_configured(net: Network) -> None:
    net.impair("client", up=Impairment(delay=0.04), down=Impairment(delay=0.01))
    echoes = probe(net)
    assert len(echoes) == 500
    assert median_ms(echoes, "up") == pytest.approx(40, abs=1000 * OWN_DELAY)
    assert median_ms(echoes, "down") == pytest.approx(10, abs=1000 * OWN_DELAY)


@pytest.mark.parametrize(
    "impairment", [Impairment(loss=0.1), Impairment(bursts=Bursts.of_mean(0.1, 5))], ids=["single", "bursts"]
)
def test_loss_is_as_configured(net: Network, impairment: Impairment) -> None:
    net.impair("client", up=impairment)
    came = len(probe(net, count=2000, interval=0.001)) / 2000
    assert came == pytest.approx(0.9, abs=0.06)


def test_jitter_reorders_packets_only_with_jitter_reorders(net: Network) -> None:
    net.impair("client", up=Impairment(delay=0.01, jitter=0.04))
    echoes = probe(net)
    assert [echo.number for echo in echoes] == list(range(500))
    net.impair("client", up=Impairment(delay=0.01, jitter=0.04, jitter_reorders=True))
    echoes = probe(net)
    assert [echo.number for echo in echoes] != list(range(500))
    assert len(echoes) == 500
    assert median_ms(echoes, "up") == pytest.approx(30, abs=5)


def test_rate_and_queue_are_limited(net: Network) -> None:
    """228 bytes with their headers, at 500 a second, through a link for 250."""
    net.impair("client", up=Impairment(rate=250 * 228, backlog=0.1))
    echoes = probe(net, count=1000)
    assert len(echoes) == pytest.approx(525, abs=30)
    assert median_ms(echoes[100:], "up") == pytest.approx(102, abs=6)


def test_packets_above_the_mtu_are_dropped_and_reported_by_icmp(net: Network) -> None:
    net.impair("client", up=Impairment(mtu=1200))
    assert len(probe(net, count=20, size=1172)) == 20
    assert "mtu 1200" not in net["client"].run("ip", "route", "get", SERVER)
    assert probe(net, count=1, size=1173) == []
    assert "mtu 1200" in net["client"].run("ip", "route", "get", SERVER)


def test_a_nat_forwards_fragments(net: Network) -> None:
    """The first datagram is dropped and reported by ICMP. The others arrive in two fragments each."""
    net.impair("hidden", up=Impairment(mtu=1200))
    assert len(probe(net, "hidden", count=20, size=1400)) == 19


def test_blocked_udp_is_dropped(net: Network) -> None:
    net.impair("client", up=Impairment(blocked=True))
    assert probe(net, count=10) == []


def test_a_change_takes_effect_at_its_time(net: Network) -> None:
    net.interrupt("client", 0.3, otherwise=Impairment(delay=0.02), after=1.0)
    echoes = probe(net, count=1000)
    assert len(echoes) == pytest.approx(850, abs=5)
    assert echoes[0].up < 0.01
    assert median_ms(echoes[-200:], "up") == pytest.approx(20, abs=1000 * OWN_DELAY)


def test_a_nat_translates_addresses_and_rebinds(net: Network) -> None:
    """The echo reports the source address: one port of the NAT, and another one after the rebinding."""
    net.rebind("hidden", after=0.8)
    echoes = probe(net, "hidden", count=1000)
    assert len(echoes) >= 999
    seen = list(dict.fromkeys(echo.seen for echo in echoes))
    assert len(seen) == 2
    assert all(address.startswith(f"{NAT}:") for address in seen)


def test_the_router_is_fast_enough(net: Network) -> None:
    """Each datagram crosses it twice."""
    before = net.figures()
    echoes = probe(net, count=5000, interval=0.0002)
    after = net.figures()
    cost = (after.busy - before.busy) / (after.packets - before.packets)
    print(f"\n{len(echoes)} of 5000 datagrams came back, {cost * 1e6:.1f} µs of the router for each packet", end="")
    assert len(echoes) > 4900
    assert cost < 100e-6


def median_ms(echoes: list[Echo], direction: str) -> float:
    return 1000 * median(echo.up if direction == "up" else echo.down for echo in echoes)


def test_namespaces_of_a_killed_run_are_removed() -> None:
    script = "import os; from support.net.namespaces import *\nwith network(HostPlan('a', ('192.0.2.1',))): os._exit(0)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.Popen([sys.executable, "-c", script], env=environment)
    assert killed.wait() == 0
    name = f"antiphon-{killed.pid}-a"
    assert name in namespaces()
    with network(HostPlan("b", ("192.0.2.2",))) as net:
        assert name not in namespaces()
        mine = net["b"].namespace
        assert mine in namespaces()
    assert mine not in namespaces()


def namespaces() -> str:
    return subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True).stdout
