from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from prometheus_client import CollectorRegistry

from antiphon_common.keys import KeyRing
from antiphon_common.settings import Address, FrontSettings, SharedSettings
from antiphon_common.shell.supervise import Drain
from antiphon_signaling import SignalingPorts, serve_signaling
from support.fakes.transceiver import FakeTransceiver

OFFER = (Path(__file__).parent / "offers" / "chromium-156.sdp").read_bytes()
KEYS = KeyRing.generate(lambda size: bytes(range(size)))
INGRESSES = (("203.0.113.10", 3478), ("2001:db8::10", 3478))

StartTransceiver = Callable[..., Awaitable[FakeTransceiver]]
StartSignaling = Callable[..., Awaitable[SignalingPorts]]


@pytest.fixture
def offer() -> bytes:
    return OFFER


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def start_transceiver(nursery: trio.Nursery) -> StartTransceiver:
    """Return a function that starts a fake transceiver on real loopback HTTP."""

    async def start(keys: KeyRing = KEYS, **options: Any) -> FakeTransceiver:
        transceiver = FakeTransceiver(keys, **options)
        await nursery.start(transceiver.run)
        return transceiver

    return start


@pytest.fixture
def start_signaling(nursery: trio.Nursery, registry: CollectorRegistry) -> StartSignaling:
    """Return a function that starts signaling on a free port for the given transceivers, with front settings."""

    async def start(
        *transceivers: FakeTransceiver | str,
        drain: Drain | None = None,
        registry: CollectorRegistry = registry,
        **settings: Any,
    ) -> SignalingPorts:
        urls = tuple(item if isinstance(item, str) else item.url for item in transceivers)
        front = FrontSettings(**({"http": Address("127.0.0.1", 0)} | settings))

        async def serve(*, task_status: trio.TaskStatus[SignalingPorts]) -> None:
            shared = SharedSettings(transceiver=urls)
            await serve_signaling(
                front, shared, KEYS, INGRESSES, registry=registry, drain=drain, task_status=task_status
            )

        ports: SignalingPorts = await nursery.start(serve)
        return ports

    return start


@pytest.fixture
async def transceiver(start_transceiver: StartTransceiver) -> FakeTransceiver:
    return await start_transceiver()


@pytest.fixture
async def ports(start_signaling: StartSignaling, transceiver: FakeTransceiver) -> SignalingPorts:
    return await start_signaling(transceiver)


@pytest.fixture
async def client(ports: SignalingPorts) -> AsyncIterator[httpx.AsyncClient]:
    """Return an HTTP client of `ports`."""
    async with httpx.AsyncClient(base_url=ports.url, trust_env=False) as client:
        yield client
