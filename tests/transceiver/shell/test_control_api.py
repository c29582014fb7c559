"""The control API of a real transceiver, over HTTP."""

import base64
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import msgspec
import pytest
import trio

from antiphon_common import frames
from antiphon_common.control import (
    CallAccepted,
    CallRequest,
    CallStatus,
    Codec,
    Fingerprint,
    IceParameters,
    IceUpdate,
    PreviousOwner,
    authorization,
)
from antiphon_common.keys import KeyRing
from antiphon_common.settings import Address, Backend, SharedSettings, TransceiverSettings
from antiphon_common.shell.control_client import ControlAuth
from antiphon_common.shell.supervise import Drain
from antiphon_transceiver.shell.control_api import MAX_BODY
from antiphon_transceiver.shell.service import serve_transceiver
from support.fakes.backend import fake_backend
from support.processes.waiting import until

KEYS = KeyRing.generate(lambda size: bytes(range(size)))
OTHERS = KeyRing.generate(lambda size: bytes(range(1, size + 1)))
HELLO = frames.BackendHello(frames.VERSION, 2, ("pcm16/24000",))
TOKEN = authorization(KEYS.control, 0)

OFFER = CallRequest(
    call_id="rtc_1",
    tenant="acme",
    ice=IceParameters("abcd", "p" * 24),
    setup="actpass",
    fingerprints=(Fingerprint("sha-256", ":".join(["AB"] * 32)),),
    codec=Codec("opus", 111, 48000),
)
RESTART = IceUpdate("*", IceParameters("efgh", "q" * 24))
ROUTES = [
    ("POST", "/calls"),
    ("GET", "/calls"),
    ("GET", "/calls/rtc_1?tenant=acme"),
    ("GET", "/calls/rtc_1?tenant=acme&wait=1"),
    ("PATCH", "/calls/rtc_1?tenant=acme"),
    ("DELETE", "/calls/rtc_1?tenant=acme"),
    ("GET", "/link"),
    ("GET", "/load"),
    ("POST", "/drain"),
    ("DELETE", "/drain"),
    ("POST", "/moved"),
    ("DELETE", "/moved?cluster=0&host=127.0.0.1&port=9"),
    ("GET", "/nothing"),
]


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async with transceiver() as url:
        yield url


@asynccontextmanager
async def transceiver(capacity: int = 100) -> AsyncIterator[str]:
    """Run a transceiver with one backend that has two slots. Yield its control URL."""
    async with fake_backend(HELLO) as backend, trio.open_nursery() as nursery:
        settings = TransceiverSettings(
            control=Address("127.0.0.1", 0), backend=(Backend("echo", backend.url),), capacity=capacity
        )
        drain = Drain(60)

        async def serve(*, task_status: trio.TaskStatus[object]) -> None:
            await serve_transceiver(settings, SharedSettings(), KEYS, drain=drain, task_status=task_status)

        ports = await nursery.start(serve)
        await until(lambda: backend.connections == 1)
        yield ports.control_url
        nursery.cancel_scope.cancel()


@pytest.fixture
async def client(url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with signed(url) as client:
        yield client


def signed(url: str, keys: KeyRing = KEYS) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, auth=ControlAuth(keys.control), trust_env=False, timeout=20)


async def start(client: httpx.AsyncClient, **changes: object) -> httpx.Response:
    offer = msgspec.structs.replace(OFFER, **changes)
    with trio.fail_after(10):
        while True:  # the backend's hello may still be on its way
            response = await client.post("/calls", content=msgspec.json.encode(offer))
            if response.status_code != 503 or "taken" in response.text or "backend" not in response.text:
                return response
            await trio.sleep(0.01)


async def status_of(client: httpx.AsyncClient, call_id: str, tenant: str, **params: object) -> httpx.Response:
    return await client.get(f"/calls/{call_id}", params={"tenant": tenant, **params})  # type: ignore[dict-item]


async def test_a_call_is_started_restarted_and_ended(client: httpx.AsyncClient) -> None:
    started = await start(client)
    assert started.status_code == 201
    answer = msgspec.json.decode(started.content, type=CallAccepted)
    update = msgspec.json.encode(RESTART)
    restarted = await client.patch("/calls/rtc_1?tenant=acme", content=update)
    assert restarted.status_code == 200
    assert msgspec.json.decode(restarted.content, type=CallAccepted).ice.ufrag != answer.ice.ufrag
    stale = msgspec.json.encode(IceUpdate(answer.ice.ufrag))
    assert (await client.patch("/calls/rtc_1?tenant=acme", content=stale)).status_code == 412
    assert (await client.delete("/calls/rtc_1?tenant=acme")).status_code == 204
    ended = msgspec.json.decode((await status_of(client, "rtc_1", "acme")).content, type=CallStatus)
    assert (ended.state, ended.reason) == ("ended", "hangup")


async def test_restarts_beyond_the_limit_are_refused_with_retry_after(client: httpx.AsyncClient) -> None:
    await start(client)
    statuses = []
    for _ in range(200):
        response = await client.patch("/calls/rtc_1?tenant=acme", content=msgspec.json.encode(RESTART))
        statuses.append(response.status_code)
        if response.status_code == 429:
            break
    assert (statuses[0], statuses[-1]) == (200, 429)
    assert int(response.headers["retry-after"]) > 0
    assert response.json()["code"] == "too_many_restarts"


def wrong_tokens() -> dict[str, str | None]:
    """Return headers with an invalid control key, by the fault of each."""
    key = TOKEN.removeprefix("Bearer ")
    flipped = key[:-2] + ("A" if key[-2] != "A" else "B") + key[-1]
    link = base64.urlsafe_b64encode(KEYS.link.minting(0)[1]).decode()
    return {
        "no header": None,
        "empty": "",
        "scheme alone": "Bearer",
        "first character": f"Bearer {key[:1]}",
        "half": f"Bearer {key[: len(key) // 2]}",
        "all but the last byte": f"Bearer {key[:-4]}",
        "all but the padding": f"Bearer {key.rstrip('=')}" if key.endswith("=") else f"Bearer {key[:-1]}",
        "one character more": f"Bearer {key}A",
        "last byte another": f"Bearer {flipped}",
        "key of another secret file": authorization(OTHERS.control, 0),
        "link key": f"Bearer {link}",
        "Basic": f"Basic {key}",
        "key without scheme": key,
        "not ASCII": f"Bearer {key[:-1]}\xff",
    }


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_every_request_needs_a_complete_control_key(client: httpx.AsyncClient, method: str, path: str) -> None:
    async with httpx.AsyncClient(base_url=client.base_url, trust_env=False) as unknown_client:
        for wrong, token in wrong_tokens().items():
            headers = [] if token is None else [(b"Authorization", token.encode("latin-1"))]
            refused = await unknown_client.request(method, path, headers=headers, content=msgspec.json.encode(OFFER))
            assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized"), wrong
    load = (await client.get("/load")).json()
    assert (load["calls"], load["draining"]) == (0, False)


async def test_a_request_with_two_authorization_headers_is_refused(client: httpx.AsyncClient) -> None:
    async with httpx.AsyncClient(base_url=client.base_url, trust_env=False) as unknown_client:
        headers = [("Authorization", TOKEN), ("Authorization", "Bearer x")]
        assert (await unknown_client.get("/load", headers=headers)).status_code == 401


OTHER_TENANTS = ["other", "", "acme ", "ACME", "acm"]


@pytest.mark.parametrize("tenant", OTHER_TENANTS)
async def test_the_running_call_of_another_tenant_is_not_found(client: httpx.AsyncClient, tenant: str) -> None:
    assert (await start(client)).status_code == 201
    params = {"tenant": tenant}
    assert (await client.patch("/calls/rtc_1", params=params, content=msgspec.json.encode(RESTART))).status_code == 404
    assert (await client.delete("/calls/rtc_1", params=params)).status_code == 404
    assert (await status_of(client, "rtc_1", tenant)).status_code == 404
    with trio.fail_after(5):
        assert (await status_of(client, "rtc_1", tenant, wait=30)).status_code == 404
    mine = msgspec.json.decode((await status_of(client, "rtc_1", "acme")).content, type=CallStatus)
    assert (mine.state, mine.reason) == ("new", None)


@pytest.mark.parametrize("tenant", OTHER_TENANTS)
async def test_the_ended_call_of_another_tenant_is_not_found(client: httpx.AsyncClient, tenant: str) -> None:
    assert (await start(client)).status_code == 201
    assert (await client.delete("/calls/rtc_1?tenant=acme")).status_code == 204
    assert (await status_of(client, "rtc_1", tenant)).status_code == 404
    assert (await status_of(client, "rtc_1", tenant, wait=1)).status_code == 404
    assert (await client.delete("/calls/rtc_1", params={"tenant": tenant})).status_code == 404
    assert (await status_of(client, "rtc_1", "acme")).json()["state"] == "ended"


async def test_a_wait_for_the_end_of_a_call_returns_at_once(client: httpx.AsyncClient) -> None:
    await start(client)
    ended: list[str] = []

    async def wait() -> None:
        ended.append((await status_of(client, "rtc_1", "acme", wait=30)).json()["reason"])

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.sleep(0.1)
            assert not ended
            await client.delete("/calls/rtc_1?tenant=acme")
    assert ended == ["hangup"]


async def test_a_wait_beyond_its_limit_returns_that_the_call_continues(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("antiphon_transceiver.shell.control_api.MAX_WAIT", 0.05)
    await start(client)
    with trio.fail_after(10):
        assert (await status_of(client, "rtc_1", "acme", wait=1e9)).json()["state"] == "new"


async def test_a_call_without_restarts_left_is_refused_without_retry_after(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("antiphon_transceiver.ice_restarts.MAX_RESTARTS", 2)
    await start(client)
    answers = [await client.patch("/calls/rtc_1?tenant=acme", content=msgspec.json.encode(RESTART)) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert "retry-after" not in answers[-1].headers


@pytest.mark.parametrize(
    "previous",
    [
        PreviousOwner(0, "127.0.0.1", 0),
        PreviousOwner(0, "192.0.2.1", 9),
        PreviousOwner(7, "127.0.0.1", 9),
        PreviousOwner(0, "host", 9),
    ],
)
async def test_calls_of_an_address_that_no_token_can_encode_are_not_claimed(
    client: httpx.AsyncClient, previous: PreviousOwner
) -> None:
    refused = await client.post("/moved", content=msgspec.json.encode(previous))
    assert (refused.status_code, refused.json()["code"]) == (400, "bad_request")


async def test_running_calls_are_listed(client: httpx.AsyncClient) -> None:
    assert (await client.get("/calls")).json() == {"connecting": [], "connected": []}
    await start(client)
    assert (await client.get("/calls")).json() == {"connecting": ["rtc_1"], "connected": []}
    await client.delete("/calls/rtc_1?tenant=acme")
    assert (await client.get("/calls")).json() == {"connecting": [], "connected": []}


async def test_a_call_id_in_use_is_refused(client: httpx.AsyncClient) -> None:
    """Another tenant cannot replace a call by its id."""
    assert (await start(client)).status_code == 201
    assert (await start(client, tenant="other")).status_code == 409
    assert (await status_of(client, "rtc_1", "other")).status_code == 404
    assert (await status_of(client, "rtc_1", "acme")).status_code == 200


async def test_offers_beyond_capacity_and_while_draining_are_refused_with_503() -> None:
    async with transceiver(capacity=1) as url, signed(url) as client:
        assert (await start(client)).status_code == 201
        full = await client.post("/calls", content=msgspec.json.encode(msgspec.structs.replace(OFFER, call_id="rtc_2")))
        assert (full.status_code, full.json()["code"]) == (503, "full")
        assert int(full.headers["retry-after"]) > 0
        assert (await client.post("/drain")).json()["draining"]
        draining = await client.post("/calls", content=msgspec.json.encode(OFFER))
        assert (draining.status_code, draining.json()["code"]) == (503, "draining")
        assert not (await client.delete("/drain")).json()["draining"]


async def test_an_unknown_backend_is_refused(client: httpx.AsyncClient) -> None:
    refused = await start(client, session={"model": "none"})
    assert (refused.status_code, refused.json()["code"]) == (422, "backend_refused")


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"", 400), (b"\xff", 400), (b"[" * 10_000, 422), (b"{}", 400), (b"x" * (MAX_BODY + 1), 413)],
)
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/calls"), ("PATCH", "/calls/rtc_1?tenant=acme"), ("POST", "/moved")]
)
async def test_bad_bodies_are_refused(
    client: httpx.AsyncClient, method: str, path: str, body: bytes, status: int
) -> None:
    assert (await client.request(method, path, content=body)).status_code == status


@pytest.mark.parametrize("wait", ["-1", "nan", "inf", "x"])
async def test_an_invalid_wait_is_refused(client: httpx.AsyncClient, wait: str) -> None:
    assert (await status_of(client, "rtc_1", "acme", wait=wait)).status_code == 400


async def test_an_incomplete_request_is_not_logged_as_an_error(url: str, caplog: pytest.LogCaptureFixture) -> None:
    host, port = url.removeprefix("http://").split(":")
    for body in (b"{", b""):
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            head = f"POST /calls HTTP/1.1\r\nHost: a\r\nAuthorization: {TOKEN}\r\nContent-Length: 9\r\n\r\n"
            await stream.send_all(head.encode() + body)
    async with signed(url) as client:
        assert (await client.get("/load")).status_code == 200
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_the_control_api_refuses_http_2(url: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        await stream.send_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 505")
