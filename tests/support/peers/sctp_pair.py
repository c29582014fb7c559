"""Pairs of data channel endpoints with a network between them."""

from random import Random
from typing import NamedTuple

from antiphon_transceiver.sctp import (
    DEFAULT_MTU,
    AssociationClosed,
    ChannelOpened,
    DataChannelEndpoint,
    DataChannelEvent,
    MessageReceived,
)
from antiphon_transceiver.sctp.chunks import Chunk, Data
from antiphon_transceiver.sctp.packet import SctpPacket
from support.net.impairment import PERFECT, Impairment
from support.sim.memory_network import MemoryNetwork, Station


class SctpPeers(NamedTuple):
    """Two endpoints without DTLS. `client` is on the left, `server` on the right; they differ in their stream ids."""

    client: DataChannelEndpoint
    server: DataChannelEndpoint
    network: MemoryNetwork[DataChannelEvent, DataChannelEvent]

    @property
    def established(self) -> bool:
        return self.client.established and self.server.established

    def establish(self, limit: float = 30.0) -> "SctpPeers":
        """Start both sides, as in WebRTC, and run until both are established."""
        self.client.start(self.network.now)
        self.server.start(self.network.now)
        assert self.network.run(lambda: self.established, limit=limit)
        return self

    def run(self, seconds: float) -> None:
        self.network.run(limit=self.network.now + seconds)


def make_sctp_peers(seed: int = 0, impairment: Impairment = PERFECT, *, mtu: int = DEFAULT_MTU) -> SctpPeers:
    """Make two endpoints whose entropy and network come from `seed`."""
    random = Random(seed).randbytes
    client = DataChannelEndpoint(True, random, mtu=mtu)
    server = DataChannelEndpoint(False, random, mtu=mtu)
    return SctpPeers(client, server, MemoryNetwork(client, server, impairment, seed=seed))


def messages(station: Station[DataChannelEvent], channel: int | None = None) -> list[str | bytes]:
    """Return what a side has received, on one channel or on all."""
    received = [event for event in station.events if isinstance(event, MessageReceived)]
    return [event.data for event in received if channel in (None, event.id)]


def opened(station: Station[DataChannelEvent]) -> list[ChannelOpened]:
    return [event for event in station.events if isinstance(event, ChannelOpened)]


def closings(station: Station[DataChannelEvent]) -> list[AssociationClosed]:
    return [event for event in station.events if isinstance(event, AssociationClosed)]


def forge(sender: Station[DataChannelEvent], *chunks: Chunk) -> bytes:
    """Return a packet with the header of the last packet of `sender`."""
    return SctpPacket.decode(sender.sent[-1])._replace(chunks=chunks).encode()


def chunks_of(datagram: bytes) -> list[str]:
    """Return the names of the chunks in a packet."""
    return [type(chunk).__name__ for chunk in SctpPacket.decode(datagram).chunks]


def data_of(datagram: bytes) -> list[Data]:
    return [chunk for chunk in SctpPacket.decode(datagram).chunks if isinstance(chunk, Data)]


def last_data(station: Station[DataChannelEvent]) -> Data:
    """Return the DATA chunk that a side sent last."""
    return next(data for datagram in reversed(station.sent) for data in reversed(data_of(datagram)))
