"""Data channels over bad networks: 64 KiB both ways, a hundred times."""

import math

import pytest

from antiphon_transceiver.sctp import DEFAULT_MTU
from antiphon_transceiver.sctp.endpoint import DTLS_OVERHEAD
from support.net.impairment import Impairment
from support.peers.sctp_pair import make_sctp_peers, messages, opened

SEEDS = range(100)
SIZE = 65_536
PACKET_SIZE = DEFAULT_MTU - DTLS_OVERHEAD


def network(loss: float) -> Impairment:
    return Impairment(loss=loss, duplication=0.05, reordering=0.1, delay=0.025, mtu=PACKET_SIZE)


@pytest.mark.parametrize(("loss", "p95"), [(0.0, 1.0), (0.05, 2.0), (0.2, 12.0)])
def test_every_transfer_completes_in_time(loss: float, p95: float) -> None:
    durations = {seed: transfer_duration(seed, network(loss), ordered=seed % 2 == 0) for seed in SEEDS}
    slowest = max(durations, key=durations.__getitem__)
    in_order = sorted(durations.values())
    measured = in_order[math.ceil(0.95 * len(in_order)) - 1]
    print(
        f"64 KiB both ways at {loss:.0%} loss, 50 ms round trip: median {in_order[len(in_order) // 2]:.2f} s, "
        f"p95 {measured:.2f} s, maximum {durations[slowest]:.2f} s (seed {slowest})"
    )
    assert measured <= p95


def transfer_duration(seed: int, impairment: Impairment, *, ordered: bool) -> float:
    """Return the virtual seconds from sending until both sides have all of it."""
    peers = make_sctp_peers(seed, impairment).establish()
    stations = (peers.network.left, peers.network.right)
    endpoints = (peers.client, peers.server)
    channels = [endpoint.open_channel("test", ordered=ordered) for endpoint in endpoints]
    assert peers.network.run(lambda: all(len(opened(station)) == 2 for station in stations), limit=30.0), f"seed {seed}"
    began = peers.network.now
    for number, endpoint in enumerate(endpoints):
        endpoint.send(channels[number], bytes([number]) * SIZE)
        endpoint.send(channels[number], "done")
    received = peers.network.run(lambda: all(len(messages(station)) == 2 for station in stations), limit=began + 120.0)
    assert received, f"seed {seed}"
    took = peers.network.now - began
    peers.run(5.0)
    for station, number in zip(stations, (1, 0), strict=True):
        got = messages(station)
        assert sorted(got, key=len, reverse=True) == [bytes([number]) * SIZE, "done"], f"seed {seed}"
        assert got[-1] == "done" or not ordered, f"seed {seed}"
        assert station.link.too_long == 0, f"seed {seed}"
    for endpoint in endpoints:
        assert endpoint.association.sender.idle, f"seed {seed}"
        assert endpoint.association.receiver.reassembler.size == 0, f"seed {seed}"
    return took
