"""The transceiver as a service: opens its sockets, then runs link, backends, control API and admin port together."""

import logging
import os
import time
from functools import partial
from ipaddress import ip_address
from typing import NamedTuple

import trio
from prometheus_client import CollectorRegistry

from antiphon_common.control import LinkInfo
from antiphon_common.keys import KeyRing
from antiphon_common.link import LinkKeys
from antiphon_common.metrics import export_counters, export_gauge
from antiphon_common.registry import Registered
from antiphon_common.routing import ClusterNetworks, Owner, RouteTokens
from antiphon_common.settings import Address, SettingsError, SharedSettings, TransceiverSettings, backend_urls
from antiphon_common.shell.admin import serve_admin, serve_http
from antiphon_common.shell.registry import keep_registered
from antiphon_common.shell.supervise import Drain
from antiphon_common.shell.udp import BatchSocket
from antiphon_transceiver.call_quality import SAMPLE_SECONDS, CallQualityMonitor
from antiphon_transceiver.call_router import CallRouter
from antiphon_transceiver.dtls import Certificate
from antiphon_transceiver.metrics import CoreMetrics, TransceiverMetrics
from antiphon_transceiver.rtp import NTP_EPOCH
from antiphon_transceiver.shell.admission import Admission
from antiphon_transceiver.shell.backend_pool import BackendPool
from antiphon_transceiver.shell.call_log import CallLog
from antiphon_transceiver.shell.control_api import control_app
from antiphon_transceiver.shell.control_operations import ControlOperations
from antiphon_transceiver.shell.packet_pump import PacketPump, RelayFilter

log = logging.getLogger(__name__)

TOTALS_INTERVAL = 5.0
"""Seconds between additions of running calls' counters to the totals: several times in each scrape."""

CALLS_AT_ONCE = 8
"""Calls whose counters are added without a checkpoint; each takes some 30 µs."""


class TransceiverPorts(NamedTuple):
    """Where a started transceiver is reached: its control URL, and its link address."""

    control_url: str
    link: Address


async def serve_transceiver(
    settings: TransceiverSettings,
    shared: SharedSettings,
    keys: KeyRing,
    *,
    registry: CollectorRegistry | None = None,
    drain: Drain | None = None,
    task_status: trio.TaskStatus[TransceiverPorts] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run until cancelled, or until `drain` ends the process and the last call is over. Started once calls can be
    placed. Metrics go into `registry`.

    Raises:
        SettingsError: when the registry would list a control address that nobody can reach.
        OSError: when an address is in use or not this machine's.
    """
    if shared.redis is not None and ip_address(settings.control.host).is_unspecified:
        raise SettingsError(f"--control {settings.control} is no address that others could find with --redis: name one")
    registry = registry or CollectorRegistry()
    drain = drain or Drain(shared.drain)
    call_log = CallLog(TransceiverMetrics(registry))
    with BatchSocket.open(settings.link) as link:
        bound = Address(*link.address)
        advertised = settings.link_advertise or bound
        networks = ClusterNetworks(shared.transceiver_network)
        router = _call_router(shared.cluster, networks, keys, advertised)
        backends = backend_urls(settings)
        pool = BackendPool(backends, settings.audio)
        pump = PacketPump(router, link, pool, is_relay=RelayFilter(shared.relay_network))
        admission = Admission(router, pump, pool, call_log, drain, backends=tuple(backends), capacity=settings.capacity)
        operations = ControlOperations(router, pump)
        pump.subscribe(call_log.handle_event)
        pump.subscribe(operations.handle_event)
        quality = CallQualityMonitor()
        _export(registry, router, admission, link, pool, quality)
        info = LinkInfo(shared.cluster, (str(advertised),))
        app = control_app(admission, operations, info, keys.control, networks)
        async with trio.open_nursery() as nursery:
            await nursery.start(pool.run)
            nursery.start_soon(pump.run)
            nursery.start_soon(_sample_calls, router, quality)
            nursery.start_soon(_update_core_totals, router)
            control = await nursery.start(partial(serve_http, app, *settings.control, is_shared=lambda host: True))
            if shared.admin is not None:
                await nursery.start(
                    partial(
                        serve_admin, shared.admin, lambda: True, admission.is_ready, registry, names=shared.admin_name
                    )
                )
            ports = TransceiverPorts(f"http://{Address(*control)}", bound)
            log.info("transceiver ready", extra={"control": ports.control_url, "link": str(bound)})
            if shared.redis is not None:
                describe = partial(_describe, ports.control_url, info, admission)
                nursery.start_soon(keep_registered, shared.redis, keys.control, describe)
            task_status.started(ports)
            await admission.wait_drained()
            nursery.cancel_scope.cancel()


async def _sample_calls(router: CallRouter, quality: CallQualityMonitor) -> None:
    while True:
        router.inspect(quality.sample, trio.current_time())
        await trio.sleep(SAMPLE_SECONDS)


async def _update_core_totals(router: CallRouter) -> None:
    """Add the counters of running calls to the totals, a few calls at a time, so that no packet waits for it."""
    while True:
        calls = list(router)
        for start in range(0, len(calls), CALLS_AT_ONCE):
            for call in calls[start : start + CALLS_AT_ONCE]:
                router.core_totals.update(call)
            await trio.lowlevel.checkpoint()
        await trio.sleep(TOTALS_INTERVAL)


def _describe(control_url: str, link: LinkInfo, admission: Admission) -> Registered:
    return Registered(control_url, link, admission.load)


def _call_router(cluster: int, networks: ClusterNetworks, keys: KeyRing, advertised: Address) -> CallRouter:
    owner = Owner(cluster, networks.host_of(cluster, advertised.host), advertised.port)
    unix_now = time.time()
    return CallRouter(
        owner,
        RouteTokens(keys.route),
        LinkKeys(keys.link),
        Certificate.generate(),
        os.urandom,
        unix_now=unix_now,
        ntp_offset=unix_now - trio.current_time() + NTP_EPOCH,
    )


def _export(
    registry: CollectorRegistry,
    router: CallRouter,
    admission: Admission,
    link: BatchSocket,
    pool: BackendPool,
    quality: CallQualityMonitor,
) -> None:
    registry.register(CoreMetrics(router.core_totals))
    export_counters(registry, "antiphon_transceiver", quality.counters)
    export_counters(registry, "antiphon_transceiver_link", router.counters)
    export_counters(registry, "antiphon_transceiver_relays", router.relays.table.counters)
    export_counters(registry, "antiphon_transceiver_relays", router.relays.announcements.counters)
    export_counters(registry, "antiphon_transceiver_socket", link.counters)
    export_counters(registry, "antiphon_transceiver_paths", router.paths.counters)
    export_counters(registry, "antiphon_transceiver_backend", pool.counters)
    export_gauge(registry, "antiphon_calls", "Calls at this moment", lambda: len(router))
    export_gauge(registry, "antiphon_transceiver_capacity", "Calls at once, at most", lambda: admission.load.capacity)
    export_gauge(
        registry, "antiphon_transceiver_draining", "1 while no new calls are taken", lambda: admission.load.draining
    )
    export_gauge(
        registry, "antiphon_transceiver_relays", "Relays that are not silent", lambda: router.relays.table.live
    )
    export_gauge(registry, "antiphon_transceiver_paths", "Entries of the path table", lambda: len(router.paths))
