"""The common types of protocol cores, which are state machines without sockets, clock, entropy or logging.

Every protocol machine (ICE, DTLS, SCTP, a peer's transport, a call) has the five methods of `Core`. A shell passes it
one input, then drains `poll_transmit` and `poll_event` until both return None, then sleeps until `poll_timeout`. The
relay's forwarder is a plain object instead, since it forwards in batches.
"""

import ipaddress
from typing import NamedTuple, Protocol, Self, TypeVar

from antiphon_common.errors import DecodeError
from antiphon_common.wire import Reader

TRANSPORT_UDP = 17
"""Transports have the numbers of IANA's protocol registry. TCP (6) means ICE-TCP."""

PATH_SIZE = 22
"""Bytes of an encoded path: transport, zero, ingress, port, address."""


class Path(NamedTuple):
    """The path of a client's packets: their source, and the ingress at which they arrive. Tables use it as a key.

    `address` has 16 bytes; an IPv4 address is mapped (RFC 4291 §2.5.5.2). Without a relay, as in the test client,
    `ingress` is 0, and the path is the peer's transport address.
    """

    ingress: int
    transport: int
    address: bytes
    port: int

    @classmethod
    def of(cls, host: str, port: int, *, ingress: int = 0, transport: int = TRANSPORT_UDP) -> Self:
        """Make the path of a numeric host. A scope id (`%eth0`) is removed.

        Raises:
            ValueError: `host` is not numeric.
        """
        address = ipaddress.ip_address(host.partition("%")[0])
        packed = address.packed if address.version == 6 else b"\0" * 10 + b"\xff\xff" + address.packed
        return cls(ingress, transport, packed, port)

    @property
    def host(self) -> str:
        """The client's numeric address. A mapped address is returned as IPv4."""
        address = ipaddress.IPv6Address(self.address)
        return str(address.ipv4_mapped or address)

    def encode(self) -> bytes:
        """Return the `PATH_SIZE` bytes that the link header carries."""
        head = bytes((self.transport, 0))
        return head + self.ingress.to_bytes(2, "big") + self.port.to_bytes(2, "big") + self.address

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Invert `encode`.

        Raises:
            DecodeError: `data` is not one whole path.
        """
        reader = Reader(data)
        transport, zero = reader.pull_uint8(), reader.pull_uint8()
        ingress, port, address = reader.pull_uint16(), reader.pull_uint16(), reader.pull_bytes(16)
        reader.expect_end()
        if zero:
            raise DecodeError("the reserved byte of a path is not zero")
        return cls(ingress, transport, address, port)

    def __str__(self) -> str:
        host = self.host
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


class Transmit(NamedTuple):
    """One datagram to send, from `poll_transmit`. `path` is None if the enclosing machine chooses the path."""

    data: bytes
    path: Path | None


Event_co = TypeVar("Event_co", covariant=True)


class Core(Protocol[Event_co]):
    """The five methods of a protocol machine. Its shell or the enclosing machine calls them.

    Times are in seconds on one monotonic scale.
    """

    def receive_datagram(self, data: bytes, source: Path, now: float) -> None:
        """Handle one datagram. Malformed ones are counted and dropped, and raise nothing."""

    def handle_timeout(self, now: float) -> None:
        """Do what is due by `now`. An early call does nothing."""

    def poll_transmit(self) -> Transmit | None:
        """Return the next datagram to send, or None."""

    def poll_event(self) -> Event_co | None:
        """Return the next event, or None."""

    def poll_timeout(self) -> float:
        """Return when `handle_timeout` is due, in the seconds of `now`; infinity for never."""
