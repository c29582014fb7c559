"""The relay's flows: which client uses which public address, and which owner has its packets. All of it is soft state.

Each flow holds what forwarding needs: one look-up by the client's encoded address on the way up, one by the 32 bytes of
the link header on the way down.
"""

from math import inf

from antiphon_common.core import TRANSPORT_UDP, Path
from antiphon_common.ownership import Claim, OwnershipTable
from antiphon_common.sockaddr import from_port_and_address, port_and_address
from antiphon_relay.limits import Bucket

PATH_HEAD_SIZE = 4
"""Bytes of an encoded path that name the ingress: transport, zero, ingress id."""

TAKEOVER_SECONDS = 10.0
"""Silence of an owner after which another may take over its path. A live one answers a check every few seconds."""
SILENT_SECONDS = 60.0
"""Silence of an owner after which a path has none: a transceiver ends the call of a silent peer after 30 s."""

CHECKS_PER_SECOND, CHECKS_AT_ONCE = 20.0, 40
"""Binding requests of a confirmed flow, by its own limit. A client at rest sends one in 2.5 s, and 20 a second while it
nominates."""

PACKETS_AT_ONCE, PACKETS_WINDOW = 500, 1.0
"""Other packets of a flow in one window, in seconds. Audio is 50 to 100 packets a second, and less than twice that with
feedback and a data channel. More is a flood, which its owner would have to decrypt to find out."""

BINDING_REQUEST = b"\x00\x01"
"""The first bytes of a binding request (RFC 8489 §5)."""

Datagram = tuple[bytes, bytes]
"""A datagram with the encoded address of its target, or of its source."""


class Ingress:
    """One public address of the relay. The packet loop sends what is in `outbox`.

    `flows` has its clients by encoded address. A shared address is `away` while another host has it.
    """

    __slots__ = ("address_size", "away", "flows", "head", "id", "outbox")

    def __init__(self, ingress: int, address_size: int) -> None:
        self.id = ingress
        self.address_size = address_size
        self.away = False
        self.head = bytes((TRANSPORT_UDP, 0)) + ingress.to_bytes(2, "big")
        self.flows: dict[bytes, Flow] = {}
        self.outbox: list[Datagram] = []

    def key(self, client: bytes) -> bytes:
        """Return the encoded path of a client, given its encoded address."""
        return self.head + port_and_address(client)


class Flow(Claim[bytes]):
    """The claim of a transceiver, given by its encoded link address, on a path, with what forwarding needs.

    `header` precedes its packets on the way up, `downlink_header` on the way down.
    """

    __slots__ = ("allowance", "checks", "client", "downlink_header", "header", "ingress", "stored_at", "window_end")

    def __init__(self, key: bytes, owner: bytes, now: float, ingress: Ingress) -> None:
        super().__init__(key, owner, now)
        self.ingress = ingress
        self.client = from_port_and_address(key[PATH_HEAD_SIZE:])
        self.header = b""
        self.downlink_header = b""
        self.checks = Bucket(CHECKS_PER_SECOND, CHECKS_AT_ONCE)
        self.allowance = 0
        self.window_end = now
        self.stored_at = -inf
        """When the flow was last stored in the flow cache."""

    @property
    def path(self) -> Path:
        return Path.decode(self.key)

    def is_spent(self, now: float) -> bool:
        """Return True if a packet that arrives now is over the flow's limit."""
        return not self.allowance and now < self.window_end

    def renew(self, now: float) -> bool:
        """Start a new window if the last one is over. Return True if so: the present packet is its first."""
        if now < self.window_end:
            return False
        self.allowance = PACKETS_AT_ONCE - 1
        self.window_end = now + PACKETS_WINDOW
        return True


class FlowTable(OwnershipTable[bytes]):
    """All flows of a relay. `by_header` has the confirmed ones by the link header that their owner sends.

    It has one header of each flow, and is cleared regularly, so that the header of a retired key ends.
    """

    def __init__(self, ingresses: dict[bytes, Ingress]) -> None:
        super().__init__(takeover_seconds=TAKEOVER_SECONDS, silent_seconds=SILENT_SECONDS)
        self.by_header: dict[bytes, Flow] = {}
        self._ingresses = ingresses

    def flow(self, key: bytes) -> "Flow | None":
        """Return the flow of an encoded path."""
        claim = self._claims.get(key)
        return claim if isinstance(claim, Flow) else None

    def restore(self, key: bytes, owner: bytes, now: float) -> None:
        """Confirm a path without an owner, from the flow cache. Any owner that answers may take it over."""
        if key not in self._claims:
            self.confirm(key, owner, now - TAKEOVER_SECONDS)

    def _begin(self, key: bytes, owner: bytes, now: float) -> Flow:
        ingress = self._ingresses[key[:PATH_HEAD_SIZE]]
        flow = Flow(key, owner, now, ingress)
        ingress.flows[flow.client] = flow
        return flow

    def _end(self, claim: Claim[bytes]) -> None:
        super()._end(claim)
        if isinstance(claim, Flow):
            del claim.ingress.flows[claim.client]
            self.by_header.pop(claim.downlink_header, None)
