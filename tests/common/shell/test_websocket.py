"""Both ends of a WebSocket against peers that write raw bytes, over real sockets."""

import base64
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

import anyio
import pytest
import trio

from antiphon_common.frames import MAX_MESSAGE_SIZE
from antiphon_common.shell.websocket import MAX_FRAMES, MAX_HANDSHAKE, WebSocket, WebSocketClosed, WebSocketRejected

REQUEST = (
    b"GET / HTTP/1.1\r\nHost: backend\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
"""RFC 6455 §1.3 has this key."""

FIN, RSV1 = 0x80, 0x40
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


def frame(opcode: int, payload: bytes = b"", *, flags: int = FIN, masked: bool = True) -> bytes:
    """Return one WebSocket frame (RFC 6455 §5.2); its mask is zero."""
    mask = 0x80 if masked else 0
    size = len(payload)
    if size < 126:
        length = bytes([mask | size])
    elif size < 1 << 16:
        length = bytes([mask | 126]) + size.to_bytes(2, "big")
    else:
        length = bytes([mask | 127]) + size.to_bytes(8, "big")
    return bytes([flags | opcode]) + length + bytes(4 if masked else 0) + payload


class Served(NamedTuple):
    """A server and the raw stream of its client. `accepted` has the WebSocket or the reason of the refusal."""

    client: trio.SocketStream
    accepted: trio.MemoryReceiveChannel[WebSocket | WebSocketClosed]


@asynccontextmanager
async def served() -> AsyncIterator[Served]:
    send, receive = trio.open_memory_channel[WebSocket | WebSocketClosed](1)

    async def accept(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            try:
                await send.send(await WebSocket.accept(stream))
                await trio.sleep_forever()
            except WebSocketClosed as closed:
                await send.send(closed)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, trio.open_nursery() as nursery:
        nursery.start_soon(listener.serve, accept)
        async with await trio.open_tcp_stream("127.0.0.1", port) as client:
            yield Served(client, receive)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def opened() -> AsyncIterator[tuple[trio.SocketStream, WebSocket]]:
    """Return a raw client, and the server's end of its WebSocket."""
    async with served() as (client, accepted):
        await client.send_all(REQUEST + b"\r\n")
        websocket = await accepted.receive()
        assert isinstance(websocket, WebSocket)
        answer = await head(client)
        assert answer.startswith(b"HTTP/1.1 101 ")
        yield client, websocket


async def head(stream: trio.SocketStream) -> bytes:
    answer = b""
    with trio.fail_after(5):
        while not answer.endswith(b"\r\n\r\n"):
            data = await stream.receive_some(1)
            assert data
            answer += data
    return answer


@asynccontextmanager
async def server(talk: Callable[[trio.SocketStream, bytes], Awaitable[None]]) -> AsyncIterator[anyio.abc.SocketStream]:
    """Serve raw bytes: `talk` gets the stream and the client's request. Yield a client's stream."""

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            with suppress(trio.BrokenResourceError):  # the client went away, as it should
                await talk(stream, await head(stream))

    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        await nursery.start(trio.serve_listeners, serve, [listener])
        async with await anyio.connect_tcp("127.0.0.1", listener.socket.getsockname()[1]) as stream:
            yield stream
        nursery.cancel_scope.cancel()


def switching(request: bytes, *headers: bytes) -> bytes:
    key = request.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
    token = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    lines = [b"HTTP/1.1 101 Switching Protocols", b"Upgrade: websocket", b"Connection: Upgrade", *headers]
    return b"\r\n".join([*lines, b"Sec-WebSocket-Accept: " + token, b"", b""])


async def close_code(client: trio.SocketStream) -> int:
    """Return the code of the close frame that the server's end sends."""
    received = b""
    with trio.fail_after(5):
        while True:
            data = await client.receive_some(4096)
            assert data, "closed without a close frame"
            received += data
            position = 0
            while len(received) >= position + 2 and len(received) >= position + 2 + received[position + 1]:
                size = received[position + 1]
                if received[position] == FIN | CLOSE:
                    return int.from_bytes(received[position + 2 : position + 4], "big")
                position += 2 + size


# Opening handshakes of clients


@pytest.mark.parametrize("origin", [b"https://evil.example", b"null", b"http://127.0.0.1:9000", b""])
@pytest.mark.parametrize("name", [b"Origin", b"origin", b"ORIGIN"])
async def test_a_request_of_a_web_page_is_refused(name: bytes, origin: bytes) -> None:
    """A server that is not meant for web pages checks the Origin (RFC 6455 §10.2)."""
    async with served() as (client, accepted):
        await client.send_all(REQUEST + name + b": " + origin + b"\r\n\r\n")
        assert isinstance(await accepted.receive(), WebSocketClosed)
        assert (await head(client)).startswith(b"HTTP/1.1 403 ")


@pytest.mark.parametrize(
    "request_head",
    [
        b"GET / HTTP/1.1\r\nHost: \xff\xfe\r\n" + REQUEST.partition(b"backend\r\n")[2],
        b"GET / HTTP/1.1\r\nHOST : xn--" + b"a" * 256 + b"\r\n" + REQUEST.partition(b"backend\r\n")[2],
        b"GET /\xff HTTP/1.1\r\n" + REQUEST.partition(b"\r\n")[2],
        REQUEST + b"Sec-WebSocket-Protocol: \xff\r\n",
        REQUEST + b"Sec-WebSocket-Extensions: \xff\r\n",
        REQUEST.replace(b"GET", b"POST"),
        REQUEST.replace(b"13", b"12"),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n",
    ],
)
async def test_a_request_that_is_not_a_handshake_is_refused_without_another_exception(request_head: bytes) -> None:
    async with served() as (client, accepted):
        await client.send_all(request_head + b"\r\n")
        assert isinstance(await accepted.receive(), WebSocketClosed)


@pytest.mark.parametrize("name", [b"Host: ", b"host:", b"HOST:\t "])
async def test_a_host_that_is_not_a_domain_name_is_not_decoded_as_idna(name: bytes) -> None:
    """Decoding punycode (RFC 3492) takes quadratic time. A domain name has at most 255 bytes."""
    async with served() as (client, accepted):
        await client.send_all(REQUEST.replace(b"Host: backend", name + b"xn--" + b"a" * 6000) + b"\r\n")
        closed = await accepted.receive()
        assert isinstance(closed, WebSocketClosed)
        assert "Host" in str(closed)


@pytest.mark.parametrize("line", [b"X: " + b"y" * 100 + b"\r\n", b"a:\r\n", b"X" * 1000])
async def test_an_endless_request_is_refused(line: bytes) -> None:
    async with served() as (client, accepted):
        with trio.fail_after(5):
            with suppress(trio.BrokenResourceError):
                await client.send_all(REQUEST + line * (10 * MAX_HANDSHAKE // len(line)))
            closed = await accepted.receive()
    assert isinstance(closed, WebSocketClosed)


async def test_offered_compression_is_not_negotiated_and_compressed_frames_end_the_connection() -> None:
    """permessage-deflate (RFC 7692) can expand a megabyte to a gigabyte."""
    async with served() as (client, accepted):
        await client.send_all(REQUEST + b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n")
        websocket = await accepted.receive()
        assert isinstance(websocket, WebSocket)
        assert b"extensions" not in (await head(client)).lower()
        await client.send_all(frame(BINARY, b"x", flags=FIN | RSV1))
        with pytest.raises(WebSocketClosed, match="Reserved bit"):
            await websocket.get_message()
        assert await close_code(client) == 1002


# Frames


async def test_messages_arrive_whole_with_control_frames_between_their_fragments() -> None:
    async with opened() as (client, websocket):
        pieces = [frame(BINARY, b"one ", flags=0), frame(PING, b"!"), frame(CONTINUATION, b"", flags=0)]
        await client.send_all(b"".join([*pieces, frame(PONG), frame(CONTINUATION, b"message"), frame(TEXT, b"text")]))
        assert await websocket.get_message() == b"one message"
        assert await websocket.get_message() == "text"
        assert await client.receive_some(3) == bytes([FIN | PONG, 1]) + b"!"


@pytest.mark.parametrize(
    "flood",
    [
        frame(BINARY, flags=0) + frame(CONTINUATION, flags=0) * MAX_FRAMES,
        frame(BINARY, b"x", flags=0) + frame(CONTINUATION, b"x", flags=0) * MAX_FRAMES,
        frame(PONG) * (MAX_FRAMES + 1),
        frame(PING, b"x" * 125) * (MAX_FRAMES + 1),
        (frame(PING) + frame(PONG)) * MAX_FRAMES,
    ],
    ids=["empty fragments", "short fragments", "pongs", "pings", "pings and pongs"],
)
async def test_endless_fragments_and_control_frames_end_the_connection(flood: bytes) -> None:
    async with opened() as (client, websocket), trio.open_nursery() as nursery:
        nursery.start_soon(client.send_all, flood)
        with trio.fail_after(10), pytest.raises(WebSocketClosed, match=f"more than {MAX_FRAMES} WebSocket frames"):
            await websocket.get_message()
        assert await close_code(client) == 1008


async def test_the_longest_message_may_have_the_maximum_number_of_fragments() -> None:
    piece = b"x" * (MAX_MESSAGE_SIZE // MAX_FRAMES)
    async with opened() as (client, websocket), trio.open_nursery() as nursery:
        fragments = [frame(CONTINUATION, piece, flags=0)] * (MAX_FRAMES - 2)
        message = b"".join([frame(BINARY, piece, flags=0), *fragments, frame(CONTINUATION, piece)])
        for _ in range(2):
            nursery.start_soon(client.send_all, message)
            assert await websocket.get_message() == piece * MAX_FRAMES


async def test_a_message_in_many_small_tcp_segments_is_accepted() -> None:
    async with opened() as (client, websocket), trio.open_nursery() as nursery:

        async def drip() -> None:
            for byte in frame(BINARY, b"x" * 3 * MAX_FRAMES):
                await client.send_all(bytes([byte]))

        nursery.start_soon(drip)
        with trio.fail_after(20):
            assert await websocket.get_message() == b"x" * 3 * MAX_FRAMES


@pytest.mark.parametrize("fragments", [1, 5])
async def test_a_message_that_is_too_long_ends_the_connection(fragments: int) -> None:
    async with opened() as (client, websocket), trio.open_nursery() as nursery:
        piece = bytes(MAX_MESSAGE_SIZE // fragments + 1)
        message = frame(BINARY, piece, flags=0) + frame(CONTINUATION, piece, flags=0) * (fragments - 1)
        nursery.start_soon(client.send_all, message)
        with pytest.raises(WebSocketClosed, match="too long"):
            await websocket.get_message()
        assert await close_code(client) == 1009
        nursery.cancel_scope.cancel()


async def test_other_tasks_run_while_a_buffer_of_small_frames_is_read() -> None:
    turns = 0
    async with opened() as (client, websocket):
        await client.send_all(frame(PONG) * (MAX_FRAMES - 1) + frame(BINARY, b"end"))
        await trio.sleep(0.1)  # all of it is in the socket's buffer
        async with trio.open_nursery() as nursery:

            async def count() -> None:
                nonlocal turns
                while True:
                    await trio.lowlevel.checkpoint()
                    turns += 1

            nursery.start_soon(count)
            assert await websocket.get_message() == b"end"
            nursery.cancel_scope.cancel()
    assert turns >= MAX_FRAMES // 64


@pytest.mark.parametrize(
    "broken",
    [frame(BINARY, b"x", masked=False), frame(3), frame(PING, flags=0), frame(CONTINUATION), frame(CLOSE, b"\x00")],
    ids=["unmasked", "unknown opcode", "fragmented ping", "continuation of nothing", "short close"],
)
async def test_a_protocol_violation_is_answered_with_a_close_frame(broken: bytes) -> None:
    async with opened() as (client, websocket):
        await client.send_all(broken)
        with pytest.raises(WebSocketClosed, match="not the WebSocket protocol"):
            await websocket.get_message()
        assert await close_code(client) == 1002


# Answers of servers


async def test_the_client_sends_no_origin_or_extensions_and_reads_messages_sent_with_the_response() -> None:
    requests = []

    async def talk(stream: trio.SocketStream, request: bytes) -> None:
        requests.append(request)
        await stream.send_all(switching(request) + frame(BINARY, b"hello", masked=False))
        await trio.sleep_forever()

    async with server(talk) as stream:
        websocket = await WebSocket.connect(stream, "backend.test:9000", "/calls?key=1")
        assert await websocket.get_message() == b"hello"
    assert requests[0].startswith(b"GET /calls?key=1 HTTP/1.1\r\nHost: backend.test:9000\r\n")
    names = {line.partition(b":")[0].lower() for line in requests[0].split()}
    assert not names & {b"origin", b"sec-websocket-extensions", b"sec-websocket-protocol"}


@pytest.mark.parametrize("status", [200, 301, 302, 307, 401, 404, 503])
async def test_a_response_other_than_101_is_refused_without_reading_its_body(status: int) -> None:
    """A response with an endless body or a redirect is not a WebSocket."""

    async def talk(stream: trio.SocketStream, request: bytes) -> None:
        lines = f"HTTP/1.1 {status} Whatever\r\nLocation: ws://127.0.0.1:1/\r\nTransfer-Encoding: chunked\r\n\r\n"
        await stream.send_all(lines.encode())
        while True:
            await stream.send_all(b"1000\r\n" + b"x" * 4096 + b"\r\n")

    async with server(talk) as stream:
        with trio.fail_after(5), pytest.raises(WebSocketRejected, match=f"HTTP {status}") as raised:
            await WebSocket.connect(stream, "backend", "/")
    assert raised.value.status == status


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 101 Switching Protocols\r\n" + b"X-Padding: yyyyyyyyyyyyyyyyyy\r\n" * 100_000,
        b"HTTP/1.1 101 Switching Protocols\r\nX: " + b"y" * 1_000_000,
        b"a:\r\n" * 100_000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 100_000,
        bytes(100_000),
        b"\xff\xfe\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: bm8=\r\n\r\n",
        b"",
    ],
    ids=["headers", "one header", "no status line", "informational", "zeros", "no text", "wrong accept", "nothing"],
)
async def test_a_malformed_or_endless_response_is_refused(answer: bytes) -> None:
    async def talk(stream: trio.SocketStream, request: bytes) -> None:
        await stream.send_all(answer)
        await stream.send_eof()

    async with server(talk) as stream:
        with trio.fail_after(5), pytest.raises(WebSocketClosed):
            await WebSocket.connect(stream, "backend", "/")


@pytest.mark.parametrize("header", [b"Sec-WebSocket-Extensions: permessage-deflate", b"Sec-WebSocket-Protocol: other"])
async def test_extensions_and_subprotocols_not_offered_are_refused(header: bytes) -> None:
    async def talk(stream: trio.SocketStream, request: bytes) -> None:
        await stream.send_all(switching(request, header))

    async with server(talk) as stream:
        with trio.fail_after(5), pytest.raises(WebSocketClosed):
            await WebSocket.connect(stream, "backend", "/")
