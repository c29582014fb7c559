"""Inputs over HTTP and WebSocket: requests and forms of callers, their messages, and those of backends."""

import base64
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import sha1
from pathlib import Path
from typing import Any

import h11
import msgspec
from prometheus_client import CollectorRegistry
from wsproto import ConnectionType

from antiphon_common.shell.http1 import READ_BYTES, Http1Connection, Peers, Timeouts
from antiphon_common.shell.supervise import Drain
from antiphon_common.shell.websocket import WebSocket, WebSocketClosed
from antiphon_signaling.authentication import Authenticator
from antiphon_signaling.limits import Limit, Limits
from antiphon_signaling.refusals import busy
from antiphon_signaling.shell.calls import CallMetrics, Calls
from antiphon_signaling.shell.http import CALLS_PATH, MAX_BODY, make_app
from antiphon_signaling.shell.websocket import PATH, SignalingSocket
from cost.asynchronous import AnyioFeed, Feed, run
from cost.decoder_states import descriptions, json_objects
from cost.grammars import Lines, Messages, Whole
from cost.search import Ready

OFFER = (Path(__file__).parents[1] / "signaling" / "offers" / "chromium-156.sdp").read_bytes()
TRICKLED = 1500
"""Bytes of a request of which each read finds one."""

KEY = base64.b64encode(bytes(16))
TEXT, BINARY, PART, CLOSE, PING = b"\x81", b"\x82", b"\x01", b"\x88", b"\x89"
"""First bytes of frames (RFC 6455 §5.2)."""


class _NoTransceivers:
    """A fleet in which every transceiver refuses calls, after it read the whole request."""

    async def place(self, request: object) -> None:
        raise busy("no_transceiver", "there is none")


def _calls() -> Calls:
    logging.disable(logging.CRITICAL)
    limit = Limit(1 << 20, 1 << 20, 1 << 20)
    fleet: Any = _NoTransceivers()
    metrics = CallMetrics(CollectorRegistry())
    return Calls(fleet, [("203.0.113.10", 3478)], bytes, metrics, Drain(10.0), Limits(limit, limit))


def _connection(read_size: int, *, whole: bool = False) -> Callable[[bytes], None]:
    """Return a function that receives the bytes of one connection to signaling."""
    app = make_app(_calls(), Authenticator(None))

    async def serve(data: bytes) -> None:
        peers = Peers(("198.51.100.7", 0), ("127.0.0.1", 80), "http")
        await Http1Connection(app, Feed(data, read_size=read_size), peers, Timeouts()).run()

    return lambda data: run(serve, data, whole=whole)


def _request(*headers: bytes, line: bytes = b"GET / HTTP/1.1", body: bytes = b"") -> bytes:
    return b"\r\n".join([line, b"Host: a", *headers, b"", body])


def _posted(kind: bytes, body: bytes) -> bytes:
    line = b"POST %s HTTP/1.1" % CALLS_PATH.encode()
    return _request(b"Content-Type: %s" % kind, b"Content-Length: %d" % len(body), line=line, body=body)


def _requests(size: int) -> list[bytes]:
    """Return requests of about `size` bytes that are expensive to read."""
    post = b"POST %s HTTP/1.1" % CALLS_PATH.encode()
    chunked = b"Transfer-Encoding: chunked"
    room = max(1, size - 200)
    return [
        _request(),
        _request() * (size // len(_request())),
        _request(*(b"a:" for _ in range(room // 4))),
        _request(*(b"a%d: b" % number for number in range(room // 10))),
        _request(b"a: " + b"b" * room),
        _request(b"a: " + b" " * room + b"b"),
        _request(b"a" * room + b": b"),
        _request(b"a: b", *(b" c" for _ in range(room // 4))),
        _request(b"Connection: " + b"a," * (room // 2)),
        _request(b"Content-Type: " + b";a=b" * (room // 4), line=post),
        _request(b"X-Forwarded-For: " + b"1.1.1.1," * (room // 8), line=post),
        _request(b"Cookie: " + b"a=b;" * (room // 4)),
        _request(line=b"GET /?%s HTTP/1.1" % (b"model=a&" * (room // 8))),
        _request(line=b"GET /%s HTTP/1.1" % (b"%41" * (room // 3))),
        _request(line=b"GET /%s HTTP/1.1" % (b"/" * room)),
        _request(b"Content-Type: application/sdp", chunked, line=post, body=b"1\r\na\r\n" * (room // 6) + b"0\r\n\r\n"),
        _request(chunked, line=post, body=b"%s1\r\na\r\n" % (b"0" * room)),
        _request(chunked, line=post, body=b"1;%s\r\na\r\n" % (b"a" * room)),
        _request(chunked, line=post, body=b"0\r\n" + b"a:\r\n" * (room // 4) + b"\r\n"),
        b"\r\n" * (size // 2),
        b"\n" * size,
        b"a" * size,
    ]


def requests() -> Ready:
    """Any bytes in one read."""
    receive = _connection(READ_BYTES)
    return Ready(receive, _requests(READ_BYTES), Lines(), READ_BYTES, stateless=True)


def requests_trickled() -> Ready:
    """A connection from its first byte to its last, each in a read of its own."""
    receive = _connection(1, whole=True)
    return Ready(receive, _requests(TRICKLED), Lines(), TRICKLED, stateless=True)


def offers() -> Ready:
    seeds = [*descriptions(), OFFER]
    wrap = lambda body: _posted(b"application/sdp", body)  # noqa: E731
    return Ready(_connection(READ_BYTES), seeds, Lines(), MAX_BODY, stateless=True, wrap=wrap)


def forms() -> Ready:
    """Bodies of multipart/form-data, behind a line with their boundary."""

    def wrap(data: bytes) -> bytes:
        boundary, _, body = data.partition(b"\n")
        return _posted(b"multipart/form-data; boundary=" + boundary.strip()[:200], body)

    return Ready(_connection(READ_BYTES), _forms(MAX_BODY - 1000), Lines(), MAX_BODY, stateless=True, wrap=wrap)


def _forms(size: int) -> list[bytes]:
    head = b'Content-Disposition: form-data; name="%s"\r\n'

    def form(*parts: tuple[bytes, bytes]) -> bytes:
        body = b"".join(b"--x\r\n" + headers + b"\r\n" + content + b"\r\n" for headers, content in parts)
        return b"x\n" + body + b"--x--\r\n"

    sdp, session = head % b"sdp", head % b"session"
    filename = b'Content-Disposition: form-data; name="sdp"; filename="a"\r\n'
    return [
        form((sdp, OFFER), (session, b'{"model": "a"}')),
        *(form((sdp, one)) for one in descriptions()),
        form((sdp, b"x" * size)),
        form((filename, b"x" * size)),
        form((sdp, b"\r" * size)),
        form((sdp, b"\r\n" * (size // 2))),
        form((sdp, b"\r\n-" * (size // 3))),
        form((sdp, b"\r\n--" * (size // 4))),
        form((filename, b"\r\n--" * (size // 4))),
        form((filename, b"\r\n--y" * (size // 5))),
        form((sdp + b"a:b\r\n" * (size // 5), b"")),
        form((sdp + b"a: " + b"b" * size + b"\r\n", b"")),
        form((b"Content-Disposition: form-data" + b"; a=b" * (size // 5) + b"\r\n", b"")),
        form((b'Content-Disposition: form-data; name="%s"\r\n' % (b"\\" * size), b"")),
        form(*((sdp, b"") for _ in range(size // 60))),
        form((sdp, b"x" * size), *((session, b"") for _ in range(7))),
        b"-\n" + b"-" * size,
        b"x\n" + b"\r\n" * (size // 2),
        b"-" * 70 + b"\n--" + b"-" * 70 + b"\r\n" + sdp + b"\r\n" + (b"\r\n--" + b"-" * 69) * (size // 73),
    ]


# WebSocket. An input has frames: the first byte of each, two bytes of length, and its payload.


def _frames(first: bytes, payload: bytes, count: int = 1) -> bytes:
    return (first + len(payload).to_bytes(2, "big") + payload) * count


def _encode(data: bytes, *, masked: bool) -> bytes:
    grammar = Messages()
    return b"".join(_frame(one[:1], one[3:], masked=masked) for one in grammar.split(grammar.join(grammar.split(data))))


def _frame(first: bytes, payload: bytes, *, masked: bool) -> bytes:
    size, flag = len(payload), 0x80 if masked else 0
    if size < 126:
        length = bytes((flag | size,))
    elif size < 1 << 16:
        length = bytes((flag | 126,)) + size.to_bytes(2, "big")
    else:
        length = bytes((flag | 127,)) + size.to_bytes(8, "big")
    return first + length + bytes(4 if masked else 0) + payload


def _frame_seeds(size: int) -> list[bytes]:
    part, rest = _frames(PART, b"a"), b"\0"
    return [
        _frames(TEXT, b"{}"),
        _frames(TEXT, b"{}", size // 5),
        _frames(BINARY, b"", size // 3),
        _frames(PING, b"", size // 3),
        _frames(PING, b"a" * 125, size // 128),
        part + _frames(rest, b"", size // 3),
        part + _frames(rest, b"a", size // 4),
        part + (_frames(rest, b"a") + _frames(PING, b"")) * (size // 7),
        _frames(BINARY, b"a" * (min(size, 0xFFFF) - 3)),
        _frames(TEXT, "ä".encode() * 30_000),
        _frames(CLOSE, b"\x03\xe8" + b"a" * 123),
        _frames(b"\xf1", b"a"),
    ]


_UPGRADE = (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: " + KEY)


def _accept(request: bytes) -> bytes:
    key = request.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
    accepted = base64.b64encode(sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    head = b"HTTP/1.1 101 a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n"
    return head % accepted


def _websocket(kind: ConnectionType) -> Callable[[], Ready]:
    """Frames over an open connection between a transceiver and a backend."""
    is_server = kind is ConnectionType.SERVER
    limit = 1 << 17

    async def serve(data: bytes) -> None:
        try:
            if is_server:
                websocket = await WebSocket.accept(AnyioFeed(data, lambda sent: _request(*_UPGRADE)))
            else:
                websocket = await WebSocket.connect(AnyioFeed(data, _accept), "a", "/")
            while True:
                await websocket.get_message()
        except WebSocketClosed:
            pass

    def prepare() -> Ready:
        wrap = lambda data: _encode(data, masked=is_server)  # noqa: E731
        return Ready(lambda data: run(serve, data), _frame_seeds(limit), Messages(), limit, stateless=True, wrap=wrap)

    return prepare


def _handshakes() -> Ready:
    """Bytes before the WebSocket of a backend is open."""
    heads = [_request(*_UPGRADE), *_requests(1 << 13)]
    heads += [head.replace(b"\r\n\r\n", b"\r\n" + b"\r\n".join(_UPGRADE) + b"\r\n\r\n", 1) for head in heads[1:]]
    heads += [_request(b"Sec-WebSocket-Extensions: " + b"a;b=c," * 1300, *_UPGRADE)]

    async def serve(data: bytes) -> None:
        with suppress(WebSocketClosed):
            await WebSocket.accept(AnyioFeed(b"", lambda sent: data))

    return Ready(lambda data: run(serve, data), heads, Lines(), 1 << 13, stateless=True)


def _signaling() -> Callable[[bytes], None]:
    line = b"GET %s HTTP/1.1" % PATH.encode()
    head = h11.Request(method="GET", target=PATH, headers=[("Host", "a")])

    async def serve(data: bytes) -> None:
        socket = SignalingSocket(_calls(), Authenticator(None), Drain(10.0))
        await socket.serve(Feed(data, opening=_request(*_UPGRADE, line=line)), head, "198.51.100.7")

    return lambda data: run(serve, data)


def signaling_frames() -> Ready:
    seeds = _frame_seeds(1 << 17)
    wrap = lambda data: _encode(data, masked=True)  # noqa: E731
    return Ready(_signaling(), seeds, Messages(), 1 << 17, stateless=True, wrap=wrap)


def signaling_message() -> Ready:
    """One message, whole."""
    wrap = lambda data: _frame(TEXT, data, masked=True)  # noqa: E731
    return Ready(_signaling(), _messages(MAX_BODY - 200), Whole(), MAX_BODY, stateless=True, wrap=wrap)


def _messages(size: int) -> Sequence[bytes]:
    quoted = OFFER.replace(b"\r\n", b"\\r\\n").replace(b'"', b'\\"')
    offer = b'{"type":"offer","sdp":"%s"%s}'
    lines = b"a=rtpmap:1 opus/48000/2\\r\\n" * (size // 28)
    return [
        offer % (quoted, b""),
        offer % (quoted + lines, b""),
        *(msgspec.json.encode({"type": "offer", "sdp": one.decode()}) for one in descriptions()),
        offer % (b"\\r\\n" * (size // 4), b""),
        offer % (b"a" * size, b""),
        offer % (b"\\u00e4" * (size // 6), b""),
        *(offer % (b"", b',"session":' + one) for one in json_objects(size)),
        *json_objects(size),
        b'{"type":"trickle","candidate":"%s"}' % (b"a" * size),
        b'{"type":"%s"}' % (b"a" * size),
        b'{"type":"hangup"}',
    ]


HTTP_STATES: dict[str, Callable[[], Ready]] = {
    "requests": requests,
    "requests, trickled": requests_trickled,
    "offers": offers,
    "forms": forms,
}
WEBSOCKET_STATES: dict[str, Callable[[], Ready]] = {
    "of a transceiver": _websocket(ConnectionType.CLIENT),
    "of a backend": _websocket(ConnectionType.SERVER),
    "of a backend, handshake": _handshakes,
    "of a caller, frames": signaling_frames,
    "of a caller, message": signaling_message,
}
