"""The setup of all floods: services as separate processes, ten live calls, and a monitor of the services.

Two cores are enough: the relay runs on one and the flood on the other. The scheduler places all other processes.
"""

import json
import os
import re
import socket
import time
from collections import Counter
from pathlib import Path

import msgspec
import trio

from antiphon_common.core import Path as NetworkPath
from antiphon_common.keys import KeyRing
from antiphon_common.link import Confirm, LinkKeys, LinkMessage, Release
from antiphon_common.routing import RouteTokens
from support.floods.packet_flood import Address, BackscatterCounter, Flood, FloodSource, SpoofedSources, rtp_packets
from support.peers.callers import CallFigures
from support.processes.line_process import LineProcess
from support.processes.services import Deployment, Service, read_metrics

RELAY_CORE, FLOOD_CORE = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))
LIVE_CALLS = 10
TRANSCEIVERS = 2

MEASURED = SpoofedSources("127.32.0.0", addresses=256, ports=8)
MEASURED_SECONDS = 1.5
MORE_THAN_ANY_RELAY = 1_000_000
"""Packets per second that are offered to measure how many the relay forwards."""
SAMPLE_SECONDS = 0.5

RELAY_GAUGES = ("antiphon_relay_flows", "antiphon_relay_confirmed_flows")
DROPPED = re.compile(
    r"_(unknown|malformed|bad|no_route|over|shed|not_owner|foreign|evicted|taken|overflowed|failed)(_\w+)?_total"
)
TRANSCEIVER_GAUGES = ("antiphon_calls", "antiphon_transceiver_paths")


class LiveCalls:
    """Ten calls in a separate process. `callers` has the port of each and the server's ufrag."""

    def __init__(self, url: str) -> None:
        self._process = LineProcess("support.peers.callers", url, str(LIVE_CALLS))
        callers = json.loads(self._process.wait_ready())
        self.callers: list[tuple[int, str]] = [(port, ufrag) for port, ufrag in callers]

    def figures(self) -> CallFigures:
        return msgspec.json.decode(self._process.ask(), type=CallFigures)

    def end(self) -> None:
        self._process.end()


class FloodSetup:
    """Services, live calls, the flood program, and counters of its backscatter. One setup serves all floods.

    `port` is the relay's on 127.0.0.1; `sustained` is its forwarding rate under overload, in packets per second.
    """

    def __init__(self, deployment: Deployment, folder: Path) -> None:
        self.deployment = deployment
        self.relay = deployment.services["relay"]
        self.transceivers = [service for name, service in deployment.services.items() if "transceiver" in name]
        pin(self.relay.pid, RELAY_CORE)
        self._keys = KeyRing.parse(deployment.secret)
        self._tokens = RouteTokens(self._keys.route)
        ingress, _, address = self.relay.ready.split()[0].partition("=")
        self.ingress, self.port = int(ingress), int(address.rpartition(":")[2])
        self.source = FloodSource(folder, FLOOD_CORE)
        self.sustained = self._measure()
        self.live = LiveCalls(deployment.url)
        self.backscatter = BackscatterCounter(self.port)
        self.spoofed_bytes: Counter[Address] = Counter()
        """Bytes sent from each spoofed source address by all floods so far."""
        self.spoofed_rows: list[str] = []
        self.scenario_rows: list[str] = []

    def close(self) -> None:
        self.live.end()
        self.backscatter.close()

    def transceiver_of(self, ufrag: str) -> int:
        """Return the link port of the transceiver in a route token."""
        return self._tokens.read(ufrag.encode(), time.time()).port

    def _measure(self) -> float:
        """Flood the relay with media of confirmed flows whose owner is a socket without a reader.

        Return the packets forwarded per second.
        """
        host, _, port = self.relay.wait_for_log(r"relay ready.*\blink=(\S+)")[1].rpartition(":")
        flows = [NetworkPath.of(*source, ingress=self.ingress) for source in MEASURED.all()]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as owner:
            owner.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            owner.bind(("127.0.0.1", 0))
            keys = LinkKeys(self._keys.link)

            def send(message: LinkMessage) -> None:
                owner.sendto(keys.encode(message, time.time()), (host, int(port)))

            for flow in flows:
                send(Confirm(flow))
            while (before := read_metrics(self.deployment.relay_admin))["antiphon_relay_confirmed_flows"] < len(flows):
                time.sleep(0.01)
            offered = int(MORE_THAN_ANY_RELAY * MEASURED_SECONDS)
            sent = self.source.run(Flood(MEASURED, rtp_packets(1)), self.port, MORE_THAN_ANY_RELAY, offered)
            after = read_metrics(self.deployment.relay_admin)
            for flow in flows:
                send(Release(flow))
        forwarded = after["antiphon_relay_uplink_total"] - before["antiphon_relay_uplink_total"]
        assert forwarded < sent.packets, "the relay was never offered more than it forwards"
        return forwarded / sent.seconds


class ServiceMonitor:
    """Records the highest gauges, dropped packets, CPU time and memory growth of the services.

    It measures from its construction until `stop`; `run` samples the gauges in between.
    """

    def __init__(self, setup: FloodSetup) -> None:
        self.gauges: dict[str, float] = {}
        self.dropped: dict[str, float] = {}
        self.growth = 0
        """Growth of resident memory, in bytes, of the process that grew most."""
        self.relay_busy = 0.0
        self._setup = setup
        self._services = [setup.relay, *setup.transceivers]
        self._memory = [resident(service) for service in self._services]
        self._began, self._cpu = time.monotonic(), cpu_seconds(setup.relay)
        self._first = self._read()

    async def run(self) -> None:
        """Sample the gauges periodically, until cancelled."""
        while True:
            await trio.to_thread.run_sync(self._look)
            await trio.sleep(SAMPLE_SECONDS)

    def stop(self) -> None:
        self.relay_busy = (cpu_seconds(self._setup.relay) - self._cpu) / (time.monotonic() - self._began)
        self._look()
        for before, after in zip(self._first, self._read(), strict=True):
            for name, value in after.items():
                gained = value - before.get(name, 0.0)
                if gained and DROPPED.search(name):
                    self.dropped[name.removeprefix("antiphon_")] = self.dropped.get(name, 0.0) + gained
        self.growth = max(resident(s) - was for s, was in zip(self._services, self._memory, strict=True))

    def _read(self) -> list[dict[str, float]]:
        deployment = self._setup.deployment
        return [read_metrics(address) for address in (deployment.relay_admin, *deployment.transceiver_admins)]

    def _look(self) -> None:
        relay, *transceivers = self._read()
        seen = [(name, relay[name]) for name in RELAY_GAUGES]
        seen += [(name, metrics[name]) for metrics in transceivers for name in TRANSCEIVER_GAUGES]
        for name, value in seen:
            self.gauges[name] = max(value, self.gauges.get(name, 0))


def pin(pid: int, core: int) -> None:
    """Keep every thread of a process on one core."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {core})


def resident(service: Service) -> int:
    """Return the resident memory of a process in bytes."""
    pages = int(Path(f"/proc/{service.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(service: Service) -> float:
    tasks = Path(f"/proc/{service.pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9
