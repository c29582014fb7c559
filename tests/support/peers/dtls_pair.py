"""Pairs of DTLS endpoints with the fingerprints of each other's certificate."""

from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from antiphon_transceiver.dtls import DtlsClosed, DtlsEndpoint, DtlsEvent, DtlsRole, HandshakeCompleted
from antiphon_transceiver.dtls.handshake_layer import FAILURE_DELAY
from antiphon_transceiver.srtp.profiles import SrtpProfile
from support.net.impairment import PERFECT, Impairment
from support.peers.certificates import certificate
from support.sim.memory_network import MemoryNetwork


def end_of(endpoint: DtlsEndpoint) -> DtlsClosed:
    """Run an endpoint until its pending failure ends the handshake, and return the event."""
    assert endpoint.poll_event() is None, "the source may be spoofed"
    deadline = 0.0
    while not endpoint.closed:
        deadline = endpoint.poll_timeout()
        endpoint.handle_timeout(deadline)
    assert deadline <= FAILURE_DELAY + 0.1
    (event,) = iter(endpoint.poll_event, None)
    assert isinstance(event, DtlsClosed)
    return event


class DtlsPeers(NamedTuple):
    client: DtlsEndpoint
    server: DtlsEndpoint
    network: MemoryNetwork[DtlsEvent, DtlsEvent]

    @property
    def connected(self) -> bool:
        return self.client.connected and self.server.connected

    def shake_hands(self, limit: float = 30.0) -> "DtlsPeers":
        """Run the handshake until both sides are connected."""
        self.client.start(self.network.now)
        assert self.network.run(lambda: self.connected, limit=limit)
        self.network.drain()
        assert [type(event) for event in self.network.left.events] == [HandshakeCompleted]
        assert [type(event) for event in self.network.right.events] == [HandshakeCompleted]
        return self


def make_peers(
    seed: int = 0,
    impairment: Impairment = PERFECT,
    *,
    client_profiles: Sequence[SrtpProfile] = tuple(SrtpProfile),
    server_profiles: Sequence[SrtpProfile] = tuple(SrtpProfile),
    mtu: int = 1200,
) -> DtlsPeers:
    """Make a client (left) and a server (right) whose entropy and network come from `seed`."""
    random = Random(seed).randbytes
    ours, theirs = certificate("client"), certificate("server")
    client = DtlsEndpoint(DtlsRole.CLIENT, ours, [theirs.fingerprint()], client_profiles, random, mtu=mtu)
    server = DtlsEndpoint(DtlsRole.SERVER, theirs, [ours.fingerprint()], server_profiles, random, mtu=mtu)
    return DtlsPeers(client, server, MemoryNetwork(client, server, impairment, seed=seed))
