"""Public sockets from the setting --media: the address that each binds and advertises, and its ingress id."""

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


class PublicSocketError(AntiphonError, ValueError):
    """A --media setting that cannot be used; the message says what to change."""


class AdvertisedAddress(NamedTuple):
    """A public address as callers see it, with its ingress id."""

    ingress: int
    host: str
    port: int


class PublicSocket(NamedTuple):
    """An open public socket, the ingress that it belongs to, and the address that callers use."""

    ingress: Ingress
    socket: BatchSocket
    advertised: Address


def expand(settings: Iterable[Media]) -> list[Media]:
    """Replace each wildcard by this host's addresses, so that a reply leaves from the address that was used.

    Where an advertised address or an ingress id is set, a wildcard stands for the address of the default route.

    Raises:
        PublicSocketError: nothing is left, since this host has no such address.
    """
    expanded = [one for media in settings for one in _expand(media)]
    if not expanded:
        raise PublicSocketError("--media: this host has no such address; name one")
    return expanded


def open_public_sockets(settings: Iterable[Media], stack: ExitStack, *, shared: bool = False) -> list[PublicSocket]:
    """Open the public sockets; `stack` closes them. With `shared`, `open_again` can open more of each.

    Raises:
        OSError: an address cannot be bound.
        PublicSocketError: the settings cannot be used, or two ingress ids are the same.
    """
    opened: list[PublicSocket] = []
    for local, advertised, ingress_id in expand(settings):
        family = socket.AF_INET6 if ":" in local.host else socket.AF_INET
        if local.host not in local_addresses(family) and not local.host.startswith("127."):
            log.warning("bound to an address that this host does not have yet", extra={"address": local.host})
        if shared and local.port:
            BatchSocket.open(local, freebind=True).close()  # another relay's sockets would share our flows
        sock = stack.enter_context(BatchSocket.open(local, freebind=True, shared=shared))
        bound = Address(local.host, sock.address[1])
        public = advertised or bound
        if advertised is not None and advertised.port == 0:
            public = Address(advertised.host, bound.port)
        ingress = Ingress(ingress_id_of(public) if ingress_id is None else ingress_id, SIZE[family])
        opened.append(PublicSocket(ingress, sock, public))
    _check_ids(opened)
    return opened


def open_again(opened: Iterable[PublicSocket], stack: ExitStack) -> list[PublicSocket]:
    """Open one more socket at each of these addresses, for another worker. The kernel divides the flows by a hash."""
    return [
        PublicSocket(
            Ingress(ingress.id, ingress.address_size),
            stack.enter_context(BatchSocket.open(sock.address, freebind=True, shared=True)),
            advertised,
        )
        for ingress, sock, advertised in opened
    ]


def ingress_id_of(advertised: Address) -> int:
    """Return the default ingress id of an advertised address, 1 to 65535: the same at every relay behind it."""
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


def _check_ids(opened: list[PublicSocket]) -> None:
    seen: dict[int, Address] = {}
    for ingress, _, advertised in opened:
        if ingress.id == 0:
            raise PublicSocketError(f"--media: ingress id 0 of {advertised} is taken by the link; ids begin at 1")
        if ingress.id in seen:
            raise PublicSocketError(
                f"--media: {advertised} and {seen[ingress.id]} have the same ingress id {ingress.id}; "
                "give one of them another as ID=LOCAL"
            )
        seen[ingress.id] = advertised
