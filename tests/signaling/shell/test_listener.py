"""Raw bytes sent to the real listener."""

import contextlib
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import h11
import pytest
import trio

from antiphon_common.settings import FrontSettings
from antiphon_common.shell.admin import listen_tcp
from antiphon_common.shell.http1 import MAX_HEAD, Timeouts
from antiphon_signaling import SignalingPorts
from antiphon_signaling.shell import listener
from antiphon_signaling.shell.http import BODY_SECONDS, MAX_DRAINED
from antiphon_signaling.shell.listener import Listener, Upgraded
from antiphon_signaling.shell.tls import make_tls
from support.fakes.transceiver import FakeTransceiver

StartSignaling = Callable[..., Awaitable[SignalingPorts]]

UPGRADE = (
    b"GET /v1/signaling HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


async def read_head(stream: trio.abc.Stream) -> bytes:
    """Return the head of the next response, and skip its body of known length."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = await stream.receive_some()
        assert more, f"the connection ended after {data!r}"
        data += bytes(more)
    head, _, body = data.partition(b"\r\n\r\n")
    sizes = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    left = int(sizes[0].partition(b":")[2]) - len(body) if sizes else 0
    while left > 0:
        left -= len(await stream.receive_some(left))
    return head


async def connect(ports: SignalingPorts) -> trio.SocketStream:
    return await trio.open_tcp_stream(*ports.address)


def post(body: bytes) -> bytes:
    return b"POST /v1/realtime/calls HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


@pytest.mark.parametrize("piece", [1, 7, 10_000])
async def test_a_connection_kept_alive_can_upgrade_later(ports: SignalingPorts, piece: int) -> None:
    async with await connect(ports) as stream:
        for body in (b"", b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n"):
            await stream.send_all(post(body))
            assert (await read_head(stream)).startswith(b"HTTP/1.1 415")
        for start in range(0, len(UPGRADE), piece):
            await stream.send_all(UPGRADE[start : start + piece])
        head = await read_head(stream)
        assert head.startswith(b"HTTP/1.1 101")
        assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head
        await stream.send_all(b"\x89\x80\0\0\0\0")
        assert await stream.receive_some() == b"\x8a\0"


async def test_an_upgrade_on_another_path_or_to_another_protocol_is_refused(ports: SignalingPorts) -> None:
    async with await connect(ports) as stream:
        await stream.send_all(UPGRADE.replace(b"signaling", b"elsewhere"))
        assert (await read_head(stream)).startswith(b"HTTP/1.1 404")
    async with await connect(ports) as stream:
        await stream.send_all(UPGRADE.replace(b"websocket", b"other"))
        assert (await read_head(stream)).startswith(b"HTTP/1.1 404")


@pytest.mark.parametrize("broken", [b"Host: \xd6\xff", b"Host: " + b"a" * 70, b"Sec-WebSocket-Key: no"])
async def test_an_invalid_handshake_ends_its_connection_without_an_error_in_the_log(
    ports: SignalingPorts, broken: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    name = broken.partition(b":")[0]
    head = re.sub(rb"%s: [^\r]*" % name, lambda match: broken, UPGRADE)
    async with await connect(ports) as stream:
        await stream.send_all(head)
        with trio.fail_after(5), contextlib.suppress(trio.BrokenResourceError):
            await stream.receive_some()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 2 * MAX_HEAD, b"431"),
        (b"no http at all\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", b"400"),
    ],
)
async def test_bad_heads_are_refused_and_the_connection_closed(
    ports: SignalingPorts, request_bytes: bytes, status: bytes
) -> None:
    async with await connect(ports) as stream:
        await stream.send_all(request_bytes)
        assert (await read_head(stream)).startswith(b"HTTP/1.1 " + status)
        with trio.fail_after(5):
            try:
                assert await stream.receive_some() == b""
            except trio.BrokenResourceError:
                return


async def test_a_body_that_is_far_too_long_is_refused_before_its_end(ports: SignalingPorts) -> None:
    async with await connect(ports) as stream:
        head = b"POST /v1/realtime/calls HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/sdp\r\n"
        await stream.send_all(head + b"Content-Length: %d\r\n\r\n" % 2**40)
        await stream.send_all(bytes(MAX_DRAINED + 1))
        with trio.fail_after(BODY_SECONDS / 2):
            assert (await read_head(stream)).startswith(b"HTTP/1.1 413")


async def test_the_listener_refuses_http_2(ports: SignalingPorts) -> None:
    async with await connect(ports) as stream:
        await stream.send_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert (await read_head(stream)).startswith(b"HTTP/1.1 505")


@pytest.mark.parametrize(
    "target", [b"//[", b"//[::1", b"/v1/signaling?model=%ff%fe", b"http://[/v1/signaling", b"*", b"/\xff"]
)
@pytest.mark.parametrize("kind", ["upgrade", "plain"])
async def test_a_malformed_target_is_refused(
    ports: SignalingPorts, target: bytes, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    head = UPGRADE.replace(b"/v1/signaling", target)
    if kind == "plain":
        head = head.replace(b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n", b"")
    async with await connect(ports) as stream:
        await stream.send_all(head)
        status = int((await read_head(stream)).split()[1])
    assert status in (101, 400, 404, 405)
    assert not [record for record in caplog.records if record.levelname in ("ERROR", "WARNING")]


async def test_chunked_offers_are_accepted(ports: SignalingPorts, offer: bytes, transceiver: FakeTransceiver) -> None:
    head = (
        b"POST /v1/realtime/calls HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/sdp\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    )
    async with await connect(ports) as stream:
        await stream.send_all(head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(offer), offer))
        assert (await read_head(stream)).startswith(b"HTTP/1.1 201")
    assert len(transceiver.calls) == 1


@asynccontextmanager
async def listening(upgraded: Upgraded, tls: ssl.SSLContext | None, **options: Any) -> AsyncIterator[tuple[str, int]]:
    """Run a listener alone. Yield its address."""

    async def nothing(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("no request is expected")

    sock = listen_tcp("127.0.0.1", 0)
    async with trio.open_nursery() as nursery:
        listener = Listener(nothing, upgraded, tls, **options)
        nursery.start_soon(listener.run, sock)
        yield sock.getsockname()
        nursery.cancel_scope.cancel()


async def test_a_websocket_client_that_never_reads_is_disconnected() -> None:
    ended = trio.Event()

    async def send_endlessly(stream: trio.abc.Stream, request: h11.Request, peer: str) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            while True:
                await stream.send_all(bytes(65536))
        ended.set()

    serving = listening(send_endlessly, None, timeouts=Timeouts(write=0.1))
    async with serving as address, await trio.open_tcp_stream(*address) as stream:
        await stream.send_all(UPGRADE)
        with trio.fail_after(10):
            await ended.wait()


@pytest.mark.parametrize("hello", [b"", b"\x16\x03\x01\x00\xff", b"GET / HTTP/1.1\r\n"])
async def test_a_slow_tls_handshake_is_disconnected(hello: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "HANDSHAKE_SECONDS", 0.1)
    tls, _ = make_tls(FrontSettings(tls="self-signed"), [])

    async def never(stream: trio.abc.Stream, request: h11.Request, peer: str) -> None:
        raise AssertionError("no WebSocket is expected")

    async with listening(never, tls) as address, await trio.open_tcp_stream(*address) as stream:
        await stream.send_all(hello)
        with trio.fail_after(5), contextlib.suppress(trio.BrokenResourceError):
            while await stream.receive_some():
                pass


@pytest.mark.parametrize(("version", "status"), [(b"1.1", b"415"), (b"1.0", b"401")])
async def test_an_http_1_0_request_needs_a_key_because_it_may_come_from_a_proxy(
    ports: SignalingPorts, version: bytes, status: bytes
) -> None:
    """A reverse proxy may add no header and put its own address into Host."""
    async with await connect(ports) as stream:
        await stream.send_all(post(b"").replace(b"HTTP/1.1", b"HTTP/" + version))
        assert (await read_head(stream)).split()[1] == status
