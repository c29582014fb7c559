"""The values of settings, and readers of them from text. A reader raises ValueError with a hint on what to write."""

import ipaddress
import re
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import urlsplit

from antiphon_common.formats import FORMATS

MEDIA_PORT = 3478
"""Default port of media addresses: the port of STUN (RFC 8489 §18.6)."""

MAX_WORKERS = 256
"""Largest number of worker processes of a relay. Machines have no more processors, and each process opens sockets."""


class Address(NamedTuple):
    """A numeric IP address and a port. Functions of sockets accept it."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Media(NamedTuple):
    """A public media socket, from `--media`. `read_media` reads it.

    `advertised` is the address for callers, or None if that is the local address. `ingress` is the ingress id, or None
    if it follows from the advertised address.
    """

    local: Address
    advertised: Address | None = None
    ingress: int | None = None

    def __str__(self) -> str:
        head = "" if self.ingress is None else f"{self.ingress}="
        return f"{head}{self.local}" + ("" if self.advertised is None else f",{self.advertised}")


class Backend(NamedTuple):
    """An inference backend, from `--backend`. `url` is None for a shipped backend that runs in this process."""

    name: str
    url: str | None = None

    def __str__(self) -> str:
        return self.name if self.url is None else f"{self.name}={self.url}"


Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class ClusterNetwork(NamedTuple):
    """The network and ports of a cluster's link sockets. Route tokens lead to no other address; see
    `ClusterNetworks`."""

    cluster: int
    network: Network
    first_port: int
    last_port: int

    def __str__(self) -> str:
        return f"{self.cluster}={self.network}:{self.first_port}-{self.last_port}"


def is_loopback(host: str) -> bool:
    """Return True if a numeric address can only be reached from this machine."""
    return ipaddress.ip_address(host).is_loopback


def read_text(text: str) -> str:
    """Return a text that is not empty.

    Raises:
        ValueError: the text is empty.
    """
    if not text:
        raise ValueError("write something, or leave the setting out")
    return text


def read_host(text: str) -> str:
    """Return a numeric address; `localhost` is 127.0.0.1.

    Raises:
        ValueError: the text is neither.
    """
    if text == "localhost":
        return "127.0.0.1"
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError("write a numeric address such as 192.0.2.7 or [2001:db8::7]") from None


def read_host_name(text: str) -> str:
    """Return a DNS name, as in a `Host` header without a port, in lower case.

    Raises:
        ValueError: the text is no DNS name.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", text):
        raise ValueError("write a host name such as metrics.example.com")
    return text.lower()


def read_address(text: str, default_port: int | None = None) -> Address:
    """Read `HOST:PORT`, with an IPv6 host in brackets. The port is optional if there is a default.

    Raises:
        ValueError: the host is not numeric, or the port is missing or above 65535.
    """
    if match := re.fullmatch(r"\[([^]]*)\](?::(\d+))?|([^:]*)(?::(\d+))?", text):
        host, port = match[1] or match[3] or "", match[2] or match[4]
    elif default_port is not None:
        host, port = text, None  # an IPv6 address without brackets can only be without a port
    else:
        raise ValueError("write HOST:PORT, an IPv6 host in brackets")
    if port is None and default_port is None:
        raise ValueError(f"write a port too, such as {text}:8080")
    number = int(port) if port else default_port or 0
    if number > 65535:
        raise ValueError("ports end at 65535")
    return Address(read_host(host), number)


def read_advertised(text: str) -> Address:
    """Read `HOST` or `HOST:PORT`. Port 0 means the port of the media socket.

    Raises:
        ValueError: as in `read_address`.
    """
    return read_address(text, default_port=0)


def read_media(text: str) -> Media:
    """Read `[ID=]LOCAL[,ADVERTISED]`.

    Raises:
        ValueError: the ingress id is not 1 to 65535, or an address is malformed.
    """
    head, equals, rest = text.rpartition("=")
    local, comma, advertised = rest.partition(",")
    ingress = _read_number(head, 1, 65535, "an ingress id is a number from 1 to 65535") if equals else None
    bound = read_address(local, MEDIA_PORT)
    return Media(bound, read_address(advertised, bound.port) if comma else None, ingress)


def read_backend(text: str) -> Backend:
    """Read `NAME=URL`, or the bare name of a shipped backend.

    Raises:
        ValueError: the name is malformed, or the URL is not ws:// or wss://.
    """
    name, equals, url = text.partition("=")
    if not re.fullmatch(r"[A-Za-z0-9._-]+", name):
        raise ValueError("write NAME=ws://HOST:PORT, or the name of a shipped backend: echo, loopback")
    if not equals:
        return Backend(name)
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss") or not parts.hostname:
        raise ValueError(f"the URL of a backend begins with ws:// or wss://, as in {name}=ws://127.0.0.1:9000")
    return Backend(name, url)


def read_audio(text: str) -> str:
    """Return a format of `antiphon_common.formats`; `pcm16` means 24 kHz.

    Raises:
        ValueError: the format is unknown.
    """
    audio = "pcm16/24000" if text == "pcm16" else text
    if audio not in FORMATS:
        raise ValueError(f"write one of {', '.join(FORMATS)}")
    return audio


def read_network(text: str) -> Network:
    """Read a network in CIDR form.

    Raises:
        ValueError: the text is no network, or has host bits.
    """
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        raise ValueError("write a network such as 10.0.0.0/8, without host bits") from None


def read_cluster_network(text: str) -> ClusterNetwork:
    """Read `CLUSTER=CIDR:PORTS`, with the ports as `FIRST-LAST` or one number.

    Raises:
        ValueError: a part is malformed, or the ports are no range.
    """
    match = re.fullmatch(r"(\d+)=(\S+/\d+):(\d+)(?:-(\d+))?", text)
    if not match:
        raise ValueError("write CLUSTER=CIDR:FIRST-LAST, such as 0=10.0.0.0/8:40000-40999")
    first, last = int(match[3]), int(match[4] or match[3])
    if not 0 < first <= last <= 65535:
        raise ValueError("the ports are a range within 1-65535, the lower one first")
    return ClusterNetwork(read_cluster(match[1]), read_network(match[2]), first, last)


def read_cluster(text: str) -> int:
    """Return a cluster id.

    Raises:
        ValueError: it is not 0 to 65535.
    """
    return _read_number(text, 0, 65535, "a cluster is a number from 0 to 65535")


def read_count(text: str) -> int:
    """Return a whole number above 0.

    Raises:
        ValueError: the text is not one, or above a million.
    """
    return _read_number(text, 1, 1_000_000, "write a whole number above 0")


def read_workers(text: str) -> int:
    """Return the number of worker processes of a relay.

    Raises:
        ValueError: it is not 1 to MAX_WORKERS.
    """
    return _read_number(text, 1, MAX_WORKERS, f"write a whole number from 1 to {MAX_WORKERS}")


def read_url(text: str) -> str:
    """Return an HTTP URL without a path. A slash at its end is removed.

    Raises:
        ValueError: the text is no such URL.
    """
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
        raise ValueError("write a URL such as http://127.0.0.1:8090")
    return text.rstrip("/")


def read_redis(text: str) -> str:
    """Return the URL of a Redis server, with password and database if any.

    Raises:
        ValueError: the text is no such URL. The message does not quote it.
    """
    parts = urlsplit(text)
    if parts.scheme not in ("redis", "rediss", "unix") or not (parts.hostname or parts.scheme == "unix"):
        raise ValueError("write a URL such as redis://127.0.0.1:6379/0, or rediss:// for TLS")
    return text


def read_seconds(text: str) -> float:
    """Return seconds, with optional decimals.

    Raises:
        ValueError: the text is no such number.
    """
    if not re.fullmatch(r"\d+(\.\d+)?", text):
        raise ValueError("write seconds, such as 25 or 0.5")
    return float(text)


def read_rate(text: str) -> float:
    """Return a rate per second above zero, with optional decimals.

    Raises:
        ValueError: the text is no such number.
    """
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", text) or float(text) == 0:
        raise ValueError("write a number a second, such as 20 or 0.5")
    return float(text)


def one_of(*choices: str) -> Callable[[str], str]:
    """Return a reader that accepts only `choices`, and raises ValueError for other words."""

    def read(text: str) -> str:
        if text not in choices:
            raise ValueError(f"write {' or '.join(choices)}")
        return text

    return read


def _read_number(text: str, lowest: int, highest: int, hint: str) -> int:
    if not text.isdecimal() or not lowest <= int(text) <= highest:
        raise ValueError(hint)
    return int(text)
