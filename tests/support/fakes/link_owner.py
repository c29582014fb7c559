"""A fake transceiver with a real link socket. It owns paths and echoes every datagram."""

import socket
from typing import Any

import msgspec
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from antiphon_common.control import LinkInfo, is_authorized
from antiphon_common.core import Path
from antiphon_common.keys import KeyRing
from antiphon_common.link import (
    DOWNLINK,
    HEADER_SIZE,
    MAX_ANNOUNCED_PATHS,
    MESSAGE,
    PATH_START,
    PATH_STOP,
    Announce,
    Confirm,
    LinkKeys,
    RelayHello,
    decode_message,
)
from antiphon_common.routing import RouteToken, RouteTokens
from antiphon_common.settings import Address
from antiphon_common.shell.admin import serve_http
from antiphon_common.shell.udp import BatchSocket
from antiphon_relay.flows import BINDING_REQUEST


class LinkOwner:
    """A transceiver that confirms paths and echoes datagrams. Call `run` to serve the link.

    It confirms each path at its first datagram and at each check. With `announces`, it announces all paths to each
    relay that has just started.
    """

    def __init__(self, keys: KeyRing, link: BatchSocket, *, announces: bool = True) -> None:
        self.link = link
        self.paths: dict[Path, Address] = {}
        """The link address of the relay from which each path was last received."""
        self.boots: dict[Address, int] = {}
        """The boot id in the HELLO of each relay."""
        self.key_ids: dict[Address, int] = {}
        """The key id of the last packet of each relay."""
        self.away: dict[Address, tuple[int, ...]] = {}
        """The ingresses without their address, from the HELLO of each relay."""
        self._announces = announces
        self._keys = keys
        self._link_keys = LinkKeys(keys.link)

    def token(self, nonce: int = 0) -> bytes:
        """Mint a token of cluster 0, whose network is 127.0.0.0/24."""
        return RouteTokens(self._keys.route).mint(RouteToken(0, 1, self.link.address[1], nonce), 0).encode()

    async def run(self) -> None:
        while True:
            await self.link.wait_readable()
            for data, (host, port) in self.link.receive_batch():
                relay = Address(host, port)
                if data[0] & MESSAGE:
                    self._receive_message(data[HEADER_SIZE:], relay)
                    continue
                path = Path.decode(data[PATH_START:PATH_STOP])
                self.key_ids[relay] = data[1]
                if path not in self.paths or data.startswith(BINDING_REQUEST, HEADER_SIZE):
                    self.link.queue(self._link_keys.encode(Confirm(path), 0), relay)
                self.paths[path] = relay
                self.link.queue(self._link_keys.header(path, DOWNLINK, 0) + data[HEADER_SIZE:], relay)
            self.link.flush()

    async def serve_control(self, *, task_status: trio.TaskStatus[str]) -> None:
        """Serve `GET /link`. The started value is the URL."""

        async def link(request: Request) -> Response:
            if not is_authorized(self._keys.control, request.headers.get("authorization", ""), 0):
                return Response(status_code=401)
            return Response(msgspec.json.encode(LinkInfo(0, (str(Address(*self.link.address)),))))

        app = Starlette(routes=[Route("/link", link)])
        async with trio.open_nursery() as nursery:
            address = await nursery.start(serve_http, app, "127.0.0.1", 0)
            task_status.started(f"http://{address}")

    def _receive_message(self, body: bytes, relay: Address) -> None:
        hello = decode_message(body)
        assert isinstance(hello, RelayHello)
        self.away[relay] = hello.away
        if self.boots.get(relay) == hello.boot_id:
            return
        self.boots[relay] = hello.boot_id
        paths = [path for path in self.paths if path.ingress in hello.ingresses] if self._announces else []
        for start in range(0, len(paths), MAX_ANNOUNCED_PATHS):
            announce = Announce(tuple(paths[start : start + MAX_ANNOUNCED_PATHS]))
            self.link.queue(self._link_keys.encode(announce, 0), relay)


def connected(host: str, port: int) -> socket.socket:
    """Return a client's socket that is connected to an address."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect((host, port))
    sock.setblocking(False)
    return sock


async def exchange(client: socket.socket, data: bytes) -> bytes:
    """Send a datagram and return the answer."""
    client.send(data)
    with trio.fail_after(5):
        await trio.lowlevel.wait_readable(client)
    return client.recv(2048)


async def settle(condition: Any, seconds: float = 10.0) -> None:
    """Wait until `condition` holds. Raises TooSlowError after `seconds`."""
    with trio.fail_after(seconds):
        while not condition():
            await trio.sleep(0.005)
