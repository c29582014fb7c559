"""All services in one process: relay, transceiver, signaling and the shipped backends in one Trio nursery."""

import os
import socket
from collections.abc import Iterator, Sequence
from functools import partial

import msgspec
import trio
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from antiphon_backend import echo, loopback, serve_backend
from antiphon_common import logs
from antiphon_common.keys import KeyRing
from antiphon_common.metrics import SummedMetrics, take_snapshot
from antiphon_common.settings import (
    Address,
    Backend,
    FrontSettings,
    Media,
    RelaySettings,
    SettingsError,
    SharedSettings,
    TransceiverSettings,
    parse,
)
from antiphon_common.shell.admin import serve_admin
from antiphon_common.shell.interfaces import default_address
from antiphon_common.shell.secrets import follow_keys, read_keys
from antiphon_common.shell.supervise import Drain, run_service
from antiphon_relay.shell.public_sockets import WILDCARDS, AdvertisedAddress
from antiphon_relay.shell.service import RelayPorts, serve_relay
from antiphon_signaling import SignalingPorts, serve_signaling
from antiphon_transceiver.shell.service import TransceiverPorts, serve_transceiver

DESCRIPTION = """Run all Antiphon services in one process. Open the URL that it prints, and talk. Further commands:
`keygen` makes a secret file, and `load` makes calls and prints a report on them. Each has --help."""

SHIPPED = {"echo": (echo.echo, echo.FORMATS), "loopback": (loopback.loopback, loopback.FORMATS)}
"""Shipped backends: the handler of each, and the audio formats that it accepts."""


def main(arguments: Sequence[str]) -> None:
    """Run all services until a signal ends them.

    Raises:
        SystemExit: with 2 if settings cannot be used, with 1 if a service cannot start.
    """
    groups = (FrontSettings, RelaySettings, TransceiverSettings, SharedSettings)
    front, relay, transceiver, shared = parse("antiphon", DESCRIPTION, groups, arguments)
    logs.configure(shared.log)
    drain = Drain(shared.drain)
    run_service(serve_all, front, relay, transceiver, shared, drain, ready=announce, drain=drain)


def announce(ports: SignalingPorts) -> None:
    """Print the line by which programs see that the services are ready."""
    print(f"ready {ports.url}", flush=True)


async def serve_all(
    front: FrontSettings,
    relay: RelaySettings,
    transceiver: TransceiverSettings,
    shared: SharedSettings,
    drain: Drain,
    *,
    task_status: trio.TaskStatus[SignalingPorts] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run all services until cancelled, or until `drain` has begun and the last call has ended.

    The started value has the URL for callers. Services talk over loopback sockets, as they do over a network. Without a
    secret file, keys are generated for this process. One admin port serves all services.

    Raises:
        SettingsError: settings cannot be used.
        KeyRingError: the secret file cannot be used.
        OSError: an address cannot be bound.
    """
    keys = read_keys(shared.secret_file) if shared.secret_file else KeyRing.generate(os.urandom)
    registry = CollectorRegistry()
    inside = msgspec.structs.replace(shared, admin=None)

    async def serve_calls(*, task_status: trio.TaskStatus[TransceiverPorts]) -> None:
        await serve_transceiver(transceiver, inside, keys, registry=registry, drain=drain, task_status=task_status)
        nursery.cancel_scope.cancel()  # the other services have no use without calls

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow_keys, keys)
        counted = _Sums()
        registry.register(counted)
        start_backend = partial(_start_backend, nursery, slots=transceiver.capacity, counted=counted)
        backends = [await start_backend(backend) for backend in transceiver.backend]
        transceiver = msgspec.structs.replace(transceiver, backend=tuple(backends))
        placed: TransceiverPorts = await nursery.start(serve_calls)
        inside = msgspec.structs.replace(inside, transceiver=(placed.control_url,))
        serve_media = partial(serve_relay, relay, inside, keys, coalesce=False, registry=registry)
        relayed: RelayPorts = await nursery.start(serve_media)
        ingresses = advertised_addresses(relay.media, relayed.media)
        ports: SignalingPorts = await nursery.start(
            partial(serve_signaling, front, inside, keys, ingresses, registry=registry, drain=drain)
        )
        if shared.admin is not None:
            await nursery.start(
                partial(
                    serve_admin, shared.admin, lambda: True, lambda: not drain.begun, registry, names=shared.admin_name
                )
            )
        task_status.started(ports)


def advertised_addresses(settings: Sequence[Media], opened: Sequence[AdvertisedAddress]) -> list[Address]:
    """Return the addresses of the relay that are advertised to callers.

    They are those in the settings. A wildcard stands for the addresses of the default routes, and 127.0.0.1. The other
    addresses of a host belong to containers and tunnels, which callers cannot reach.
    """
    addresses = [Address(host, port) for _, host, port in opened]
    if not any(media.local.host in WILDCARDS for media in settings):
        return addresses
    named = [(media.advertised or media.local).host for media in settings]
    default = [default_address(socket.AF_INET), default_address(socket.AF_INET6), "127.0.0.1"]
    return [address for host in dict.fromkeys([*named, *default]) for address in addresses if address.host == host]


class _Sums(Collector):
    """The sums of the metrics of several backends in one process, since they export the same names."""

    def __init__(self) -> None:
        self._registries: list[CollectorRegistry] = []

    def add(self) -> CollectorRegistry:
        """Return the registry of one more backend."""
        self._registries.append(CollectorRegistry())
        return self._registries[-1]

    def collect(self) -> Iterator[Metric]:
        sums = SummedMetrics()
        for source, registry in enumerate(self._registries):
            sums.update(source, take_snapshot(registry))
        yield from sums.collect()


async def _start_backend(nursery: trio.Nursery, backend: Backend, *, slots: int, counted: _Sums) -> Backend:
    """Start a shipped backend, and return it with its URL. A backend that has a URL runs elsewhere and is returned.

    Raises SettingsError for an unknown name.
    """
    if backend.url is not None:
        return backend
    if backend.name not in SHIPPED:
        raise SettingsError(
            f"--backend {backend.name}: shipped are {' and '.join(SHIPPED)}; "
            f"for one of your own write {backend.name}=ws://HOST:PORT"
        )
    handler, formats = SHIPPED[backend.name]
    serve = partial(serve_backend, handler, "127.0.0.1", 0, slots=slots, formats=formats, registry=counted.add())
    return Backend(backend.name, await nursery.start(serve))
