import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, WebSocketConnection, wrap_client_stream

from antiphon_common.shell.supervise import Drain
from antiphon_signaling import SignalingPorts
from antiphon_signaling.shell import websocket
from support.fakes.transceiver import FakeTransceiver

StartSignaling = Callable[..., Awaitable[SignalingPorts]]


@asynccontextmanager
async def connect(ports: SignalingPorts, query: str = "", **options: Any) -> AsyncIterator[WebSocketConnection]:
    """Open a WebSocket over a separate stream, because the library leaves it open when the server closes first."""
    async with await trio.open_tcp_stream(*ports.address) as stream, trio.open_nursery() as nursery:
        connection = await wrap_client_stream(nursery, stream, "localhost", f"/v1/signaling{query}", **options)
        yield connection
        with trio.fail_after(5):
            await connection.aclose()
        nursery.cancel_scope.cancel()


async def refusal(ports: SignalingPorts, **options: Any) -> ConnectionRejected:
    """Return how the server refuses a connection."""
    try:
        async with connect(ports, **options):
            raise AssertionError("the connection was accepted")
    except* ConnectionRejected as group:
        error = group.exceptions[0]
    assert isinstance(error, ConnectionRejected)
    return error


async def send(connection: WebSocketConnection, **message: Any) -> None:
    await connection.send_message(json.dumps(message))


async def receive(connection: WebSocketConnection) -> dict[str, Any]:
    with trio.fail_after(5):
        message: dict[str, Any] = json.loads(await connection.get_message())
    return message


async def test_a_call_from_offer_to_end(ports: SignalingPorts, transceiver: FakeTransceiver, offer: bytes) -> None:
    async with connect(ports, "?model=mine") as connection:
        await send(connection, type="offer", sdp=offer.decode(), session={"voice": "x"})
        answer = await receive(connection)
        call_id = answer["call_id"]
        assert (answer["type"], answer["sdp"].startswith("v=0\r\n")) == ("answer", True)
        assert transceiver.calls[call_id].session == {"voice": "x", "model": "mine"}
        await send(connection, type="hangup")
        assert await receive(connection) == {"type": "ended", "call_id": call_id, "reason": "hangup"}
        with pytest.raises(ConnectionClosed), trio.fail_after(5):
            await connection.get_message()


async def test_a_call_restarts_ice_with_a_whole_offer(
    ports: SignalingPorts, transceiver: FakeTransceiver, offer: bytes
) -> None:
    async with connect(ports) as connection:
        await send(connection, type="offer", sdp=offer.decode())
        first = await receive(connection)
        await send(connection, type="trickle", candidate={"candidate": ""})
        await send(connection, type="restart", sdp=offer.decode().replace("ice-ufrag:LWxw", "ice-ufrag:NewU"))
        second = await receive(connection)
        assert (second["type"], second["call_id"]) == ("answer", first["call_id"])
        assert second["sdp"] != first["sdp"]
        assert transceiver.calls[first["call_id"]].ice.ufrag == "NewU"


async def test_the_end_of_a_call_on_another_transceiver_is_reported(
    ports: SignalingPorts, transceiver: FakeTransceiver, offer: bytes
) -> None:
    async with connect(ports) as connection:
        await send(connection, type="offer", sdp=offer.decode())
        call_id = (await receive(connection))["call_id"]
        transceiver.finish(call_id)
        assert (await receive(connection))["type"] == "ended"


async def test_a_call_continues_after_its_websocket_is_closed(
    ports: SignalingPorts, transceiver: FakeTransceiver, offer: bytes
) -> None:
    async with connect(ports) as connection:
        await send(connection, type="offer", sdp=offer.decode())
        call_id = (await receive(connection))["call_id"]
    assert not transceiver.has_ended(call_id)


async def test_a_server_that_stops_notifies_its_clients_and_its_calls_continue(
    start_signaling: StartSignaling, transceiver: FakeTransceiver, offer: bytes
) -> None:
    drain = Drain(websocket.CLOSE_SECONDS + 0.2)
    ports = await start_signaling(transceiver, drain=drain)
    async with connect(ports) as idle, connect(ports) as connection:
        await send(connection, type="offer", sdp=offer.decode())
        call_id = (await receive(connection))["call_id"]
        drain.leave()
        assert await receive(connection) == await receive(idle) == {"type": "draining"}
        await send(connection, type="restart", sdp=offer.decode())
        assert (await receive(connection))["type"] == "answer"
        for closed in (idle, connection):
            with pytest.raises(ConnectionClosed, match="1001"), trio.fail_after(5):
                await closed.get_message()
    assert not transceiver.has_ended(call_id)
    assert ports.idle()


REFUSED: tuple[tuple[str | bytes, str], ...] = (
    ("{", "invalid_message"),
    ("[]", "invalid_message"),
    ('{"type": "dance"}', "unknown_type"),
    ('{"type": "hangup"}', "no_call"),
    ('{"type": "offer", "sdp": "junk"}', "invalid_sdp"),
    ('{"type": "offer", "session": 5}', "invalid_message"),
    ('{"type": "offer", "sdp": "", "session": {"a": [' + "0," * 50_000 + "0]}}", "invalid_message"),
    ('{"type": "offer", "sdp": "", "session": {"a": ' + "[" * 70 + "]" * 70 + "}}", "invalid_message"),
    (b'{"type": "offer", "sdp": "\xff"}', "invalid_message"),
)


async def test_errors_leave_the_connection_open(
    ports: SignalingPorts, transceiver: FakeTransceiver, offer: bytes
) -> None:
    async with connect(ports) as connection:
        for text, code in REFUSED:
            await connection.send_message(text)
            message = await receive(connection)
            assert (message["type"], message["error"]["code"]) == ("error", code)
        await send(connection, type="offer", sdp=offer.decode())
        assert (await receive(connection))["type"] == "answer"
        await send(connection, type="offer", sdp=offer.decode())
        assert (await receive(connection))["error"]["code"] == "call_exists"
    assert len(transceiver.calls) == 1


async def test_keys_are_read_from_header_or_subprotocol(
    start_signaling: StartSignaling, transceiver: FakeTransceiver, tmp_path: Path, offer: bytes
) -> None:
    file = tmp_path / "keys"
    file.write_text("acme:one-of-16-characters\n")
    file.chmod(0o600)
    ports = await start_signaling(transceiver, api_key_file=str(file))
    refused = await refusal(ports)
    assert (refused.status_code, json.loads(refused.body or b"")["error"]["code"]) == (401, "invalid_api_key")
    async with connect(ports, extra_headers=[(b"Authorization", b"Bearer one-of-16-characters")]) as connection:
        assert connection.subprotocol is None
    async with connect(ports, subprotocols=["antiphon", "antiphon-key.one-of-16-characters"]) as connection:
        assert connection.subprotocol == "antiphon"
        await send(connection, type="offer", sdp=offer.decode())
        assert (await receive(connection))["type"] == "answer"
    assert [call.tenant for call in transceiver.calls.values()] == ["acme"]


async def test_limits_of_a_tenant_apply_to_websocket_and_http_together(
    start_signaling: StartSignaling, transceiver: FakeTransceiver, tmp_path: Path, offer: bytes
) -> None:
    file = tmp_path / "keys"
    file.write_text("acme:one-of-16-characters\n")
    file.chmod(0o600)
    ports = await start_signaling(transceiver, api_key_file=str(file), tenant_calls=2)
    key = {"Authorization": "Bearer one-of-16-characters"}
    async with httpx.AsyncClient(base_url=ports.url, trust_env=False) as client:
        headers = key | {"Content-Type": "application/sdp"}
        assert (await client.post("/v1/realtime/calls", content=offer, headers=headers)).status_code == 201
        async with connect(ports, extra_headers=[(b"Authorization", key["Authorization"].encode())]) as connection:
            await send(connection, type="offer", sdp=offer.decode())
            assert (await receive(connection))["type"] == "answer"
            assert (await client.post("/v1/realtime/calls", content=offer, headers=headers)).status_code == 429
            async with connect(ports, subprotocols=["antiphon-key.one-of-16-characters", "antiphon"]) as second:
                await send(second, type="offer", sdp=offer.decode())
                refused = await receive(second)
                assert refused["error"]["code"] == "too_many_calls_of_tenant"
                assert refused["retry_after"] >= 1
                await send(connection, type="hangup")
                assert (await receive(connection))["type"] == "ended"
                await send(second, type="offer", sdp=offer.decode())
                assert (await receive(second))["type"] == "answer"


async def test_restarts_over_the_websocket_count_as_offers(
    start_signaling: StartSignaling, transceiver: FakeTransceiver, tmp_path: Path, offer: bytes
) -> None:
    file = tmp_path / "keys"
    file.write_text("acme:one-of-16-characters\n")
    file.chmod(0o600)
    ports = await start_signaling(transceiver, api_key_file=str(file), tenant_offers=0.2)
    async with connect(ports, subprotocols=["antiphon-key.one-of-16-characters", "antiphon"]) as connection:
        await send(connection, type="offer", sdp=offer.decode())
        assert (await receive(connection))["type"] == "answer"
        await send(connection, type="restart", sdp=offer.decode())
        refused = await receive(connection)
        assert refused["error"]["code"] == "too_many_offers_of_tenant"
        assert refused["retry_after"] >= 1


async def test_a_client_that_answers_no_ping_is_disconnected(
    ports: SignalingPorts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An idle client would hold its connection and its call's watch."""
    monkeypatch.setattr(websocket, "PING_SECONDS", 0.1)
    async with await trio.open_tcp_stream(*ports.address) as stream:
        await stream.send_all(
            b"GET /v1/signaling HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        with trio.fail_after(5):
            while await stream.receive_some():
                pass


async def test_a_connection_that_sends_only_errors_is_closed(ports: SignalingPorts) -> None:
    async with connect(ports) as connection:
        for _ in range(websocket.MAX_ERRORS):
            await connection.send_message("{")
            assert (await receive(connection))["error"]["code"] == "invalid_message"
        with pytest.raises(ConnectionClosed) as closed, trio.fail_after(5):
            await connection.get_message()
    assert closed.value.reason is not None
    assert closed.value.reason.code == websocket.POLICY_VIOLATION


async def test_pages_of_other_origins_are_refused_when_no_key_is_required(ports: SignalingPorts) -> None:
    refused = await refusal(ports, extra_headers=[(b"Origin", b"https://evil.example")])
    assert refused.status_code == 401


async def test_connections_without_a_call_or_with_oversized_messages_are_closed(
    ports: SignalingPorts, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connect(ports) as connection:
        await connection.send_message("x" * (websocket.MAX_MESSAGE + 1))
        with pytest.raises(ConnectionClosed), trio.fail_after(5):
            await connection.get_message()
    monkeypatch.setattr(websocket, "OFFER_SECONDS", 0.05)
    async with connect(ports) as connection:
        with pytest.raises(ConnectionClosed), trio.fail_after(5):
            await connection.get_message()


async def test_a_host_that_is_not_a_domain_name_is_not_decoded_as_idna(
    ports: SignalingPorts, caplog: pytest.LogCaptureFixture
) -> None:
    """Decoding punycode (RFC 3492) takes quadratic time. A domain name has at most 255 bytes."""
    request = (
        b"GET /v1/signaling HTTP/1.1\r\nHost: xn--" + b"a" * 10_000 + b"\r\nConnection: Upgrade\r\n"
        b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    caplog.set_level(logging.INFO)
    async with await trio.open_tcp_stream(*ports.address) as stream:
        await stream.send_all(request)
        with trio.fail_after(5):
            assert await stream.receive_some(100) == b""
    assert "the Host header is too long" in [record.__dict__.get("reason") for record in caplog.records]


@pytest.mark.parametrize("frame", [b"\x8a\x80\0\0\0\0", b"\x00\x80\0\0\0\0"], ids=["pong", "empty continuation frame"])
async def test_other_tasks_run_between_the_frames_of_a_flood(ports: SignalingPorts, frame: bytes) -> None:
    """One read of 16 KiB contains 2,700 frames that need no answer (RFC 6455 §5.5.3)."""
    request = (
        b"GET /v1/signaling HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    frames, turns = 5000, 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with await trio.open_tcp_stream(*ports.address) as stream, trio.open_nursery() as nursery:
        await stream.send_all(request)
        assert b" 101 " in await stream.receive_some()
        first = b"\x01\x81\0\0\0\0a"  # of a message that continuation frames make no longer
        await stream.send_all(first + frame * frames + b"\x88\x80\0\0\0\0")
        nursery.start_soon(count_turns)
        with trio.fail_after(5):
            while await stream.receive_some():
                pass
        nursery.cancel_scope.cancel()
    assert turns > frames // 200
