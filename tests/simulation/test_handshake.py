"""DTLS handshakes over a network that loses every fifth datagram."""

import math

import pytest

from support.net.impairment import Impairment
from support.peers.dtls_pair import make_peers

SEEDS = range(200)
BAD_NETWORK = Impairment(loss=0.2, duplication=0.1, reordering=0.2, delay=0.025, mtu=1200)


@pytest.mark.parametrize("mtu", [1200, 300])
def test_every_handshake_completes_in_time(mtu: int) -> None:
    durations = {seed: handshake_duration(seed, mtu) for seed in SEEDS}
    slowest = max(durations, key=durations.__getitem__)
    in_order = sorted(durations.values())
    p95 = in_order[math.ceil(0.95 * len(in_order)) - 1]
    print(
        f"handshake at 20 % loss, MTU {mtu}: median {in_order[len(in_order) // 2]:.3f} s, p95 {p95:.3f} s, "
        f"maximum {durations[slowest]:.3f} s (seed {slowest})"
    )
    if mtu == 1200:
        assert p95 <= 2.0
        assert durations[slowest] <= 10.0, f"seed {slowest}"


def handshake_duration(seed: int, mtu: int) -> float:
    """Return the virtual seconds until both sides are connected."""
    peers = make_peers(seed, BAD_NETWORK, mtu=mtu)
    peers.client.start(0.0)
    assert peers.network.run(lambda: peers.connected, limit=30.0), f"seed {seed}"
    assert peers.network.left.link.too_long == peers.network.right.link.too_long == 0, f"seed {seed}"
    return peers.network.now
