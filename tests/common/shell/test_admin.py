from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http.client import HTTPConnection

import pytest
import trio
from prometheus_client import CollectorRegistry

from antiphon_common.metrics import export_counters, export_gauge
from antiphon_common.settings import Address
from antiphon_common.shell.admin import serve_admin


class Counters:
    __slots__ = ("_hidden", "dropped")

    def __init__(self) -> None:
        self.dropped = 0
        self._hidden = 0


class Service:
    def __init__(self) -> None:
        self.healthy = self.ready = True
        self.counters = Counters()
        self.registry = CollectorRegistry()
        export_counters(self.registry, "relay", self.counters)
        export_gauge(self.registry, "relay_flows", "flows now", lambda: 7)


Get = Callable[[str], Awaitable[tuple[int, str]]]


@asynccontextmanager
async def admin_of(service: Service) -> AsyncIterator[Get]:
    """Run the admin port of a service; what is yielded gets a path's status and text."""
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
    service = Service()
    async with admin_of(service) as get:
        assert (await get("/healthz"))[0] == 200
        service.ready = False
        assert (await get("/healthz"))[0] == 200
        assert (await get("/readyz"))[0] == 503
        service.healthy = False
        assert (await get("/healthz"))[0] == 503


async def test_metrics_show_counters_as_they_are_at_the_scrape() -> None:
    service = Service()
    async with admin_of(service) as get:
        service.counters.dropped += 3
        text = (await get("/metrics"))[1]
    assert "relay_dropped_total 3.0" in text
    assert "relay_flows 7.0" in text
    assert "hidden" not in text


async def test_an_address_in_use_is_named() -> None:
    async with trio.open_nursery() as nursery:
        start = (lambda: True, lambda: True, CollectorRegistry())
        address = await nursery.start(serve_admin, Address("127.0.0.1", 0), *start)
        with pytest.raises(OSError, match=f"cannot listen on {address}.*another copy"):
            await serve_admin(address, *start)
        nursery.cancel_scope.cancel()
