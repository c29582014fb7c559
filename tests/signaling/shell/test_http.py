import re
from collections.abc import Awaitable, Callable

import httpx
import pytest
from prometheus_client import CollectorRegistry

from antiphon_common.control import Failure
from antiphon_common.keys import KeyRing
from antiphon_common.shell.supervise import Drain
from antiphon_signaling import SignalingPorts
from antiphon_signaling.sdp import SessionDescription
from antiphon_signaling.shell.http import MAX_BODY, MAX_DRAINED
from support.fakes.transceiver import ACCEPTED, FakeTransceiver

CALLS = "/v1/realtime/calls"
SDP = {"Content-Type": "application/sdp"}
StartTransceiver = Callable[..., Awaitable[FakeTransceiver]]
StartSignaling = Callable[..., Awaitable[SignalingPorts]]


async def call(client: httpx.AsyncClient, offer: bytes, **arguments: object) -> httpx.Response:
    return await client.post(CALLS, content=offer, **({"headers": SDP} | arguments))  # type: ignore[arg-type]


def error_of(response: httpx.Response) -> dict[str, str]:
    assert response.headers["content-type"] == "application/json"
    error: dict[str, str] = response.json()["error"]
    assert set(error) == {"message", "type", "code", "param"}
    return error


async def test_an_offer_is_answered_with_location(
    client: httpx.AsyncClient, offer: bytes, transceiver: FakeTransceiver
) -> None:
    response = await call(client, offer, params={"model": "echo"}, headers=SDP | {"Origin": "http://localhost:3000"})
    assert response.status_code == 201
    assert response.headers["content-type"] == "application/sdp"
    assert "Location" in response.headers["access-control-expose-headers"]
    path, _, call_id = response.headers["location"].rpartition("/")
    assert path == CALLS
    assert re.fullmatch(r"rtc_[A-Za-z0-9_-]{22}", call_id)
    request = transceiver.calls[call_id]
    assert (request.tenant, request.session, request.ice.ufrag) == ("default", {"model": "echo"}, "LWxw")
    answer = SessionDescription.decode(response.content)
    assert len(answer.media[0].values("candidate")) == 2


async def test_the_model_of_the_session_in_a_form_takes_precedence(
    client: httpx.AsyncClient, offer: bytes, transceiver: FakeTransceiver
) -> None:
    parts = {
        "sdp": (None, offer, "application/sdp"),
        "session": (None, b'{"type": "realtime", "model": "mine"}', "application/json"),
    }
    assert (await client.post(f"{CALLS}?model=other", files=parts)).status_code == 201
    as_file = {"sdp": ("offer.sdp", offer, "application/sdp")}
    assert (await client.post(CALLS, files=as_file)).status_code == 201
    sessions = [request.session for request in transceiver.calls.values()]
    assert sessions == [{"type": "realtime", "model": "mine"}, {}]


async def test_the_end_of_a_call_can_be_awaited_and_requested(
    client: httpx.AsyncClient, offer: bytes, transceiver: FakeTransceiver
) -> None:
    location = (await call(client, offer)).headers["location"]
    stats = (await client.get(f"{location}/stats")).json()
    assert (stats["state"], stats["reason"], stats["statistics"]) == ("connected", None, {"lost": 0})
    assert (await client.post(f"{location}/hangup")).status_code == 200
    assert (await client.get(f"{location}/stats")).json()["reason"] == "hangup"
    location = (await call(client, offer)).headers["location"]
    assert (await client.delete(location)).status_code == 200


FRAGMENT = """a=group:BUNDLE 0
m=audio 9 UDP/TLS/RTP/SAVPF 111
a=mid:0
a=ice-ufrag:newU
a=ice-pwd:newPasswordOfTwentyTwoChars
a=candidate:1 1 udp 2130706431 192.0.2.9 5000 typ host
"""
FRAGMENT_HEADERS = {"Content-Type": "application/trickle-ice-sdpfrag"}


async def test_ice_restarts_and_trickled_candidates_are_accepted(
    client: httpx.AsyncClient, offer: bytes, transceiver: FakeTransceiver
) -> None:
    answered = await call(client, offer)
    location, etag = answered.headers["location"], answered.headers["etag"]
    call_id = location.rpartition("/")[2]
    trickled = await client.patch(location, content=FRAGMENT, headers=FRAGMENT_HEADERS | {"If-Match": etag})
    assert (trickled.status_code, trickled.content) == (204, b"")
    assert transceiver.calls[call_id].ice.ufrag == "LWxw"
    restarted = await client.patch(location, content=FRAGMENT, headers=FRAGMENT_HEADERS | {"If-Match": "*"})
    assert (restarted.status_code, restarted.headers["content-type"]) == (200, FRAGMENT_HEADERS["Content-Type"])
    assert restarted.headers["etag"] not in ("", etag)
    assert transceiver.calls[call_id].ice.ufrag == "newU"
    lines = restarted.text.split("\r\n")
    assert lines[1:4] == ["m=audio 9 UDP/TLS/RTP/SAVPF 111", "a=mid:0", f"a=ice-ufrag:{ACCEPTED.ice.ufrag}+"]
    assert sum(line.startswith("a=candidate:") for line in lines) == 2
    stale = await client.patch(location, content=FRAGMENT, headers=FRAGMENT_HEADERS | {"If-Match": etag})
    assert stale.status_code == 412


async def test_the_answer_to_a_restart_that_the_transceiver_refuses_has_its_retry_after(
    client: httpx.AsyncClient, offer: bytes, transceiver: FakeTransceiver
) -> None:
    location = (await call(client, offer)).headers["location"]
    transceiver.refuses_restarts = True
    refused = await client.patch(location, content=FRAGMENT, headers=FRAGMENT_HEADERS | {"If-Match": "*"})
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "6")


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        (FRAGMENT_HEADERS, FRAGMENT, 428),
        ({"Content-Type": "application/sdp", "If-Match": "*"}, FRAGMENT, 415),
        (FRAGMENT_HEADERS | {"If-Match": "*"}, "a=ice-ufrag:onlyhalf", 400),
        (FRAGMENT_HEADERS | {"If-Match": "*"}, "a=ice-ufrag:abcd\na=ice-pwd:short", 422),
    ],
)
async def test_an_invalid_ice_patch_gets_one_clear_error(
    client: httpx.AsyncClient, offer: bytes, headers: dict[str, str], body: str, status: int
) -> None:
    location = (await call(client, offer)).headers["location"]
    response = await client.patch(location, content=body, headers=headers)
    assert response.status_code == status
    assert error_of(response)["message"]


@pytest.mark.parametrize("call_id", ["rtc_AAAAAAAAAAAAAAAAAAAAAA", "rtc_short", "..%2F..%2Fload"])
async def test_unknown_calls_are_not_found(client: httpx.AsyncClient, call_id: str) -> None:
    for method, path in (("DELETE", ""), ("POST", "/hangup"), ("GET", "/stats")):
        response = await client.request(method, f"{CALLS}/{call_id}{path}")
        assert (response.status_code, error_of(response)["code"]) in ((404, "call_not_found"), (404, "not_found"))


@pytest.mark.parametrize(
    ("content", "headers", "status", "code"),
    [
        (b"not sdp", SDP, 400, "invalid_sdp"),
        (b"", SDP, 400, "invalid_sdp"),
        (b"{}", {"Content-Type": "application/json"}, 415, "unsupported_media_type"),
        (b"x" * (MAX_BODY + 1), SDP, 413, "too_large"),
        (b"x" * (MAX_DRAINED // 2), SDP, 413, "too_large"),
        (b"v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n", SDP, 422, "no_audio"),
        (b"junk", {"Content-Type": "multipart/form-data"}, 400, "invalid_form"),
        (b"junk", {"Content-Type": "multipart/form-data; boundary=x"}, 400, "invalid_form"),
        (b"--x--\r\n", {"Content-Type": "multipart/form-data; boundary=x"}, 400, "missing_sdp"),
        (b"--x--\r\n", {"Content-Type": "multipart/form-data; boundary=x; charset=punycode"}, 400, "invalid_form"),
        (b"--x--\r\n", {"Content-Type": "multipart/form-data; boundary=x" + ";a=b" * 3000}, 400, "invalid_form"),
    ],
)
async def test_bad_requests_get_one_clear_error(
    client: httpx.AsyncClient, content: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    response = await client.post(CALLS, content=content, headers=headers)
    assert (response.status_code, error_of(response)["code"]) == (status, code)


@pytest.mark.parametrize(
    "content_type",
    ["application/sdp; charset=utf-8", "Application/SDP", "application/sdp;charset=UTF-8"],
)
async def test_the_type_of_an_offer_may_have_parameters(
    client: httpx.AsyncClient, offer: bytes, content_type: str
) -> None:
    assert (await call(client, offer, headers={"Content-Type": content_type})).status_code == 201


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data; boundary=----x",
        'multipart/form-data; boundary="----x"',
        "Multipart/Form-Data; charset=utf-8; Boundary=----x",
        "multipart/form-data;boundary=----x",
    ],
)
@pytest.mark.parametrize(
    "part", ["", "Content-Type: application/sdp\r\n", "Content-Type: text/plain; charset=utf-8\r\n"]
)
async def test_forms_of_several_clients_are_accepted(
    client: httpx.AsyncClient, offer: bytes, content_type: str, part: str, transceiver: FakeTransceiver
) -> None:
    """Boundaries have quotes or none, and parts need no type (RFC 2046 §5.1.1)."""
    disposition = b'------x\r\nContent-Disposition: form-data; name="%s"\r\n'
    body = disposition % b"session" + b'\r\n{"model": "mine"}\r\n'
    body += disposition % b"sdp" + part.encode() + b"\r\n" + offer + b"\r\n------x--\r\n"
    response = await client.post(CALLS, content=body, headers={"Content-Type": content_type})
    assert response.status_code == 201
    assert [request.session for request in transceiver.calls.values()] == [{"model": "mine"}]


@pytest.mark.parametrize("session", [b"[]", b"{", b"{}]", b'{"model": 5}', b"[" * 5000])
async def test_a_session_must_be_an_object(client: httpx.AsyncClient, offer: bytes, session: bytes) -> None:
    response = await client.post(CALLS, files={"sdp": (None, offer), "session": (None, session)})
    assert (response.status_code, error_of(response)["code"]) == (400, "invalid_session")


async def test_unknown_paths_and_methods_get_json_errors(client: httpx.AsyncClient) -> None:
    missing = await client.get("/v1/nothing")
    assert (missing.status_code, error_of(missing)["code"]) == (404, "not_found")
    wrong = await client.put(CALLS)
    assert (wrong.status_code, error_of(wrong)["code"]) == (405, "method_not_allowed")


async def test_requests_of_whip_clients_to_the_resource_are_answered(client: httpx.AsyncClient) -> None:
    assert "application/sdp" in (await client.options(CALLS)).headers["accept-post"]


@pytest.mark.parametrize(
    "path", [CALLS + "/", CALLS + "//", "//v1/realtime/calls", f"{CALLS}/rtc_{'A' * 22}/stats/", "/app.js/"]
)
async def test_a_path_with_an_additional_slash_is_not_found(client: httpx.AsyncClient, offer: bytes, path: str) -> None:
    """A redirect would contain the scheme of this hop, which is wrong behind a TLS proxy."""
    headers = SDP | {"Host": "voice.example", "X-Forwarded-Proto": "https"}
    for method in ("GET", "POST"):
        response = await client.request(method, str(client.base_url).rstrip("/") + path, content=offer, headers=headers)
        assert (response.status_code, error_of(response)["code"]) == (404, "not_found")
        assert "location" not in response.headers


async def test_a_call_refused_by_a_full_transceiver_goes_to_another(
    start_transceiver: StartTransceiver, start_signaling: StartSignaling, offer: bytes
) -> None:
    small, large = await start_transceiver(capacity=1), await start_transceiver(capacity=3)
    ports = await start_signaling("http://127.0.0.1:9", small, large)
    async with httpx.AsyncClient(base_url=ports.url, trust_env=False) as client:
        statuses = [(await call(client, offer)).status_code for _ in range(4)]
        assert statuses == [201] * 4
        assert (len(small.calls), len(large.calls)) == (1, 3)
        busy = await call(client, offer)
    assert (busy.status_code, busy.headers["retry-after"], error_of(busy)["code"]) == (503, "7", "full")


async def test_a_call_refused_by_a_transceiver_filled_since_its_last_report_goes_to_another(
    start_transceiver: StartTransceiver, start_signaling: StartSignaling, offer: bytes
) -> None:
    """The transceiver without calls is asked first and refuses. The call goes to the less likely one."""
    filled, other = await start_transceiver(capacity=2), await start_transceiver(capacity=2)
    earlier = await start_signaling(other, registry=CollectorRegistry())
    async with httpx.AsyncClient(base_url=earlier.url, trust_env=False) as client:
        assert (await call(client, offer)).status_code == 201
    filled.full = True
    ports = await start_signaling(filled, other)
    async with httpx.AsyncClient(base_url=ports.url, trust_env=False) as client:
        assert (await call(client, offer)).status_code == 201
    assert (filled.asked, len(filled.calls), len(other.calls)) == (1, 0, 2)


async def test_offers_skip_draining_transceivers_and_a_draining_server_refuses_them(
    start_transceiver: StartTransceiver, start_signaling: StartSignaling, offer: bytes
) -> None:
    drain = Drain(60.0)
    leaving, staying = await start_transceiver(), await start_transceiver()
    leaving.draining = True
    ports = await start_signaling(leaving, staying, drain=drain)
    async with httpx.AsyncClient(base_url=ports.url, trust_env=False) as client:
        assert [(await call(client, offer)).status_code for _ in range(4)] == [201] * 4
        assert (len(leaving.calls), len(staying.calls)) == (0, 4)
        drain.begin()
        refused = await call(client, offer)
    assert (refused.status_code, error_of(refused)["code"], "retry-after" in refused.headers) == (503, "draining", True)


async def test_a_refusal_other_than_full_is_final(
    start_transceiver: StartTransceiver, start_signaling: StartSignaling, offer: bytes
) -> None:
    choosy = await start_transceiver(failure=Failure("no_backend", "there is no backend 'x'"))
    ports = await start_signaling(choosy)
    async with httpx.AsyncClient(base_url=ports.url, trust_env=False) as client:
        response = await call(client, offer)
    assert (response.status_code, error_of(response)["message"]) == (422, "there is no backend 'x'")


async def test_a_transceiver_with_two_names_is_asked_once(
    start_signaling: StartSignaling, start_transceiver: StartTransceiver, offer: bytes
) -> None:
    full = await start_transceiver(capacity=0)
    ports = await start_signaling(full, full.url.replace("127.0.0.1", "localhost"))
    async with httpx.AsyncClient(base_url=ports.url, trust_env=False) as client:
        assert (await client.post(CALLS, content=offer, headers=SDP)).status_code == 503
    assert full.asked == 1


async def test_offers_get_503_without_a_transceiver_that_shares_the_secret(
    start_transceiver: StartTransceiver, start_signaling: StartSignaling, offer: bytes
) -> None:
    foreign = await start_transceiver(KeyRing.generate(bytes))
    ports = await start_signaling(foreign, "http://127.0.0.1:9")
    async with httpx.AsyncClient(base_url=ports.url, trust_env=False) as client:
        response = await call(client, offer)
        assert (response.status_code, error_of(response)["code"]) == (503, "no_transceiver")
        assert response.headers["retry-after"]
        lost = await client.delete(f"{CALLS}/rtc_{'A' * 22}")
        impossible = await client.delete(f"{CALLS}/rtc_short")
    assert lost.status_code == 503
    assert impossible.status_code == 404  # no transceiver is asked for what cannot be a call


async def test_setups_are_counted_by_outcome_and_refusals_logged(
    client: httpx.AsyncClient, offer: bytes, registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "antiphon_signaling")
    await call(client, offer)
    await call(client, b"junk")
    prefix = "antiphon_signaling_calls"
    assert registry.get_sample_value(f"{prefix}_attempted_total") == 2
    assert registry.get_sample_value(f"{prefix}_answered_total") == 1
    assert registry.get_sample_value(f"{prefix}_refused_total", {"code": "invalid_sdp"}) == 1
    assert [record.message for record in caplog.records].count("call refused") == 1


async def test_the_page_has_a_strict_content_security_policy(client: httpx.AsyncClient) -> None:
    page = await client.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for name in re.findall(r'(?:src|href)="/([^"]+)"', page.text):
        file = await client.get(f"/{name}")
        assert file.status_code == 200, name
        again = await client.get(f"/{name}", headers={"If-None-Match": file.headers["etag"]})
        assert again.status_code == 304
