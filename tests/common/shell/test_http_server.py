"""Raw bytes sent to the HTTP server of all services."""

import contextlib
import logging
import resource
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import anyio
import pytest
import trio
import trio.testing

from antiphon_common.shell.admin import listen_tcp
from antiphon_common.shell.http1 import (
    HEADERS_PER_REQUEST,
    MAX_DISCARDED,
    MAX_HEAD,
    MAX_PIECES,
    PIECES_PER_REQUEST,
    Http1Connection,
    Peers,
    Timeouts,
)
from antiphon_common.shell.http_connections import (
    REQUEST_BURST,
    REQUESTS_PER_SECOND,
    Connections,
    HttpCounters,
    connection_limit,
)
from antiphon_common.shell.http_server import HttpServer
from support.peers.asynchronous import run_in_thread

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
QUICK = Timeouts(head=0.1, body=0.1, write=0.1, discard=0.1)
GET = b"GET /here?q=1 HTTP/1.1\r\nHost: a\r\n\r\n"


async def echo(scope, receive, send) -> None:  # type: ignore[no-untyped-def]
    """Return the body of the request. `/big` returns a megabyte, `/deaf` reads no body, `/bug` sends no response."""
    if scope["path"] == "/bug":
        raise RuntimeError("a bug of the application")
    body = b""
    while scope["path"] != "/deaf":
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        if not message["more_body"]:
            break
    body = b"x" * 1_000_000 if scope["path"] == "/big" else body or scope["query_string"]
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


Connect = Callable[[], Awaitable[trio.SocketStream]]


@asynccontextmanager
async def serving(server: HttpServer) -> AsyncIterator[Connect]:
    listener = listen_tcp("127.0.0.1", 0)
    address = listener.getsockname()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.run, listener)
        yield partial(trio.open_tcp_stream, *address)
        nursery.cancel_scope.cancel()


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    """Return all bytes until the server closes the connection."""
    data = b""
    with trio.fail_after(10):
        try:
            while more := await stream.receive_some():
                data += bytes(more)
        except trio.BrokenResourceError:
            pass
    return data


async def send_endlessly(stream: trio.abc.SendStream, data: bytes) -> None:
    while True:
        await stream.send_all(data)


async def read_until(stream: trio.abc.ReceiveStream, end: bytes) -> bytes:
    data = b""
    with trio.fail_after(10):
        while end not in data:
            more = await stream.receive_some()
            assert more, f"the connection ended after {data!r}"
            data += bytes(more)
    return data


@pytest.mark.parametrize("piece", [1, 1000])
@pytest.mark.parametrize(
    "before", [b"", GET, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"]
)
async def test_the_preface_of_http_2_is_refused(before: bytes, piece: int) -> None:
    """Prior knowledge (RFC 9113 §3.4), as the first request and after others on the same connection."""
    async with serving(HttpServer(echo)) as connect, await connect() as stream:
        data = before + PREFACE
        for start in range(0, len(data), piece):
            await stream.send_all(data[start : start + piece])
        answer = await read_all(stream)
    assert answer.count(b"HTTP/1.1 200") == (1 if before else 0)
    assert answer.count(b"HTTP/1.1 505") == 1


async def test_an_upgrade_to_h2c_is_answered_in_http_1() -> None:
    """RFC 9110 §7.8: a server may ignore Upgrade."""
    headers = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
    async with serving(HttpServer(echo, QUICK)) as connect, await connect() as stream:
        await stream.send_all(GET.replace(b"Host", headers + b"Host") + PREFACE)
        answer = await read_all(stream)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"101" not in answer.partition(b"\r\n")[0]
    assert b"HTTP/1.1 505" in answer


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: ",
        GET,
        b"PRI * HTTP/2.0\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n",
        b"POST /deaf HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345",
        b"POST /deaf HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n",
    ],
)
async def test_a_client_that_stops_in_any_state_is_disconnected(data: bytes) -> None:
    """Before, within and after a request's head, within a body of either framing, and before one that it withholds."""
    async with serving(HttpServer(echo, QUICK)) as connect, await connect() as stream:
        await stream.send_all(data)
        await read_all(stream)


async def test_a_client_that_pipelines_and_never_reads_is_disconnected() -> None:
    async with serving(HttpServer(echo, QUICK)) as connect, await connect() as stream:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with trio.fail_after(20), pytest.raises(trio.BrokenResourceError):
            await send_endlessly(stream, GET.replace(b"/here", b"/big") * 50)


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with serving(HttpServer(echo)) as connect, await connect() as stream:
        await stream.send_all(b"".join(GET.replace(b"q=1", b"q=%d;" % number) for number in range(100)))
        answer = await read_until(stream, b"q=99;")
    assert [int(part.partition(b";")[0]) for part in answer.split(b"q=")[1:]] == list(range(100))


@pytest.mark.parametrize("piece", [1, 1000])
@pytest.mark.parametrize("before", [b"\r\n", b"\n", b"\r\n\r\n"])
async def test_empty_lines_before_a_request_are_ignored(before: bytes, piece: int) -> None:
    """Some clients end a body with a line end that its Content-Length does not include (RFC 9112 §2.2)."""
    post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
    async with serving(HttpServer(echo, Timeouts(head=1.0))) as connect, await connect() as stream:
        data = before + post + before + GET + before
        for start in range(0, len(data), piece):
            await stream.send_all(data[start : start + piece])
        answers = await read_all(stream)
    assert answers.count(b"HTTP/1.1") == answers.count(b"HTTP/1.1 200") == 2
    assert answers.endswith(b"q=1")


async def test_an_unread_body_does_not_affect_the_next_request() -> None:
    async with serving(HttpServer(echo)) as connect, await connect() as stream:
        body = b"y" * (MAX_DISCARDED // 2)
        await stream.send_all(
            b"POST /deaf?first HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body + GET
        )
        answer = await read_until(stream, b"q=1")
    assert answer.count(b"HTTP/1.1 200") == 2


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 2 * MAX_HEAD, b"431"),
        (b"no http at all\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"GET / HTTP/3.0\r\nHost: a\r\n\r\n", b"505"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), b"400"),
    ],
)
async def test_malformed_requests_are_refused_and_the_connection_closed(request_bytes: bytes, status: bytes) -> None:
    async with serving(HttpServer(echo, Timeouts(discard=0.1))) as connect, await connect() as stream:
        await stream.send_all(request_bytes)
        assert (await read_all(stream)).startswith(b"HTTP/1.1 " + status)


async def test_the_response_to_head_has_no_body() -> None:
    async with serving(HttpServer(echo)) as connect, await connect() as stream:
        await stream.send_all(GET.replace(b"GET", b"HEAD") + GET)
        answer = await read_until(stream, b"q=1")
    assert answer.count(b"q=1") == 1
    assert answer.lower().count(b"content-length: 3") == 2


async def test_a_target_may_have_the_absolute_form() -> None:
    """A server accepts any host in it (RFC 9112 §3.2.2)."""
    async with serving(HttpServer(echo)) as connect, await connect() as stream:
        await stream.send_all(GET.replace(b"/here", b"http://a.example/deaf"))
        assert (await read_until(stream, b"q=1")).startswith(b"HTTP/1.1 200")


async def test_an_exception_of_the_application_ends_one_connection(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(HttpServer(echo)) as connect:
        async with await connect() as stream:
            await stream.send_all(GET.replace(b"/here", b"/bug"))
            await read_all(stream)
        async with await connect() as stream:
            await stream.send_all(GET)
            await read_until(stream, b"q=1")
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_idle_connections_are_closed_for_new_ones() -> None:
    """More idle connections than allowed, some without a byte. The oldest are closed and the newest served."""
    server = HttpServer(echo, limit=50)
    async with serving(server) as connect:
        idle = [await connect() for _ in range(120)]
        async with await connect() as stream:
            await stream.send_all(GET)
            await read_until(stream, b"q=1")
        assert server.counters.connections == 121
        assert server.counters.connections_evicted == 71
        assert await read_all(idle[0]) == b""
        await idle[-1].send_all(GET)
        await read_until(idle[-1], b"q=1")
        for stream in idle:
            await trio.aclose_forcefully(stream)


async def test_requests_in_progress_are_not_closed_for_new_connections() -> None:
    started, finish = trio.Event(), trio.Event()

    async def slow(scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        started.set()
        await finish.wait()
        await echo(scope, receive, send)

    server = HttpServer(slow, limit=1)
    async with serving(server) as connect, await connect() as stream:
        await stream.send_all(GET)
        await started.wait()
        async with await connect() as refused:
            assert await read_all(refused) == b""
        finish.set()
        await read_until(stream, b"q=1")
        assert server.counters.connections_refused == 1
        async with await connect() as again:  # the first waits for a request now
            await again.send_all(GET)
            await read_until(again, b"q=1")


async def test_one_address_cannot_take_all_connections(nursery: trio.Nursery) -> None:
    """The addresses of an IPv6 /64 are one. Loopback, where proxies run, may use all."""
    counters = HttpCounters()
    connections = Connections(counters, limit=40)
    held: list[str] = []

    async def hold(host: str, waits: bool, task_status: trio.TaskStatus[None]) -> None:
        with connections.admit(host) as place:
            task_status.started()
            if place is None:
                return
            place.wait(waits)
            held.append(host)
            try:
                await trio.sleep_forever()
            finally:
                held.remove(host)

    for number in range(30):
        await nursery.start(partial(hold, f"2001:db8::{number:x}", True))
    await trio.testing.wait_all_tasks_blocked()
    assert (len(held), counters.connections_evicted) == (10, 20)
    for number in range(30, 60):
        await nursery.start(partial(hold, f"2001:db8::{number:x}", False))
    await trio.testing.wait_all_tasks_blocked()
    assert (len(held), counters.connections_refused) == (10, 20)
    for host in ["2001:db8:1::1"] + ["127.0.0.1"] * 29:
        await nursery.start(partial(hold, host, False))
    assert (len(held), counters.connections_refused) == (40, 20)
    await nursery.start(partial(hold, "2001:db8:2::1", False))
    assert (len(held), counters.connections_refused) == (40, 21)
    nursery.cancel_scope.cancel()


async def test_requests_of_one_address_are_paced_over_all_its_connections(
    autojump_clock: trio.testing.MockClock,
) -> None:
    connections = Connections(HttpCounters(), limit=100)
    waits = []
    for _ in range(int(REQUEST_BURST) // 2):  # each on a connection of its own
        with connections.admit("192.0.2.1") as place:
            assert place is not None
            waits += [place.pace(), place.pace()]
    assert set(waits) == {0.0}
    with connections.admit("192.0.2.1") as place, connections.admit("192.0.2.2") as other:
        assert place is not None
        assert other is not None
        assert place.pace() == pytest.approx(1 / REQUESTS_PER_SECOND)
        assert place.pace() == pytest.approx(2 / REQUESTS_PER_SECOND)
        assert other.pace() == 0
        await trio.sleep(1)
        assert place.pace() == 0
    with connections.admit("127.0.0.1") as place:
        assert place is not None
        assert {place.pace() for _ in range(1000)} == {0.0}


async def test_a_paced_request_waits_for_its_time(autojump_clock: trio.testing.MockClock) -> None:
    client, server = trio.testing.memory_stream_pair()
    peers = Peers(("192.0.2.1", 0), ("192.0.2.2", 80), "http")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Http1Connection(echo, server, peers, Timeouts(), pace=lambda: 3.0).run)
        await client.send_all(GET)
        began = trio.current_time()
        await read_until(client, b"q=1")
        assert trio.current_time() - began == pytest.approx(3.0)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("request_bytes", "more"),
    [
        (b"GET /q HTTP/1.1\r\nHost: a\r\n" + b"a:\r\n" * 20 + b"\r\n", 0),
        (b"GET /q HTTP/1.1\r\nHost: a\r\n" + b"a:\r\n" * 3 * HEADERS_PER_REQUEST + b"\r\n", 3),
        (
            b"POST /q HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            + b"1\r\nx\r\n" * 5 * PIECES_PER_REQUEST
            + b"0\r\n\r\n",
            5,
        ),
        (
            b"POST /deaf HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            + b"1\r\nx\r\n" * 5 * PIECES_PER_REQUEST
            + b"0\r\n\r\n",
            5,
        ),
    ],
    ids=["few headers", "many headers", "many chunks", "many chunks that nobody reads"],
)
async def test_an_expensive_request_counts_as_several(request_bytes: bytes, more: int) -> None:
    """A chunk may have one byte (RFC 9112 §7.1). Each costs as much as a media packet and needs no key."""
    client, server = trio.testing.memory_stream_pair()
    counted = 0

    def pace() -> float:
        nonlocal counted
        counted += 1
        return 0.0

    peers = Peers(("192.0.2.1", 0), ("192.0.2.2", 80), "http")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Http1Connection(echo, server, peers, Timeouts(), pace=pace).run)
        await client.send_all(request_bytes)
        await read_until(client, b" 200 ")
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert counted == 1 + more + 1, "the request, what it costs more, and the next one, which is waited for"


@pytest.mark.parametrize("path", [b"/", b"/deaf"])
async def test_a_body_in_countless_chunks_is_not_read_to_its_end(path: bytes) -> None:
    async with serving(HttpServer(echo)) as connect, await connect() as stream:
        await stream.send_all(b"POST %s HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" % path)
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all(b"1\r\nx\r\n" * (MAX_PIECES + 1000) + b"0\r\n\r\n" + GET)
        assert b"q=1" not in await read_all(stream)


@pytest.mark.parametrize(
    ("soft", "hard", "connections", "raised"),
    [
        (1024, 4096, 2000, 4000),
        (1024, 1024, 512, 1024),
        (1024, resource.RLIM_INFINITY, 2000, 4000),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 2000, None),
        (65536, 65536, 2000, None),
    ],
)
def test_connections_leave_file_descriptors_for_other_uses(
    soft: int, hard: int, connections: int, raised: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda which: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda which, given: limits.append(given))
    assert connection_limit() == connections
    assert limits == ([] if raised is None else [(raised, hard)])


def test_the_server_runs_under_asyncio() -> None:
    run_in_thread(_serve_under_asyncio())


async def _serve_under_asyncio() -> None:
    listener = listen_tcp("127.0.0.1", 0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(HttpServer(echo, QUICK).run, listener)
        async with await anyio.connect_tcp(*listener.getsockname()) as stream:  # reads nothing
            with anyio.fail_after(20), contextlib.suppress(anyio.BrokenResourceError):
                while True:
                    await stream.send(GET.replace(b"/here", b"/big") * 50)
        for data, answered in ((GET, b"q=1"), (PREFACE, b"505"), (b"GET / HTTP/1.1\r\n", b"")):
            async with await anyio.connect_tcp(*listener.getsockname()) as stream:
                await stream.send(data)
                got = b""
                with anyio.fail_after(10):
                    try:
                        while True:
                            got += await stream.receive()
                    except (anyio.EndOfStream, anyio.BrokenResourceError):
                        pass
                assert answered in got
        tasks.cancel_scope.cancel()
