"""The limits of one tenant and one address, in the core and over HTTP and WebSocket."""

import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
import trio
from prometheus_client import CollectorRegistry

from antiphon_common.settings.values import read_network
from antiphon_signaling import SignalingPorts
from antiphon_signaling.limits import (
    BURST_SECONDS,
    FORGET_SECONDS,
    MAX_CALLS,
    MAX_IDLE_ACCOUNTS,
    QUESTIONS_PER_OFFER,
    Limit,
    Limits,
    Setup,
)
from antiphon_signaling.refusals import RefusedError
from support.fakes.transceiver import FakeTransceiver

StartSignaling = Callable[..., Awaitable[SignalingPorts]]

CALLS = "/v1/realtime/calls"
SDP = {"Content-Type": "application/sdp"}
MANY = Limit(10**6, 10**6, 10**6)
KEYS = "acme:acme-key-of-16-bytes\nacme:acme-second-of-16\nother:other-key-of-16-b\n"


def refusal(limits: Limits, tenant: str | None, address: str | None, now: float) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        limits.begin(tenant, address, now)
    assert caught.value.status == 429
    assert int(caught.value.headers["Retry-After"]) >= 1
    return caught.value


def test_concurrent_calls_are_limited_per_tenant_and_per_address() -> None:
    limits = Limits(Limit(3, 100, 100), Limit(2, 100, 100))
    first = limits.begin("acme", "192.0.2.1", 0)
    limits.begin("acme", "192.0.2.1", 0)
    assert refusal(limits, "acme", "192.0.2.1", 0).code == "too_many_calls_of_address"
    limits.begin("acme", "192.0.2.2", 0)
    assert refusal(limits, "acme", "192.0.2.3", 0).code == "too_many_calls_of_tenant"
    limits.begin("other", "192.0.2.3", 0)
    limits.end(first, 1)
    limits.begin("acme", "192.0.2.1", 1)


def test_calls_that_are_not_connected_are_limited_until_they_are() -> None:
    """Offers without checks do not fill a transceiver at any rate."""
    limits = Limits(Limit(100, 3, 100), MANY)
    setups = [limits.begin("acme", None, now) for now in (0, 1, 2)]
    for number, setup in enumerate(setups):
        limits.place(setup, f"rtc_{number}", "http://t", 2)
    assert refusal(limits, "acme", None, 50).code == "too_many_setups_of_tenant"
    limits.reported("http://t", ["rtc_0", "rtc_1"], ["rtc_2"], 50, 50)
    limits.begin("acme", None, 50)
    assert refusal(limits, "acme", None, 50).code == "too_many_setups_of_tenant"
    limits.reported("http://t", ["rtc_1"], ["rtc_2"], 51, 51)  # rtc_0 is over
    limits.begin("acme", None, 51)


def test_offers_per_second_are_limited_and_restarts_count_as_offers() -> None:
    limits = Limits(Limit(10**6, 10**6, 2), MANY)
    for _ in range(int(2 * BURST_SECONDS) // 2):
        limits.end(limits.begin("acme", None, 0), 0)
        limits.restart("acme", None, 0)
    assert refusal(limits, "acme", None, 0).headers == {"Retry-After": "1"}
    with pytest.raises(RefusedError):
        limits.restart("acme", None, 0)
    assert limits.counters.restarts_refused == 1
    limits.begin("other", None, 0)
    limits.begin("acme", None, 0.5)
    refusal(limits, "acme", None, 0.5)


def test_status_requests_are_limited_apart_from_offers() -> None:
    """Each status request goes to every transceiver, also for unknown calls."""
    limits = Limits(Limit(10**6, 10**6, 2), Limit(10**6, 10**6, 4))
    allowed = int(2 * BURST_SECONDS) * QUESTIONS_PER_OFFER
    for _ in range(allowed):
        limits.ask("acme", "192.0.2.1", 0)
    with pytest.raises(RefusedError) as caught:
        limits.ask("acme", "192.0.2.1", 0)
    assert (caught.value.status, caught.value.code) == (429, "too_many_questions_of_tenant")
    assert caught.value.headers == {"Retry-After": "1"}
    assert limits.counters.questions_refused == 1
    for _ in range(allowed):
        limits.ask("other", "192.0.2.1", 0)
    with pytest.raises(RefusedError) as caught:
        limits.ask("third", "192.0.2.1", 0)
    assert caught.value.code == "too_many_questions_of_address"
    limits.begin("acme", "192.0.2.1", 0)
    limits.ask("acme", "192.0.2.1", 0.1)
    limits.ask(None, None, 0)


def test_a_refusal_by_one_limit_does_not_count_for_the_other() -> None:
    limits = Limits(Limit(100, 100, 1), Limit(1, 1, 1000))
    limits.begin("acme", "192.0.2.1", 0)
    for _ in range(100):
        refusal(limits, "acme", "192.0.2.1", 0)
    limits.begin("acme", "192.0.2.2", 0)


def test_requests_without_tenant_and_address_are_not_limited() -> None:
    limits = Limits(Limit(1, 1, 1), Limit(1, 1, 1))
    for _ in range(100):
        limits.begin(None, None, 0)
    limits.begin("acme", "192.0.2.1", 0)


def test_a_call_placed_while_its_transceiver_was_asked_is_not_over() -> None:
    limits = Limits(Limit(1, 1, 100), MANY)
    limits.place(limits.begin("acme", None, 0), "rtc_1", "http://t", 1.5)
    limits.reported("http://t", [], [], 1.0, 2.0)
    refusal(limits, "acme", None, 2.0)
    limits.reported("http://u", [], [], 3.0, 3.0)
    refusal(limits, "acme", None, 3.0)
    limits.reported("http://t", [], [], 3.0, 3.0)
    limits.begin("acme", None, 3.0)


def test_calls_without_reports_are_removed() -> None:
    limits = Limits(Limit(1, 1, 100), MANY)
    limits.place(limits.begin("acme", None, 0), "rtc_1", "http://t", 0)
    limits.reported("http://t", [], ["rtc_1"], 30, 30)
    limits.forget_unreported(FORGET_SECONDS + 29)
    refusal(limits, "acme", None, FORGET_SECONDS + 29)
    limits.forget_unreported(FORGET_SECONDS + 30)
    assert (limits.transceivers, limits.counters.calls_forgotten) == (set(), 1)
    limits.begin("acme", None, FORGET_SECONDS + 30)


def test_a_call_that_ends_twice_is_counted_once() -> None:
    limits = Limits(Limit(2, 2, 100), MANY)
    limits.begin("acme", None, 0)
    setup = limits.begin("acme", None, 0)
    limits.place(setup, "rtc_1", "http://t", 0)
    limits.end_call("rtc_1", 1)
    limits.end_call("rtc_1", 1)
    limits.end(setup, 1)
    limits.begin("acme", None, 1)
    refusal(limits, "acme", None, 1)


def test_remembered_addresses_and_calls_are_bounded() -> None:
    limits = Limits(MANY, Limit(10**6, 10**6, 0.2))
    for number in range(MAX_IDLE_ACCOUNTS + 10):
        limits.end(limits.begin(None, str(number), 0), 0)
    refusal(limits, None, str(MAX_IDLE_ACCOUNTS + 9), 0)
    limits.begin(None, "0", 0)  # forgotten, so it begins anew
    for number in range(MAX_CALLS + 10):
        limits.place(limits.begin("acme", None, 0), str(number), "http://t", 0)
    assert limits.counters.calls_forgotten == 10


def test_counts_equal_the_running_calls_after_random_events() -> None:
    """Random offers, failures, reports and ends are compared with a plain list. The seed is printed."""
    seed = int.from_bytes(os.urandom(4), "big")
    print(f"seed {seed}")
    random = Random(seed)
    limits = Limits(Limit(5, 3, 10**6), Limit(4, 2, 10**6))
    alive: list[Setup] = []
    ids: Iterator[str] = iter(map(str, range(10**6)))
    for step in range(5000):
        now = step / 100
        tenant, address = random.choice("ab"), random.choice("xyz")
        mine = [s for s in alive if s.tenant == tenant]
        here = [s for s in alive if s.address == address]
        fits = (
            len(mine) < 5
            and len(here) < 4
            and sum(not s.connected for s in mine) < 3
            and sum(not s.connected for s in here) < 2
        )
        try:
            alive.append(limits.begin(tenant, address, now))
            assert fits
        except RefusedError:
            assert not fits
        what = random.random()
        placed = [s for s in alive if s.call_id]
        if what < 0.3 and len(placed) < len(alive):
            limits.place(next(s for s in alive if not s.call_id), next(ids), random.choice("TU"), now)
        elif what < 0.5 and alive:
            limits.end(alive.pop(random.randrange(len(alive))), now)
        elif what < 0.7:
            there = [s for s in placed if s.transceiver == "T"]
            over = {s.call_id for s in there if random.random() < 0.2 and s.since < now}
            up = [s.call_id for s in there if s.call_id not in over and (s.connected or random.random() < 0.5)]
            down = [s.call_id for s in there if s.call_id not in over and s.call_id not in up]
            limits.reported("T", down, up, now, now)
            alive = [s for s in alive if s.call_id not in over or not s.call_id]
    for setup in alive:
        limits.end(setup, 100)
    assert not limits.transceivers


# Over HTTP and WebSocket


@pytest.fixture
def key_file(tmp_path: Path) -> str:
    file = tmp_path / "keys"
    file.write_text(KEYS)
    file.chmod(0o600)
    return str(file)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


MINE, SECOND, OTHER = bearer("acme-key-of-16-bytes"), bearer("acme-second-of-16"), bearer("other-key-of-16-b")


async def test_one_tenant_does_not_use_up_the_limits_of_another(
    start_signaling: StartSignaling,
    transceiver: FakeTransceiver,
    offer: bytes,
    key_file: str,
    registry: CollectorRegistry,
) -> None:
    """All its keys count together, over HTTP and WebSocket. Connected and ended calls free their places."""
    ports = await start_signaling(transceiver, api_key_file=key_file, tenant_setups=3, tenant_calls=4)
    async with httpx.AsyncClient(base_url=ports.url, trust_env=False) as client:

        async def call(headers: dict[str, str]) -> httpx.Response:
            return await client.post(CALLS, content=offer, headers=SDP | headers)

        assert [(await call(key)).status_code for key in (MINE, SECOND, MINE)] == [201] * 3
        refused = await call(SECOND)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_setups_of_tenant")
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert int(refused.headers["retry-after"]) >= 1
        assert (await call(OTHER)).status_code == 201
        name = "antiphon_signaling_calls_refused_total"
        assert registry.get_sample_value(name, {"code": "too_many_setups_of_tenant"}) == 1
        transceiver.connected.update(transceiver.calls)
        location = await until_taken(call, MINE)
        assert (await call(MINE)).json()["error"]["code"] == "too_many_calls_of_tenant"
        assert (await client.delete(location, headers=MINE)).status_code == 200
        location = await until_taken(call, MINE)
        transceiver.finish(location.rpartition("/")[2])
        await until_taken(call, MINE)


async def test_failed_offers_do_not_count_as_calls(
    start_signaling: StartSignaling, transceiver: FakeTransceiver, offer: bytes, key_file: str
) -> None:
    ports = await start_signaling(transceiver, api_key_file=key_file, tenant_setups=1)
    async with httpx.AsyncClient(base_url=ports.url, trust_env=False) as client:
        for content, status in ((b"junk", 400), (b"junk", 400), (offer, 201), (offer, 429)):
            assert (await client.post(CALLS, content=content, headers=SDP | MINE)).status_code == status


async def until_taken(call: Callable[[dict[str, str]], Awaitable[httpx.Response]], key: dict[str, str]) -> str:
    with trio.fail_after(10):
        while (response := await call(key)).status_code == 429:
            await trio.sleep(0.05)
    assert response.status_code == 201
    return str(response.headers["location"])


async def test_one_address_does_not_use_up_the_limits_of_another(
    start_signaling: StartSignaling, transceiver: FakeTransceiver, offer: bytes
) -> None:
    """Behind a reverse proxy of a configured network, the last forwarded address is the caller's."""
    ports = await start_signaling(
        transceiver, no_auth=True, address_calls=2, proxy=(read_network("127.0.0.0/8"), read_network("10.0.0.0/8"))
    )
    async with httpx.AsyncClient(base_url=ports.url, trust_env=False) as client:

        async def call(forwarded: str) -> int:
            headers = SDP | {"X-Forwarded-For": forwarded}
            return (await client.post(CALLS, content=offer, headers=headers)).status_code

        assert [await call("192.0.2.1") for _ in range(3)] == [201, 201, 429]
        assert await call("192.0.2.2, 192.0.2.1") == 429
        assert await call("192.0.2.1, 10.0.0.9") == 429
        assert await call("192.0.2.1, 192.0.2.2") == 201
        assert [await call(f"2001:db8::{number}") for number in range(3)] == [201, 201, 429]
        assert [await call("") for _ in range(5)] == [201] * 5  # from this machine itself


async def test_a_forwarded_address_of_an_untrusted_caller_is_ignored(
    start_signaling: StartSignaling, transceiver: FakeTransceiver, offer: bytes
) -> None:
    ports = await start_signaling(transceiver, no_auth=True, address_calls=1)
    async with httpx.AsyncClient(base_url=ports.url, trust_env=False) as client:
        for _ in range(3):
            headers = SDP | {"X-Forwarded-For": "192.0.2.1"}
            assert (await client.post(CALLS, content=offer, headers=headers)).status_code == 201


async def test_restarts_are_limited_over_http_too(
    start_signaling: StartSignaling, transceiver: FakeTransceiver, offer: bytes, key_file: str
) -> None:
    ports = await start_signaling(transceiver, api_key_file=key_file, tenant_offers=1.0)
    headers = MINE | {"Content-Type": "application/trickle-ice-sdpfrag", "If-Match": "*"}
    fragment = "a=ice-ufrag:newU\na=ice-pwd:newPasswordOfTwentyTwoChars\n"
    async with httpx.AsyncClient(base_url=ports.url, trust_env=False) as client:
        location = (await client.post(CALLS, content=offer, headers=SDP | MINE)).headers["location"]
        statuses: list[Any] = []
        for _ in range(12):
            statuses.append((await client.patch(location, content=fragment, headers=headers)).status_code)
        assert statuses[:4] == [200] * 4
        assert statuses.count(429) >= 4


@pytest.mark.parametrize("question", ["GET {}/stats", "DELETE {}", "POST {}/hangup"])
async def test_status_requests_are_limited_over_http_too(
    start_signaling: StartSignaling, transceiver: FakeTransceiver, key_file: str, question: str
) -> None:
    ports = await start_signaling(transceiver, api_key_file=key_file, tenant_offers=1.0)
    method, _, path = question.format(f"{CALLS}/rtc_{'A' * 22}").partition(" ")
    async with httpx.AsyncClient(base_url=ports.url, trust_env=False) as client:
        answers = [await client.request(method, path, headers=MINE) for _ in range(40)]
    statuses = [answer.status_code for answer in answers]
    assert statuses[:25] == [404] * 25
    assert 429 in statuses
    assert "retry-after" in answers[statuses.index(429)].headers


def test_offers_after_hours_of_silence_are_limited_to_a_burst() -> None:
    limits = Limits(Limit(10**6, 10**6, 2.0), MANY)
    for _ in range(3):
        limits.begin("acme", None, 0.0)
    for _ in range(int(2.0 * BURST_SECONDS)):
        limits.begin("acme", None, 36_000.0)
    refusal(limits, "acme", None, 36_000.0)
