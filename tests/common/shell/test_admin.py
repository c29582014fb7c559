from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from http.client import HTTPConnection

import pytest
import trio
from prometheus_client import CollectorRegistry

from antiphon_common.metrics import export_counters, export_gauge
from antiphon_common.settings import Address
from antiphon_common.shell.admin import ADMIN_CONNECTIONS, serve_admin


class AdminCounters:
    __slots__ = ("_hidden", "dropped")

    def __init__(self) -> None:
        self.dropped = 0
        self._hidden = 0


class FakeService:
    def __init__(self) -> None:
        self.healthy = self.ready = True
        self.counters = AdminCounters()
        self.registry = CollectorRegistry()
        export_counters(self.registry, "relay", self.counters)
        export_gauge(self.registry, "relay_flows", "flows now", lambda: 7)


Get = Callable[[str], Awaitable[tuple[int, str]]]


@asynccontextmanager
async def admin_of(service: FakeService) -> AsyncIterator[Get]:
    """Run the admin port of a service. Yield a function that returns status and text of a path."""
    async with trio.open_nursery() as nursery:
        address: Address = await nursery.start(
            serve_admin, Address("127.0.0.1", 0), lambda: service.healthy, lambda: service.ready, service.registry
        )

        def get(path: str) -> tuple[int, str]:
            connection = HTTPConnection(*address, timeout=20)
            connection.request("GET", path)
            response = connection.getresponse()
            text = response.read().decode()
            connection.close()
            return response.status, text

        yield lambda path: trio.to_thread.run_sync(get, path)
        nursery.cancel_scope.cancel()


async def test_health_and_readiness_follow_the_service() -> None:
    service = FakeService()
    async with admin_of(service) as get:
        assert (await get("/healthz"))[0] == 200
        service.ready = False
        assert (await get("/healthz"))[0] == 200
        assert (await get("/readyz"))[0] == 503
        service.healthy = False
        assert (await get("/healthz"))[0] == 503


async def test_metrics_show_counters_as_they_are_at_the_scrape() -> None:
    service = FakeService()
    async with admin_of(service) as get:
        service.counters.dropped += 3
        text = (await get("/metrics"))[1]
    assert "relay_dropped_total 3.0" in text
    assert "relay_flows 7.0" in text
    assert "hidden" not in text


async def test_an_address_in_use_is_reported_with_the_address() -> None:
    async with trio.open_nursery() as nursery:
        start = (lambda: True, lambda: True, CollectorRegistry())
        address = await nursery.start(serve_admin, Address("127.0.0.1", 0), *start)
        with pytest.raises(OSError, match=f"cannot listen on {address}.*another copy"):
            await serve_admin(address, *start)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:9090", 200),
        ("[::1]:9090", 200),
        ("10.1.2.3:9090", 200),
        ("[fe80::1%25eth0]:9090", 200),
        ("localhost", 200),
        ("LOCALHOST:9090", 200),
        ("talk.localhost", 200),
        ("relay-0:9090", 200),
        ("relay.antiphon.svc:9090", 200),
        ("relay.antiphon.svc.cluster.local:9090", 200),
        ("metrics.example", 200),
        ("METRICS.example:9090", 200),
        ("rebound.example", 421),
        ("metrics.example.rebound.example:9090", 421),
        ("evil.metrics.example", 421),
        ("127.0.0.1.rebound.example:9090", 421),
        ("localhost.rebound.example", 421),
        ("svc.rebound.example", 421),
        ("antiphon.local", 421),
        ("[oops", 421),
        ("rebound.example.", 421),
        ("a@rebound.example", 421),
    ],
)
@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/nothing"])
async def test_requests_under_names_of_other_sites_are_refused(host: str, status: int, path: str) -> None:
    """With DNS rebinding the name of a page resolves to this port, and its scripts could read responses."""
    async with trio.open_nursery() as nursery:
        serve = partial(serve_admin, names=["metrics.example"])
        start = (Address("127.0.0.1", 0), lambda: True, lambda: True, CollectorRegistry())
        address = await nursery.start(serve, *start)
        async with await trio.open_tcp_stream(*address) as stream:
            await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            answered = int((await stream.receive_some()).split()[1])
        nursery.cancel_scope.cancel()
    assert answered == (404 if path == "/nothing" and status == 200 else status)


async def test_the_admin_port_refuses_http_2_and_limits_its_connections() -> None:
    async with trio.open_nursery() as nursery:
        start = (Address("127.0.0.1", 0), lambda: True, lambda: True, CollectorRegistry())
        address = await nursery.start(serve_admin, *start)
        async with await trio.open_tcp_stream(*address) as stream:
            await stream.send_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 505")
        idle = [await trio.open_tcp_stream(*address) for _ in range(ADMIN_CONNECTIONS + 10)]
        async with await trio.open_tcp_stream(*address) as stream:
            await stream.send_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")
        for stream in idle:
            await trio.aclose_forcefully(stream)
        nursery.cancel_scope.cancel()
