"""Limits of a tenant, with real calls."""

import contextlib
from pathlib import Path

import httpx
import trio

from antiphon.client.call import ClientCall
from antiphon.shell.load_run import LoadSettings, run_load
from antiphon_transceiver.dtls import Certificate
from support.floods.idle_connections import allow_files, connect
from support.processes.services import all_in_one

KEY, OTHER = "acme-key-of-16-characters", "other-key-of-16-characters"


async def test_connected_calls_free_pending_places_and_offers_without_checks_do_not(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"acme:{KEY}\nother:{OTHER}\n")
    file.chmod(0o600)
    with all_in_one("--api-key-file", str(file), "--tenant-setups", "2") as deployment:
        report = await run_load(LoadSettings(deployment.url, calls=5, seconds=0.5, rate=0.7, key=KEY))
        assert [call.failure for call in report.calls] == [None] * 5
        core = ClientCall(Certificate.generate(), lambda size: bytes(size), trio.current_time())
        async with httpx.AsyncClient(base_url=deployment.url, trust_env=False) as http:

            async def offer(key: str) -> int:
                headers = {"Content-Type": "application/sdp", "Authorization": f"Bearer {key}"}
                return (await http.post("/v1/realtime/calls", content=core.offer(), headers=headers)).status_code

            assert [await offer(KEY) for _ in range(3)] == [201, 201, 429]
            await trio.sleep(2)
            assert [await offer(KEY), await offer(OTHER)] == [429, 201]


async def test_two_thousand_idle_connections_do_not_prevent_a_call() -> None:
    """They have no key, half a request, the preface of HTTP/2, an upgrade to it, or a WebSocket."""
    connections = allow_files(2100)
    with all_in_one() as deployment, contextlib.ExitStack() as held:
        host, port = deployment.url.removeprefix("http://").rstrip("/").split(":")
        for number in range(connections):
            connect(held, (host, int(port)), number)
        report = await run_load(LoadSettings(deployment.url, calls=3, seconds=0.5))
        assert [call.failure for call in report.calls] == [None] * 3


async def test_programs_on_the_same_machine_have_no_limits_without_keys() -> None:
    with all_in_one("--address-setups", "1", "--tenant-setups", "1", "--address-offers", "0.1") as deployment:
        core = ClientCall(Certificate.generate(), lambda size: bytes(size), trio.current_time())
        headers = {"Content-Type": "application/sdp"}
        async with httpx.AsyncClient(base_url=deployment.url, trust_env=False) as http:
            for _ in range(20):
                response = await http.post("/v1/realtime/calls", content=core.offer(), headers=headers)
                assert response.status_code == 201
