"""DTLS peers that lie in exactly one proof and are right in all else.

A liar is the real endpoint with one of its own messages changed, left out or signed with another key. It puts what it
really sends into its transcript, so that every later proof fits: an endpoint that skips one check lets it in.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple

from antiphon_common.control import Fingerprint
from antiphon_transceiver.dtls import Certificate, DtlsClosed, DtlsEndpoint, DtlsEvent, DtlsRole
from antiphon_transceiver.dtls.messages import HandshakeType
from antiphon_transceiver.dtls.v12.client import ClientHandshake
from antiphon_transceiver.dtls.v12.handshake import HandshakeConfig
from antiphon_transceiver.dtls.v12.schedule import KeySchedule
from antiphon_transceiver.dtls.v12.server import ServerHandshake
from antiphon_transceiver.srtp.profiles import SrtpProfile
from support.peers.certificates import certificate
from support.sim.memory_network import MemoryNetwork

HONEST, OWN = certificate("honest"), certificate("own")
"""The certificate that the SDP announced, and another one whose key the liar has too."""


class Knowledge(NamedTuple):
    """What a liar knows when it makes a message: enough for every other proof."""

    transcript: bytes
    """All messages so far, without the one being made."""
    client_random: bytes
    server_random: bytes
    schedule: KeySchedule | None


Lie = Callable[[bytes, Knowledge], bytes | None]
"""Takes the true body of a message; returns the body to send, or None to leave the message out."""


class _LyingClient(ClientHandshake):
    lies: dict[HandshakeType, Lie]

    def _send(self, message_type: HandshakeType, body: bytes) -> None:
        told = self.lies[message_type](body, _knowledge(self)) if message_type in self.lies else body
        if told is not None:
            super()._send(message_type, told)


class _LyingServer(ServerHandshake):
    lies: dict[HandshakeType, Lie]

    def _send(self, message_type: HandshakeType, body: bytes) -> None:
        told = self.lies[message_type](body, _knowledge(self)) if message_type in self.lies else body
        if told is not None:
            super()._send(message_type, told)


def _knowledge(handshake: ClientHandshake | ServerHandshake) -> Knowledge:
    return Knowledge(handshake._transcript_so_far, handshake.client_random, handshake.server_random, handshake.schedule)


def _lying_endpoint(
    role: DtlsRole, shown: Certificate, lies: dict[HandshakeType, Lie], random: Callable[[int], bytes]
) -> DtlsEndpoint:
    class Liar(DtlsEndpoint):
        def _make_handshake(self, config: HandshakeConfig) -> ClientHandshake | ServerHandshake:
            handshake = _LyingClient(config) if role is DtlsRole.CLIENT else _LyingServer(config)
            handshake.lies = lies
            return handshake

    return Liar(role, shown, [certificate("victim").fingerprint()], list(SrtpProfile), random)


class LyingHandshake:
    """A liar in one role and a real endpoint in the other, which expects the honest certificate."""

    def __init__(
        self,
        liar: DtlsRole,
        *,
        shown: Certificate = HONEST,
        lies: dict[HandshakeType, Lie] | None = None,
        announced: Sequence[Fingerprint] = (HONEST.fingerprint(),),
        seed: int = 0,
    ) -> None:
        random = Random(seed).randbytes
        role = DtlsRole.SERVER if liar is DtlsRole.CLIENT else DtlsRole.CLIENT
        self.liar = _lying_endpoint(liar, shown, lies or {}, random)
        self.victim = DtlsEndpoint(role, certificate("victim"), announced, list(SrtpProfile), random)
        client, server = (self.liar, self.victim) if liar is DtlsRole.CLIENT else (self.victim, self.liar)
        self.network: MemoryNetwork[DtlsEvent, DtlsEvent] = MemoryNetwork(client, server)
        stations = (self.network.left, self.network.right)
        self.liar_end, self.victim_end = stations if liar is DtlsRole.CLIENT else stations[::-1]
        client.start(0.0)

    def run(self, limit: float = 2.0) -> DtlsClosed | None:
        """Let both try; return how the victim ended, or None if it did not."""
        self.network.run(limit=limit)
        ends = [event for event in self.victim_end.events if isinstance(event, DtlsClosed)]
        return ends[0] if ends else None
