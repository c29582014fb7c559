"""From the setting --media to public sockets: which address each has, what callers are told, and its ingress id."""

import logging
import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from hashlib import blake2b
from typing import NamedTuple

from antiphon_common.errors import AntiphonError
from antiphon_common.settings import Address, Media
from antiphon_common.shell.interfaces import default_address, local_addresses
from antiphon_common.shell.udp import BatchSocket
from antiphon_common.sockaddr import SIZE
from antiphon_relay.flows import Ingress

log = logging.getLogger(__name__)

WILDCARDS = {"0.0.0.0": socket.AF_INET, "::": socket.AF_INET6}


class MediaError(AntiphonError, ValueError):
    """Media settings that cannot be used; the message says what to do."""


class MediaSocket(NamedTuple):
    """A public socket and what callers are told of it."""

    ingress: Ingress
    socket: BatchSocket
    advertised: Address


def expand(settings: Iterable[Media]) -> list[Media]:
    """Put each wildcard's own addresses in its place, so that an answer leaves from the address that was asked.

    Where an advertised address or an ingress id is given, the wildcard stands for the address of the default route.
    """
    expanded = [one for media in settings for one in _expand(media)]
    if not expanded:
        raise MediaError("--media: this host has no such address; name one")
    return expanded


def open_media(settings: Iterable[Media], stack: ExitStack, *, shared: bool = False) -> list[MediaSocket]:
    """Open the public sockets; `stack` closes them. An OSError or MediaError says what cannot be had. With `shared`,
    `open_again` can open more of each."""
    opened: list[MediaSocket] = []
    for local, advertised, ingress_id in expand(settings):
        family = socket.AF_INET6 if ":" in local.host else socket.AF_INET
        if local.host not in local_addresses(family) and not local.host.startswith("127."):
            log.warning("bound to an address that this host does not have yet", extra={"address": local.host})
        if shared and local.port:
            BatchSocket.open(local, freebind=True).close()  # another relay's would divide its flows with us
        sock = stack.enter_context(BatchSocket.open(local, freebind=True, shared=shared))
        bound = Address(local.host, sock.address[1])
        public = advertised or bound
        if advertised is not None and advertised.port == 0:
            public = Address(advertised.host, bound.port)
        ingress = Ingress(ingress_id_of(public) if ingress_id is None else ingress_id, SIZE[family])
        opened.append(MediaSocket(ingress, sock, public))
    _check_ids(opened)
    return opened


def open_again(opened: Iterable[MediaSocket], stack: ExitStack) -> list[MediaSocket]:
    """Open another socket beside each of these, for another worker. The kernel divides their flows by a hash."""
    return [
        MediaSocket(
            Ingress(ingress.id, ingress.address_size),
            stack.enter_context(BatchSocket.open(sock.address, freebind=True, shared=True)),
            advertised,
        )
        for ingress, sock, advertised in opened
    ]


def ingress_id_of(advertised: Address) -> int:
    """Return the ingress id, 1 to 65535, that every relay behind an advertised address comes to by itself."""
    digest = blake2b(str(advertised).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % 0xFFFF + 1


def _expand(media: Media) -> Iterator[Media]:
    family = WILDCARDS.get(media.local.host)
    if family is None:
        yield media
    elif media.advertised is None and media.ingress is None:
        for host in local_addresses(family):
            yield Media(Address(host, media.local.port))
    elif (default := default_address(family)) is not None:
        yield media._replace(local=Address(default, media.local.port))


def _check_ids(opened: list[MediaSocket]) -> None:
    seen: dict[int, Address] = {}
    for ingress, _, advertised in opened:
        if ingress.id == 0:
            raise MediaError(f"--media: ingress id 0 of {advertised} is taken by the link; ids begin at 1")
        if ingress.id in seen:
            raise MediaError(
                f"--media: {advertised} and {seen[ingress.id]} have the same ingress id {ingress.id}; "
                "give one of them another as ID=LOCAL"
            )
        seen[ingress.id] = advertised
