"""Services as processes that are stopped during real calls."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

from antiphon.client.call import ClientCall
from antiphon_common.control import authorization
from antiphon_common.keys import KeyRing
from antiphon_transceiver.dtls import Certificate
from support.peers.callers import calling
from support.processes.services import Deployment, Service, all_in_one, apart
from support.processes.waiting import until_reported

SOON = 5.0
"""Seconds within which a service takes nothing new, on a machine with other things to do."""
DEADLINE = 2.0
PATIENT = ("--drain", "60")


def status(address: str, path: str) -> int:
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=5) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


async def ended(service: Service, seconds: float = 10.0) -> int:
    return await trio.to_thread.run_sync(service.wait, seconds)


@asynccontextmanager
async def call_over_websocket(url: str) -> AsyncIterator[tuple[WebSocketConnection, str]]:
    """Offer a call that never connects. Yield the connection that watches it, and the call's id. The stream is
    separate, because the library leaves it open when the server closes first."""
    host, port = url.removeprefix("http://").split(":")
    async with await trio.open_tcp_stream(host, int(port)) as stream, trio.open_nursery() as nursery:
        connection = await wrap_client_stream(nursery, stream, "localhost", "/v1/signaling")
        core = ClientCall(Certificate.generate(), lambda size: bytes(size), 0.0)
        await connection.send_message(json.dumps({"type": "offer", "sdp": core.offer()}))
        yield connection, json.loads(await connection.get_message())["call_id"]
        nursery.cancel_scope.cancel()


async def test_a_draining_transceiver_refuses_calls_and_ends_after_its_last_one() -> None:
    with apart(shared=PATIENT) as deployment:
        transceiver, admin = deployment.services["transceiver"], deployment.transceiver_admin
        async with calling(deployment.url) as callers:
            caller = await callers.call()
            transceiver.terminate()
            await until_reported(lambda: status(admin, "/readyz") == 503, SOON)
            refused = await callers.offer()
            assert (refused.status_code, "retry-after" in refused.headers) == (503, True)
            assert status(admin, "/healthz") == 200
            await callers.wait_for_audio(caller, 50)
            caller.hang_up()
            assert await ended(transceiver) == 0


async def test_at_the_drain_deadline_callers_are_notified_and_calls_end() -> None:
    with apart(shared=("--drain", f"{DEADLINE:g}")) as deployment:
        transceiver = deployment.services["transceiver"]
        async with calling(deployment.url) as callers:
            caller = await callers.call(data_channels=True)
            async with call_over_websocket(deployment.url) as (watching, watched):
                transceiver.terminate()
                with trio.fail_after(DEADLINE + SOON):
                    notified = json.loads(await watching.get_message())
            assert notified == {"type": "ended", "call_id": watched, "reason": "drained"}
            await until_reported(lambda: bool(caller.closed), 5.0)
            assert [event["error"]["code"] for event in caller.events] == ["drained"]
            assert await ended(transceiver) == 0
        transceiver.wait_for_log(r"call ended.*reason=drained")


async def test_a_drain_over_the_control_api_can_be_cancelled() -> None:
    with apart(shared=PATIENT) as deployment:
        control, admin = deployment.services["transceiver"].ready, deployment.transceiver_admin
        keys = KeyRing.parse(deployment.secret).control
        headers = {"Authorization": authorization(keys, time.time())}
        async with calling(deployment.url) as callers, httpx.AsyncClient(base_url=control, headers=headers) as operator:
            caller = await callers.call()
            assert (await operator.post("/drain")).json() == {"calls": 1, "capacity": 100, "draining": True}
            assert status(admin, "/readyz") == (await callers.offer()).status_code == 503
            assert (await operator.delete("/drain")).json()["draining"] is False
            assert status(admin, "/readyz") == 200
            again = await callers.call()
            assert (await operator.post("/drain", params={"seconds": "soon"})).status_code == 400
            assert (await operator.post("/drain", params={"seconds": "0"})).status_code == 200
            await until_reported(lambda: bool(caller.closed and again.closed), 5.0)
            assert (await operator.delete("/drain")).status_code == 200
            assert (await callers.offer()).status_code == 201


async def test_calls_continue_after_their_signaling_server_stops() -> None:
    with apart(shared=("--drain", "3")) as deployment:
        signaling = deployment.services["signaling"]
        async with calling(deployment.url) as callers:
            caller = await callers.call()
            async with call_over_websocket(deployment.url) as (watching, _):
                signaling.terminate()
                with trio.fail_after(SOON):
                    assert json.loads(await watching.get_message()) == {"type": "draining"}
                refused = await callers.offer()
                assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
                with pytest.raises(ConnectionClosed, match="1001"), trio.fail_after(5):
                    await watching.get_message()
            assert await ended(signaling) == 0
            await callers.wait_for_audio(caller, 50)
            assert deployment.calls() == 2


def _relay_is_ready(deployment: Deployment) -> bool:
    return status(deployment.relay_admin, "/readyz") == 200


async def test_a_draining_relay_forwards_while_clients_send_to_it() -> None:
    with apart(shared=PATIENT) as deployment:
        relay = deployment.services["relay"]
        async with calling(deployment.url) as callers:
            caller = await callers.call()
            relay.terminate()
            await until_reported(lambda: not _relay_is_ready(deployment), SOON)
            assert status(deployment.relay_admin, "/healthz") == 200
            await callers.wait_for_audio(caller, 150)
            caller.hang_up()
            assert await ended(relay) == 0


async def test_all_in_one_ends_with_its_last_call() -> None:
    with all_in_one(*PATIENT) as deployment:
        service = deployment.services["antiphon"]
        async with calling(deployment.url) as callers:
            caller = await callers.call()
            service.terminate()
            await until_reported(lambda: status(deployment.relay_admin, "/readyz") == 503, SOON)
            assert (await callers.offer()).json()["error"]["code"] == "draining"
            await callers.wait_for_audio(caller, 50)
            caller.hang_up()
            assert await ended(service) == 0
