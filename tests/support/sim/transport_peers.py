"""Two transports, one ICE agent of each role, connected by a network in memory."""

from collections.abc import Callable
from random import Random

from antiphon_common.control import IceParameters
from antiphon_transceiver.dtls import DtlsEndpoint, DtlsRole
from antiphon_transceiver.ice import ControlledAgent, ControllingAgent
from antiphon_transceiver.peer_transport import PeerTransport, TransportState
from antiphon_transceiver.sctp import DataChannelEndpoint, DataChannelEvent
from antiphon_transceiver.srtp import SrtpProfile
from antiphon_transceiver.transport_events import TransportEvent
from support.net.impairment import Impairment
from support.peers.certificates import certificate
from support.sim.memory_network import MemoryNetwork

CONTROLLING = IceParameters("clnt", "client-password-24-chars")
CONTROLLED = IceParameters("ServerUfragOf23IceChars", "server-password-of-32-characters")
DELAY = 0.025

Event = TransportEvent | DataChannelEvent


class TransportPeers:
    """The controlling transport on the left, the controlled one on the right. `client` names the DTLS client."""

    def __init__(self, client: str = "right", *, seed: int = 0, impairment: Impairment | None = None) -> None:
        random = Random(seed).randbytes
        self.controlling = ControllingAgent(CONTROLLING, random)
        self.controlled = ControlledAgent(CONTROLLED, CONTROLLING, random)
        self.left = self._transport(self.controlling, "left", client, random)
        self.right = self._transport(self.controlled, "right", client, random)
        self.network: MemoryNetwork[Event, Event] = MemoryNetwork(
            self.left, self.right, impairment or Impairment(delay=DELAY), seed=seed
        )

    def _transport(
        self, agent: ControllingAgent | ControlledAgent, side: str, client: str, random: Callable[[int], bytes]
    ) -> PeerTransport[DataChannelEvent]:
        ours, theirs = ("client", "server") if side == "left" else ("server", "client")
        role = DtlsRole.CLIENT if side == client else DtlsRole.SERVER
        fingerprints = [certificate(theirs).fingerprint()]
        endpoint = DtlsEndpoint(role, certificate(ours), fingerprints, tuple(SrtpProfile), random)
        return PeerTransport(agent, endpoint, DataChannelEndpoint(role is DtlsRole.CLIENT, random), 0.0)

    def start(self) -> "TransportPeers":
        self.controlling.start(CONTROLLED, [self.network.right.path], 0.0)
        self.left.flush(0.0)
        return self

    def connect(self) -> "TransportPeers":
        self.start()
        both = (self.left, self.right)
        assert self.network.run(lambda: all(side.state is TransportState.CONNECTED for side in both), limit=2.0)
        self.run(0.5)
        return self

    def run(self, seconds: float) -> None:
        self.network.run(limit=self.network.now + seconds)
