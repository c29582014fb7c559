"""The relay's soft state: which client is reached through which public address, and who owns its packets.

Each flow keeps what the hot path needs ready-made: one look-up by the client's encoded address on the way up, one by
the 32 bytes of the link header on the way down.
"""

from math import inf

from antiphon_common.core import TRANSPORT_UDP, Path
from antiphon_common.ownership import Claim, OwnershipTable
from antiphon_common.sockaddr import from_port_and_address, port_and_address
from antiphon_relay.limits import Bucket

PATH_HEAD_SIZE = 4
"""Bytes of an encoded path that name the ingress: transport, zero, ingress id."""

TAKEOVER_SECONDS = 10.0
"""Silence of an owner after which another may have its path; a live one answers a check every few seconds."""
SILENT_SECONDS = 60.0
"""Silence after which nobody owns a path any more: a transceiver gives its peer up after 30 s."""

CHECKS_PER_SECOND, CHECKS_AT_ONCE = 20.0, 40
"""Binding requests of a confirmed flow that its own limit lets pass: a client at rest sends one in 2.5 s, one that
nominates anew 20 a second."""

PACKETS_AT_ONCE, PACKETS_WINDOW = 500, 1.0
"""What else a flow may send in so many seconds. Audio is 50 to 100 packets a second, with feedback and a data channel
less than twice that; what comes faster is a flood, and would be an owner's who has to decrypt it to find out."""

BINDING_REQUEST = b"\x00\x01"
"""How a binding request begins (RFC 8489 §5)."""

Datagram = tuple[bytes, bytes]
"""What is sent, and the encoded address it goes to; or what came, and where from."""


class Ingress:
    """One public address. `outbox` holds what is to leave it, `flows` its clients by encoded address; a shared one is
    `away` while another host has it."""

    __slots__ = ("address_size", "away", "flows", "head", "id", "outbox")

    def __init__(self, ingress: int, address_size: int) -> None:
        self.id = ingress
        self.address_size = address_size
        self.away = False
        self.head = bytes((TRANSPORT_UDP, 0)) + ingress.to_bytes(2, "big")
        self.flows: dict[bytes, Flow] = {}
        self.outbox: list[Datagram] = []

    def key(self, client: bytes) -> bytes:
        """Return the encoded path of a client's encoded address."""
        return self.head + port_and_address(client)


class Flow(Claim[bytes]):
    """A path with an owner, which is a transceiver's encoded link address."""

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
        """When it was last left to other relays, in the flow cache."""

    @property
    def path(self) -> Path:
        return Path.decode(self.key)

    def is_spent(self, now: float) -> bool:
        """Whether what comes by it now is over its own limit."""
        return not self.allowance and now < self.window_end

    def renew(self, now: float) -> bool:
        """Begin a new window once the allowance is used up; return whether it was time for one. The packet that asks is
        the first of the new window."""
        if now < self.window_end:
            return False
        self.allowance = PACKETS_AT_ONCE - 1
        self.window_end = now + PACKETS_WINDOW
        return True


class FlowTable(OwnershipTable[bytes]):
    """All flows of a relay. `by_header` finds the confirmed ones by the link header their owner sends."""

    def __init__(self, ingresses: dict[bytes, Ingress]) -> None:
        super().__init__(takeover_seconds=TAKEOVER_SECONDS, silent_seconds=SILENT_SECONDS)
        self.by_header: dict[bytes, Flow] = {}
        self._ingresses = ingresses

    def flow(self, key: bytes) -> "Flow | None":
        claim = self._claims.get(key)
        return claim if isinstance(claim, Flow) else None

    def restore(self, key: bytes, owner: bytes, now: float) -> None:
        """Confirm a path that is nobody's, on hearsay: whoever answers there may have it."""
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
