"""The pool against fake backends over real WebSockets on loopback."""

import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from trio.testing import MockClock
from trio_websocket import ConnectionClosed

from antiphon_common import frames
from antiphon_common.frames import CREDIT_MS
from antiphon_common.json_objects import pack
from antiphon_transceiver.backends import BACKEND_LOST, BackendCall, InboundFrame, NoBackend, NoCapacity
from antiphon_transceiver.backends.call import RESUME_SECONDS, BackendCallState
from antiphon_transceiver.shell.backend_pool import RESOLVE_INTERVAL, BackendPool
from support.fakes.backend import fake_backend
from support.processes.waiting import until

HELLO = frames.BackendHello(frames.VERSION, 2, ("pcm16/24000",))
FRAME = bytes(960)


class Sink:
    """A sink that keeps the frames of a call."""

    def __init__(self) -> None:
        self.frames: list[InboundFrame] = []
        self._news = trio.lowlevel.ParkingLot()

    def __call__(self, frame: InboundFrame, now: float) -> None:
        assert abs(now - trio.current_time()) < 1
        self.frames.append(frame)
        self._news.unpark_all()

    async def receive(self, count: int) -> list[InboundFrame]:
        with trio.fail_after(10):
            while len(self.frames) < count:
                await self._news.park()
        return self.frames


@asynccontextmanager
async def running(pool: BackendPool) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        await nursery.start(pool.run)
        yield
        nursery.cancel_scope.cancel()


def opened(pool: BackendPool, sink: Any, name: str = "echo") -> BackendCall:
    """Open a call and pass its frames to `sink`."""
    call = pool.open(name, "rtc_1", "acme", {"model": name}, {"user": "7"})
    others = pool.received

    def received(of: BackendCall, frame: InboundFrame, now: float) -> None:
        if of is call:
            sink(frame, now)
        else:
            others(of, frame, now)

    pool.received = received
    return call


async def test_audio_passes_in_both_directions() -> None:
    async with fake_backend(HELLO) as backend:
        pool = BackendPool({"echo": backend.url}, "opus")
        async with running(pool):
            assert pool.connected("echo")
            sink = Sink()
            call = opened(pool, sink)
            assert call.format == "pcm16/24000"
            [started] = await backend.receive(frames.Started)
            assert started == frames.Started(
                1, "rtc_1", "acme", "pcm16/24000", pack({"model": "echo"}), pack({"user": "7"})
            )
            for position in range(0, 4800, 480):
                call.send_audio(FRAME, position)
            await backend.send(frames.Accepted(1), frames.ResponseStarted(1, 1), frames.Audio(1, FRAME, response=1))
            assert await backend.receive(frames.Credit) == [frames.Credit(1, CREDIT_MS)]
            assert [frame.position for frame in await backend.receive(frames.Audio, 10)] == list(range(0, 4800, 480))
            assert [type(f) for f in await sink.receive(3)] == [
                frames.Accepted,
                frames.ResponseStarted,
                frames.Audio,
            ]
            call.end("hangup")
            pool.flush()
            assert await backend.receive(frames.Ended) == [frames.Ended(1, "hangup")]
            assert pool.free_slots("echo") == 2


async def test_slots_and_names_are_respected() -> None:
    async with fake_backend(HELLO) as backend:
        pool = BackendPool({"echo": backend.url}, "pcm16/24000")
        async with running(pool):
            with pytest.raises(NoBackend, match="no backend 'other'"):
                opened(pool, Sink(), "other")
            opened(pool, Sink())
            opened(pool, Sink())
            with pytest.raises(NoCapacity):
                opened(pool, Sink())


async def test_an_exception_of_a_sink_ends_only_its_call(caplog: pytest.LogCaptureFixture) -> None:
    def broken(frame: InboundFrame, now: float) -> None:
        raise RuntimeError("planted")

    async with fake_backend(HELLO) as backend:
        pool = BackendPool({"echo": backend.url}, "pcm16/24000")
        async with running(pool):
            sink = Sink()
            opened(pool, broken)
            opened(pool, sink)
            await backend.receive(frames.Started, 2)
            await backend.send(frames.Accepted(1), frames.Accepted(2))
            assert await backend.receive(frames.Ended) == [frames.Ended(1, "internal_error")]
            assert await sink.receive(1) == [frames.Accepted(2)]
    assert [record.exc_info is not None for record in caplog.records if record.levelno == logging.ERROR] == [True]


@pytest.mark.parametrize("politely", [True, False])
async def test_a_lost_connection_is_dialled_again_and_its_calls_continue(politely: bool) -> None:
    async with fake_backend(HELLO) as backend:
        pool = BackendPool({"echo": backend.url}, "pcm16/24000")
        async with running(pool):
            sink = Sink()
            call = opened(pool, sink)
            await backend.receive(frames.Started)
            await backend.send(frames.Accepted(1))
            await backend.receive(frames.Credit)
            if politely:
                await backend.close()
            else:
                await backend.cut()
            await until(lambda: call.state is BackendCallState.LOST)
            with pytest.raises(NoCapacity):
                opened(pool, Sink())
            call.send_audio(FRAME, 48000)
            [started] = await backend.receive(frames.Started)
            assert started == frames.Started(
                1, "rtc_1", "acme", "pcm16/24000", pack({"model": "echo"}), pack({"user": "7"}), 2000
            )
            await backend.send(frames.Accepted(1))
            assert [frame.position for frame in await backend.receive(frames.Audio)] == [48000]
            assert backend.connections == 2
            assert sink.frames == [frames.Accepted(1)]


async def test_twenty_calls_of_a_crashed_backend_resume_on_another(
    mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    mock_clock.rate = 10
    hello = frames.BackendHello(frames.VERSION, 20, ("pcm16/24000",))
    names = Names("127.0.0.1")
    trio.socket.set_custom_hostname_resolver(names)
    async with fake_backend(hello) as first, fake_backend(hello, host="127.0.0.2", port=first.port) as second:
        pool = BackendPool({"echo": f"ws://backend.test:{first.port}"}, "pcm16/24000")
        async with running(pool):
            sinks = [Sink() for _ in range(20)]
            calls = [opened(pool, sink) for sink in sinks]
            await first.send(*[frames.Accepted(call.number) for call in calls])
            await until(lambda: all(call.state is BackendCallState.ACCEPTED for call in calls))
            names.hosts = ("127.0.0.1", "127.0.0.2")
            await until(lambda: pool.free_slots("echo") == 20, 20)
            await first.cut()
            moved = await second.receive(frames.Started, 20)
            assert all(started.resumed_ms for started in moved)
            await second.send(*[frames.Accepted(started.call) for started in moved])
            await until(lambda: pool.counters.calls_resumed == 20)
            assert [sink.frames for sink in sinks] == [[frames.Accepted(number)] for number in range(1, 21)]
    assert any(record.__dict__.get("calls") == 20 for record in caplog.records)


async def test_a_silent_backend_is_disconnected_after_three_heartbeats(mock_clock: MockClock) -> None:
    mock_clock.rate = 8
    async with fake_backend(HELLO) as backend:
        pool = BackendPool({"echo": backend.url}, "pcm16/24000")
        async with running(pool):
            call = opened(pool, Sink())
            await backend.receive(frames.Started)
            backend.stalled = True
            since = trio.current_time()
            await until(lambda: call.state is BackendCallState.LOST, 10)
            assert 3 < trio.current_time() - since < 6


async def test_a_call_that_no_backend_accepts_in_time_ends(mock_clock: MockClock) -> None:
    mock_clock.rate = 20
    async with fake_backend(HELLO) as backend:
        pool = BackendPool({"echo": backend.url}, "pcm16/24000")
        async with running(pool):
            sink = Sink()
            opened(pool, sink)
            await backend.receive(frames.Started)
            backend.hello = frames.BackendHello(9)
            since = trio.current_time()
            await backend.cut()
            await until(lambda: bool(sink.frames), 20)
            assert sink.frames == [frames.Ended(1, BACKEND_LOST)]
            assert trio.current_time() - since == pytest.approx(RESUME_SECONDS, abs=2)
            assert pool.counters.calls_lost == 1


async def test_the_oldest_audio_is_dropped_for_a_backend_that_does_not_read_and_other_calls_continue() -> None:
    async with fake_backend(frames.BackendHello(frames.VERSION, 2, ("pcm16/48000",))) as backend:
        pool = BackendPool({"echo": backend.url}, "pcm16/48000")
        async with running(pool):
            call = opened(pool, Sink())
            await backend.receive(frames.Started)
            await backend.send(frames.Accepted(1))
            await backend.receive(frames.Credit)
            backend.stalled = True
            total = 0
            while not pool.counters.audio_dropped:
                for _ in range(100):
                    call.send_audio(bytes(1920), total * 960)
                    total += 1
                pool.flush()
                await trio.lowlevel.checkpoint()
            backend.stalled = False
            heard = await backend.receive(frames.Audio, total - pool.counters.audio_dropped)
            positions = [frame.position for frame in heard]
            assert positions == sorted(positions)
            assert positions[-1] == (total - 1) * 960


async def test_a_backend_of_another_version_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async with fake_backend(frames.BackendHello(9, 5, ("opus",))) as backend:
        pool = BackendPool({"echo": backend.url}, "opus")
        async with running(pool):
            await until(lambda: backend.connections >= 3 and backend.closed_with == 4001)
            assert pool.free_slots("echo") == 0
    lines = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(lines) == 1
    assert "version 9" in lines[0].__dict__["reason"]
    assert lines[0].__dict__["backend"] == "echo"


async def test_an_unreachable_backend_does_not_delay_another(caplog: pytest.LogCaptureFixture) -> None:
    async with fake_backend(HELLO) as gone:
        url = gone.url
    pool = BackendPool({"echo": url}, "pcm16/24000")
    async with running(pool):
        assert not pool.connected("echo")
        with pytest.raises(NoCapacity):
            opened(pool, Sink())
        async with fake_backend(HELLO, port=gone.port):
            await until(lambda: pool.connected("echo"))
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) <= 2


class Names(trio.abc.HostnameResolver):
    """A resolver that resolves one name to addresses that the test chooses."""

    def __init__(self, *hosts: str) -> None:
        self.hosts = hosts

    async def getaddrinfo(
        self, host: bytes | None, port: bytes | str | int | None, family: int = 0, type: int = 0, *_: int
    ) -> Any:
        assert host == b"backend.test"
        if not self.hosts:
            raise OSError("the name server is away")
        stream = trio.socket.SOCK_STREAM
        return [(trio.socket.AF_INET, stream, 6, "", (address, int(port or 0))) for address in self.hosts]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        raise NotImplementedError


async def test_a_name_is_resolved_and_calls_start_at_the_address_with_most_free_slots(
    mock_clock: MockClock,
) -> None:
    mock_clock.rate = 10
    names = Names("127.0.0.1")
    trio.socket.set_custom_hostname_resolver(names)
    small, large = HELLO, frames.BackendHello(frames.VERSION, 4, ("pcm16/24000",))
    async with fake_backend(small) as first, fake_backend(large, host="127.0.0.2", port=first.port) as second:
        pool = BackendPool({"echo": f"ws://backend.test:{first.port}/calls?key=1"}, "pcm16/24000")
        async with running(pool):
            assert pool.free_slots("echo") == 2
            names.hosts = ("127.0.0.1", "127.0.0.2")
            await until(lambda: pool.free_slots("echo") == 6, 20)
            calls = [opened(pool, Sink()) for _ in range(6)]
            assert len(await first.receive(frames.Started, 2)) == 2
            assert len(await second.receive(frames.Started, 4)) == 4
            names.hosts = ()
            await trio.sleep(2 * RESOLVE_INTERVAL)
            assert all(call.state is BackendCallState.STARTING for call in calls), (
                "nobody knows better than what is connected"
            )
            names.hosts = ("127.0.0.2",)
            await trio.sleep(2 * RESOLVE_INTERVAL)
            for call in calls:
                call.end("hangup")
            await until(lambda: first.closed_with is not None, 20)
            assert pool.free_slots("echo") == 4


async def test_a_call_refused_as_full_starts_at_another_address() -> None:
    names = Names("127.0.0.1", "127.0.0.2")
    trio.socket.set_custom_hostname_resolver(names)
    more = frames.BackendHello(frames.VERSION, 4, ("pcm16/24000",))
    async with fake_backend(more) as full, fake_backend(HELLO, host="127.0.0.2", port=full.port) as free:
        pool = BackendPool({"echo": f"ws://backend.test:{full.port}"}, "pcm16/24000")
        async with running(pool):
            await until(lambda: pool.free_slots("echo") == 6)
            sink = Sink()
            call = opened(pool, sink)
            [started] = await full.receive(frames.Started)
            call.send_audio(FRAME, 0)
            await full.send(frames.Refused(started.call, "full"))
            [again] = await free.receive(frames.Started)
            assert again == started
            await free.send(frames.Accepted(again.call))
            assert [frame.position for frame in await free.receive(frames.Audio)] == [0]
            assert sink.frames == [frames.Accepted(again.call)]
            other = Sink()
            opened(pool, other)
            [unlucky] = await free.receive(frames.Started)
            await free.send(frames.Refused(unlucky.call, "full"))
            assert await other.receive(1) == [frames.Refused(unlucky.call, "full")]


async def test_the_delivered_callback_runs_once_per_message() -> None:
    async with fake_backend(HELLO) as backend:
        pool = BackendPool({"echo": backend.url}, "pcm16/24000")
        async with running(pool):
            sink = Sink()
            opened(pool, sink)
            await backend.receive(frames.Started)
            heard_at: list[int] = []
            pool.delivered = lambda: heard_at.append(len(sink.frames))
            audio = [frames.Audio(1, FRAME, response=1)] * 50
            await backend.send(frames.Accepted(1), frames.ResponseStarted(1, 1), *audio)
            await sink.receive(52)
            await until(lambda: heard_at)
    assert heard_at[0] == 52


async def test_wss_uses_tls_and_verifies_the_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate = make_certificate(tmp_path, server)
    async with fake_backend(HELLO, tls=server) as backend:
        url = backend.url.replace("ws://127.0.0.1", "wss://localhost")
        strict = BackendPool({"echo": url}, "opus")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        trusting = BackendPool({"echo": url}, "opus")
        async with running(strict), running(trusting):
            await until(lambda: trusting.connected("echo"))
            assert not strict.connected("echo")
    assert any("certificate" in record.__dict__.get("reason", "").lower() for record in caplog.records)


def make_certificate(folder: Path, server: ssl.SSLContext) -> Path:
    """Make a self-signed certificate of localhost and load it into `server`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(hours=1), now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file = folder / "certificate.pem"
    file.write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(private)
    server.load_cert_chain(file, folder / "key.pem")
    return file


async def answering(answer: bytes, more: bytes, stream: trio.SocketStream) -> None:
    """Answer a handshake with the given bytes, then send `more` endlessly."""
    async with stream:
        with suppress(trio.BrokenResourceError):
            await stream.receive_some(4096)
            await stream.send_all(answer)
            while more:
                await stream.send_all(more)


@pytest.mark.parametrize(
    ("answer", "more", "reason"),
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1000\r\n" + b"x" * 4096 + b"\r\n", "HTTP 200"),
        (b"HTTP/1.1 302 Found\r\nLocation: ws://127.0.0.1:1/\r\n\r\n", b"x" * 4096, "HTTP 302"),
        (
            b"HTTP/1.1 101 Switching Protocols\r\n",
            b"X-Padding: yyyyyyyyyyyy\r\n" * 1000,
            "handshake of more than",
        ),
        (b"SSH-2.0-OpenSSH_9.6\r\n", b"", "the connection broke"),
    ],
    ids=["a body without end", "a redirect", "headers without end", "another protocol"],
)
async def test_a_server_that_is_not_a_backend_is_logged_once(
    answer: bytes, more: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with trio.open_nursery() as nursery, fake_backend(HELLO) as backend:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        await nursery.start(trio.serve_listeners, partial(answering, answer, more), [listener])
        pool = BackendPool(
            {"wrong": f"ws://127.0.0.1:{listener.socket.getsockname()[1]}", "echo": backend.url}, "pcm16/24000"
        )
        async with running(pool):
            assert not pool.connected("wrong")
            await until(lambda: [record for record in caplog.records if record.levelno >= logging.WARNING])
            opened(pool, Sink())
            await backend.receive(frames.Started)
            await trio.sleep(0.5)
        nursery.cancel_scope.cancel()
    [line] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert reason in line.__dict__["reason"]
    assert line.__dict__["backend"] == "wrong"


@pytest.mark.parametrize(
    ("junk", "reason"),
    [
        (b"\xdd\x00\x0f\x00\x00" + b"\xc0" * 0xF0000, "983040 frames"),
        (b"\xdc\x10\x00" + b"\xc0" * 4096, "were invalid"),
        (b"\xc6\x00\x0f\x00\x00" + bytes(0xF0000), "were invalid"),
        ("text" * 1000, "were invalid"),
    ],
    ids=["a million elements", "no frames", "no array", "text"],
)
async def test_junk_of_a_backend_ends_its_connection_and_delays_no_other_call(
    junk: bytes | str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with fake_backend(HELLO) as bad, fake_backend(HELLO) as good, trio.open_nursery() as nursery:
        pool = BackendPool({"bad": bad.url, "echo": good.url}, "pcm16/24000")
        async with running(pool):
            call, sink = opened(pool, Sink(), "bad"), Sink()
            opened(pool, sink)
            [started] = await good.receive(frames.Started)
            await good.send(frames.Accepted(started.call))

            async def flood() -> None:
                with suppress(ConnectionClosed):
                    while True:
                        await bad.send_raw(junk)

            await bad.receive(frames.Started)
            nursery.start_soon(flood)
            while bad.closed_with is None:
                heard = len(sink.frames)
                await good.send(frames.ServerEvent(started.call, pack({"type": "fine"})))
                await sink.receive(heard + 1)
            assert call.state is not BackendCallState.OVER, "it goes on elsewhere, if it can"
            assert bad.closed_with in (1009, 4000)
            nursery.cancel_scope.cancel()
    lines = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert {line.__dict__["backend"] for line in lines} == {"bad"}
    assert reason in lines[0].__dict__["reason"]
    assert len(lines) <= 2, "what became of the calls, and of the connection"
