"""DTLS peers that alter one message of their handshake and are correct otherwise.

An attacker is the real endpoint with one of its own messages changed, left out, or signed with another key. Its
transcript has what it really sent, so every later message verifies: an endpoint that skips one check accepts it.
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
"""The certificate that the SDP announced, and another one. The attacker has the keys of both."""


class HandshakeView(NamedTuple):
    """What an attacker has when it sends a message: enough to authenticate every other message."""

    transcript: bytes
    """All messages so far, without the one being made."""
    client_random: bytes
    server_random: bytes
    schedule: KeySchedule | None


Alteration = Callable[[bytes, HandshakeView], bytes | None]
"""Receives the correct body of a message; returns the body to send, or None to leave the message out."""


class _AlteredClient(ClientHandshake):
    alterations: dict[HandshakeType, Alteration]

    def _send(self, message_type: HandshakeType, body: bytes) -> None:
        altered = self.alterations[message_type](body, _view(self)) if message_type in self.alterations else body
        if altered is not None:
            super()._send(message_type, altered)


class _AlteredServer(ServerHandshake):
    alterations: dict[HandshakeType, Alteration]

    def _send(self, message_type: HandshakeType, body: bytes) -> None:
        altered = self.alterations[message_type](body, _view(self)) if message_type in self.alterations else body
        if altered is not None:
            super()._send(message_type, altered)


def _view(handshake: ClientHandshake | ServerHandshake) -> HandshakeView:
    return HandshakeView(handshake.transcript, handshake.client_random, handshake.server_random, handshake.schedule)


def _altered_endpoint(
    role: DtlsRole, shown: Certificate, alterations: dict[HandshakeType, Alteration], random: Callable[[int], bytes]
) -> DtlsEndpoint:
    class AlteredEndpoint(DtlsEndpoint):
        def _make_handshake(self, config: HandshakeConfig) -> ClientHandshake | ServerHandshake:
            handshake = _AlteredClient(config) if role is DtlsRole.CLIENT else _AlteredServer(config)
            handshake.alterations = alterations
            return handshake

    return AlteredEndpoint(role, shown, [certificate("victim").fingerprint()], list(SrtpProfile), random)


class AlteredHandshake:
    """An attacker in one role and a real endpoint in the other, which expects the honest certificate."""

    def __init__(
        self,
        attacker: DtlsRole,
        *,
        shown: Certificate = HONEST,
        alterations: dict[HandshakeType, Alteration] | None = None,
        announced: Sequence[Fingerprint] = (HONEST.fingerprint(),),
        seed: int = 0,
    ) -> None:
        random = Random(seed).randbytes
        role = DtlsRole.SERVER if attacker is DtlsRole.CLIENT else DtlsRole.CLIENT
        self.attacker = _altered_endpoint(attacker, shown, alterations or {}, random)
        self.victim = DtlsEndpoint(role, certificate("victim"), announced, list(SrtpProfile), random)
        client, server = (self.attacker, self.victim) if attacker is DtlsRole.CLIENT else (self.victim, self.attacker)
        self.network: MemoryNetwork[DtlsEvent, DtlsEvent] = MemoryNetwork(client, server)
        stations = (self.network.left, self.network.right)
        self.attacker_end, self.victim_end = stations if attacker is DtlsRole.CLIENT else stations[::-1]
        client.start(0.0)

    def run(self, limit: float = 2.0) -> DtlsClosed | None:
        """Run the handshake; return the event that closed the victim, or None if nothing did."""
        self.network.run(limit=limit)
        ends = [event for event in self.victim_end.events if isinstance(event, DtlsClosed)]
        return ends[0] if ends else None
