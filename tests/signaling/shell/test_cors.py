"""CORS: preflights and readable responses for pages of other origins."""

import httpx
import pytest

from support.fakes.transceiver import FakeTransceiver

CALLS = "/v1/realtime/calls"
PAGE = {"Origin": "https://app.example"}
PREFLIGHT = PAGE | {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,openai-beta,traceparent",
}


def listed(response: httpx.Response, name: str) -> set[str]:
    return {item.strip().lower() for item in response.headers.get(f"access-control-{name}", "").split(",")}


@pytest.mark.parametrize("path", [CALLS, f"{CALLS}/rtc_{'A' * 22}", "/nothing"])
async def test_a_preflight_allows_a_key_from_any_page(client: httpx.AsyncClient, path: str) -> None:
    response = await client.options(path, headers=PREFLIGHT)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == "*"
    assert {"authorization", "content-type", "openai-beta"} <= listed(response, "allow-headers")
    assert {"post", "patch", "delete"} <= listed(response, "allow-methods")
    assert "access-control-allow-credentials" not in response.headers
    assert not [name for name in response.headers if name.endswith("-network")]


@pytest.mark.parametrize("network", ["private-network", "local-network"])
async def test_a_public_page_may_reach_a_server_on_a_private_network(client: httpx.AsyncClient, network: str) -> None:
    asked = PREFLIGHT | {f"Access-Control-Request-{network.title()}": "true"}
    response = await client.options(CALLS, headers=asked)
    assert response.status_code == 200
    assert response.headers[f"access-control-allow-{network}"] == "true"
    assert response.headers["access-control-allow-origin"] == "*"


async def test_a_page_may_read_the_location_and_etag_of_its_call(
    client: httpx.AsyncClient, offer: bytes, transceiver: FakeTransceiver
) -> None:
    own = {"Origin": "http://localhost:3000", "Content-Type": "application/sdp"}
    response = await client.post(CALLS, content=offer, headers=own)
    assert response.status_code == 201
    assert response.headers["access-control-allow-origin"] == "*"
    assert {"location", "etag", "retry-after", "accept-patch"} <= listed(response, "expose-headers")


@pytest.mark.parametrize(("path", "status"), [("/nothing", 404), (CALLS, 401)])
async def test_a_page_may_read_the_reason_of_a_refusal(client: httpx.AsyncClient, path: str, status: int) -> None:
    response = await client.post(path, headers=PAGE)
    assert response.status_code == status
    assert response.headers["access-control-allow-origin"] == "*"


async def test_a_page_of_another_origin_needs_a_key_after_any_preflight(
    client: httpx.AsyncClient, offer: bytes, transceiver: FakeTransceiver
) -> None:
    response = await client.post(CALLS, content=offer, headers=PAGE | {"Content-Type": "application/sdp"})
    assert response.status_code == 401
    assert not transceiver.calls
