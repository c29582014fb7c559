"""The vocabulary of protocol cores: state machines without sockets, clock, entropy or logging.

Every protocol machine (ICE, DTLS, a call's session, the relay) has the five methods of `Core`. A shell hands it one
input, then drains `poll_transmit` and `poll_event` until both return None, then sleeps until `poll_timeout`.
"""

import ipaddress
from typing import NamedTuple, Protocol, Self, TypeVar

from antiphon_common.errors import DecodeError
from antiphon_common.wire import Reader

TRANSPORT_UDP = 17
"""Transport numbers are those of IANA's protocol registry; TCP (6) stands for ICE-TCP."""

PATH_SIZE = 22
"""Bytes of an encoded path: transport, zero, ingress, port, address."""


class Path(NamedTuple):
    """The way one client's packets come: which public address they reach, and from where.

    `address` is always 16 bytes; an IPv4 address is mapped (RFC 4291 §2.5.5.2). Where there is no relay, as in the
    test client, `ingress` is 0 and the path is just the peer's transport address.
    """

    ingress: int
    transport: int
    address: bytes
    port: int

    @classmethod
    def of(cls, host: str, port: int, *, ingress: int = 0, transport: int = TRANSPORT_UDP) -> Self:
        """Make a path of a numeric host; a scope id (`%eth0`) is dropped."""
        address = ipaddress.ip_address(host.partition("%")[0])
        packed = address.packed if address.version == 6 else b"\0" * 10 + b"\xff\xff" + address.packed
        return cls(ingress, transport, packed, port)

    @property
    def host(self) -> str:
        """The client's numeric address, IPv4 unmapped."""
        address = ipaddress.IPv6Address(self.address)
        return str(address.ipv4_mapped or address)

    def encode(self) -> bytes:
        """Return the `PATH_SIZE` bytes that the link header carries."""
        head = bytes((self.transport, 0))
        return head + self.ingress.to_bytes(2, "big") + self.port.to_bytes(2, "big") + self.address

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Invert `encode`; raise DecodeError unless `data` is one whole path."""
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
    """One datagram to send. `path` is None where the machine leaves the choice of path to what it is part of."""

    data: bytes
    path: Path | None


Event_co = TypeVar("Event_co", covariant=True)


class Core(Protocol[Event_co]):
    """The five methods. Time is in seconds as float on one monotonic scale, and never runs backwards."""

    def receive_datagram(self, data: bytes, source: Path, now: float) -> None:
        """Take one datagram. Bad bytes are counted and dropped, never raised."""

    def handle_timeout(self, now: float) -> None:
        """Do what is due by `now`; harmless when called early."""

    def poll_transmit(self) -> Transmit | None:
        """Return the next datagram to send, or None."""

    def poll_event(self) -> Event_co | None:
        """Return the next thing that happened, or None."""

    def poll_timeout(self) -> float:
        """Return when `handle_timeout` is due, in the seconds of `now`; infinity for never."""
