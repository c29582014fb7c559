"""A whole cluster on one machine, each service on its own host, and its calls.

    callers ─ NAT ─┐                        ┌ relay-a, relay-b   share the address VIP (keepalived)
    browser ─ NAT ─┴─ router ─ site ── LAN ─┼ relay-c            alone has the address LONE
                                            └ transceivers, signaling servers, backends, Redis

The router is that of `support.net.router`. A bridge joins the namespaces of the LAN (`support.net.lan`).
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Self
from unittest.mock import patch

import msgspec
from playwright.sync_api import Playwright

from support.audio.correlation import known_speech, write_wav
from support.net.gaps import Gap
from support.net.lan import DEVICE, Lan, lan
from support.net.namespaces import Host, HostPlan, Network, ip, network
from support.peers.browser import TalkPage, chromium
from support.processes.fleet_callers import ReceivedAudio
from support.processes.services import Service

VIP, LONE = "198.51.100.10", "198.51.100.20"
"""The address that two relays share, and that of the third relay."""

CALLERS, CALLERS_ADDRESS = "callers", "192.168.1.2"
BROWSER, BROWSER_ADDRESS = "browser", "192.168.2.2"
PREFIX, GATEWAY = 24, "198.51.100.1"
LAN = {
    "relay-a": "198.51.100.11",
    "relay-b": "198.51.100.12",
    "relay-c": "198.51.100.13",
    "signaling-1": "198.51.100.31",
    "signaling-2": "198.51.100.32",
    "transceiver-1": "198.51.100.41",
    "transceiver-2": "198.51.100.42",
    "backend-1": "198.51.100.51",
    "backend-2": "198.51.100.52",
    "redis": "198.51.100.60",
}
RELAYS = {"relay-a": VIP, "relay-b": VIP, "relay-c": LONE}
PAIR = ("relay-a", "relay-b")
MEDIA_PORT, LINK_PORT, CONTROL_PORT, ADMIN_PORT, HTTP_PORT, BACKEND_PORT, REDIS_PORT = (
    3478, 7000, 8090, 9090, 8080, 9000, 6379,
)  # fmt: skip
URL, URL_BY_LONE = (f"http://{LAN[name]}:{HTTP_PORT}" for name in ("signaling-1", "signaling-2"))
"""Signaling that advertises VIP only, and signaling that advertises LONE first."""

CHECK_SECONDS = 6.0
"""Seconds within which every client sends a consent check."""

SLOTS = 50
WORKERS = 2

KEEPALIVED = """
global_defs {{
    vrrp_version 3
    vrrp_rt_priority 50
}}
vrrp_instance ingress {{
    state BACKUP
    interface {device}
    virtual_router_id 10
    priority {priority}
    advert_int 0.03
    nopreempt
    garp_master_repeat 2
    garp_master_refresh 1
    garp_lower_prio_delay 1
    virtual_ipaddress {{
        {address}/32
    }}
}}
"""
SPRAY = """
table ip spray {{
    chain prerouting {{
        type filter hook prerouting priority mangle
        ip daddr {address} udp dport {port} meta mark set numgen random mod 2 offset 1
    }}
}}
"""


class HostProcess:
    """A test program in a host, which answers each line with its figures. `ready` is the text after `ready`."""

    def __init__(self, host: Host, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [*host.command, sys.executable, "-m", *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        line = self._read()
        assert line.startswith("ready"), line
        self.ready = line.removeprefix("ready").strip()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.kill()
        self._process.communicate()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


class RunningFleet:
    """The running cluster. Methods that kill or stop a member have a counterpart that starts it again."""

    def __init__(self, net: Network, site: Lan, folder: Path, stack: ExitStack, *, redis: bool) -> None:
        self.network = net
        self.has_redis = redis
        self.secret = folder / "secret"
        self._lan = site
        self._folder = folder
        self._stack = stack
        self._services: dict[str, Service] = {}
        self._keepalived: dict[str, subprocess.Popen[bytes]] = {}
        self._redis: subprocess.Popen[bytes] | None = None
        self._backends: dict[str, HostProcess] = {}
        self._callers: list[HostProcess] = []
        self._tabs: dict[str, TalkPage] = {}
        self._new_tab: Callable[[], TalkPage]

    # Services

    def start(self) -> None:
        """Start all members, in the order of their dependencies."""
        subprocess.run([sys.executable, "-m", "antiphon", "keygen", str(self.secret)], check=True)
        if self.has_redis:
            self.start_redis()
        for name in ("backend-1", "backend-2"):
            self.start_backend(name)
        self.start_services("transceiver-1", "transceiver-2")
        self.start_services(*RELAYS)
        self.start_services("signaling-1", "signaling-2")
        for name in PAIR:
            self.start_keepalived(name)

    def start_services(self, *names: str) -> None:
        """Start relays, transceivers or signaling servers in parallel, and wait until they are ready."""
        for name in names:
            kind = name.partition("-")[0]
            arguments = getattr(self, f"_{kind}_settings")(name)
            command = (*self._lan[name].command, sys.executable, "-m")
            self._services[name] = Service(f"antiphon_{kind}", *arguments, command=command)
        for name in names:
            self._services[name].wait_ready()

    def start_backend(self, name: str) -> None:
        host = self._lan[name]
        process = HostProcess(host, "support.processes.fleet_backend", f"{host.address}:{BACKEND_PORT}", str(SLOTS))
        self._backends[name] = self._stack.enter_context(process)

    def start_redis(self) -> None:
        host = self._lan["redis"]
        settings = ["--bind", "0.0.0.0", "--port", str(REDIS_PORT), "--save", "", "--protected-mode", "no"]
        self._redis = subprocess.Popen([*host.command, "redis-server", *settings], stdout=subprocess.DEVNULL)

    def stop_redis(self) -> None:
        assert self._redis is not None
        self._redis.terminate()
        self._redis.wait()

    def flush_redis(self) -> None:
        self._lan["redis"].run("redis-cli", "-p", str(REDIS_PORT), "flushall")

    def start_keepalived(self, name: str) -> None:
        """Make a relay's host a candidate for the shared address."""
        priority = 254 - PAIR.index(name)  # a higher priority takes over sooner
        file = self._folder / f"{name}.conf"
        file.write_text(KEEPALIVED.format(device=DEVICE, priority=priority, address=VIP))
        pids = [f"--{kind}={self._folder / f'{name}.{kind}'}" for kind in ("pid", "vrrp_pid", "checkers_pid")]
        command = [
            *self._lan[name].command,
            "keepalived",
            "--dont-fork",
            "--log-console",
            "--log-detail",
            "--vrrp",
            "-f",
            str(file),
        ]
        with (self._folder / f"{name}.log").open("ab") as log:
            self._keepalived[name] = subprocess.Popen([*command, *pids], stdout=log, stderr=log)

    def stop_keepalived(self, name: str) -> None:
        """Make a host release the shared address."""
        self._keepalived[name].terminate()
        self._keepalived[name].wait()

    def holder(self) -> str:
        """Return the names of the hosts that have the shared address now."""
        holders = [name for name in PAIR if VIP in ip("-n", self._lan[name].namespace, "addr")]
        return " ".join(holders)

    def wait_for_holder(self, *names: str, seconds: float = 5.0) -> str:
        """Wait until exactly one of the hosts has the shared address. Return its name."""
        deadline = time.monotonic() + seconds
        while (holder := self.holder()) not in (names or PAIR):
            assert time.monotonic() < deadline, f"{VIP} is held by {holder or 'nobody'}"
            time.sleep(0.02)
        return holder

    # Damage

    def workers(self, name: str) -> list[int]:
        """Return the process ids of a relay's workers, including the standby worker."""
        pid = self._services[name].pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def kill_host(self, name: str) -> None:
        """Unplug a host and kill its processes, as a power failure does."""
        self._lan.unplug(name)
        for pid in ip("netns", "pids", self._lan[name].namespace).split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        if name in self._services:
            self._services.pop(name).stop(check=False)
        if name in self._keepalived:
            self._keepalived.pop(name).wait()
        if name in self._backends:
            self._backends.pop(name)

    def revive_host(self, name: str) -> None:
        """Start a killed host and its services again."""
        self._lan.plug(name)
        if name.startswith("backend"):
            self.start_backend(name)
            return
        self.start_services(name)
        if name in PAIR:
            with suppress(subprocess.CalledProcessError):  # it may have held the shared address when it was killed
                ip("-n", self._lan[name].namespace, "addr", "del", f"{VIP}/32", "dev", DEVICE)
            self.start_keepalived(name)

    def kill_service(self, name: str) -> None:
        service = self._services.pop(name)
        for pid in (service.pid, *self._children(service.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        service.stop(check=False)

    def stop_service(self, name: str) -> None:
        """Stop a service as a rollout does, and wait for its exit."""
        self._services.pop(name).stop()

    @contextmanager
    def spraying(self) -> Iterator[None]:
        """Send each packet for the shared address to a random relay. Both relays have the address meanwhile, as hosts
        behind a load balancer do. Afterwards, wait until callers that only listen have sent a check."""
        gateway = self._lan.gateway
        with ExitStack() as undo:
            for mark, name in enumerate(PAIR, 1):
                host = self._lan[name]
                ip("-n", host.namespace, "addr", "add", f"{VIP}/32", "dev", "lo")
                undo.callback(ip, "-n", host.namespace, "addr", "del", f"{VIP}/32", "dev", "lo")
                route = f"{VIP}/32 via {host.address} table {mark}"
                ip("-n", gateway.namespace, "route", "add", *route.split())
                undo.callback(ip, "-n", gateway.namespace, "route", "del", *route.split())
                rule = f"fwmark {mark} lookup {mark}"
                ip("-n", gateway.namespace, "rule", "add", *rule.split())
                undo.callback(ip, "-n", gateway.namespace, "rule", "del", *rule.split())
            rules = self._folder / "spray.nft"
            rules.write_text(SPRAY.format(address=VIP, port=MEDIA_PORT))
            gateway.run("nft", "-f", str(rules))
            undo.callback(gateway.run, "nft", "delete", "table", "ip", "spray")
            yield
            gateway.run("nft", "flush", "table", "ip", "spray")
            time.sleep(CHECK_SECONDS)

    def rotate_keys(self, seconds: float) -> None:
        """Add a key that is used `seconds` from now."""
        command = [sys.executable, "-m", "antiphon", "keygen", "--rotate", str(self.secret), "--in", f"{seconds:g}"]
        subprocess.run(command, check=True)

    # Calls and figures

    def call(self, speaking: int, listening: int, *, aiortc: int = 0) -> None:
        """Make calls to the shared address: of the test client, which send audio or only listen, and of aiortc."""
        host = self.network[CALLERS]
        counts = (str(speaking), str(listening))
        processes = [HostProcess(host, "support.processes.fleet_callers", URL, host.address, *counts)]
        if aiortc:
            processes.append(HostProcess(host, "support.processes.fleet_callers", "--aiortc", URL, str(aiortc)))
        self._callers += [self._stack.enter_context(process) for process in processes]

    @contextmanager
    def browser(self, playwright: Playwright) -> Iterator[None]:
        """Run Chromium on its own host. `browse` makes its calls."""
        microphone = write_wav(self._folder / "speech.wav", known_speech())
        # Plain HTTP is no secure context by itself, and only those have a microphone.
        trusting = f"--unsafely-treat-insecure-origin-as-secure={URL},{URL_BY_LONE}"
        program = self.network[BROWSER].launcher("chromium", self._folder)
        path = f"{program.parent}:{os.environ['PATH']}"
        with patch.dict(os.environ, PATH=path), chromium(playwright, microphone, trusting) as self._new_tab:
            yield

    def browse(self, url: str) -> TalkPage:
        """Make a call from Chromium to a signaling server."""
        tab = self._new_tab()
        tab.open(url)
        tab.talk()
        tab.watch_gaps()
        self._tabs[tab.call_id] = tab
        return tab

    def received_by_callers(self) -> dict[str, ReceivedAudio]:
        """Return the figures of each caller since the last call of this method, by call id."""
        received = {
            call: ReceivedAudio(tab.take_gap(), closed="" if tab.state == "connected" else tab.state, foreign=True)
            for call, tab in self._tabs.items()
        }
        for process in self._callers:
            received |= msgspec.json.decode(process.ask(), type=dict[str, ReceivedAudio])
        return received

    def received_by_backends(self) -> dict[str, Gap]:
        """Return the gaps in the audio that live backends received since the last call of this method, by call id.

        For a call that changed its backend, it is that of the newer one.
        """
        gaps: dict[str, Gap] = {}
        for process in self._backends.values():
            for call, gap in msgspec.json.decode(process.ask(), type=dict[str, Gap]).items():
                if call not in gaps or gap.last > gaps[call].last:
                    gaps[call] = gap
        return gaps

    def metrics(self, name: str) -> dict[str, float]:
        """Fetch the metrics of a service, from within its host."""
        program = (
            "import json, sys; from support.processes.services import read_metrics; "
            "print(json.dumps(read_metrics(sys.argv[1])))"
        )
        address = f"{LAN[name]}:{ADMIN_PORT}"
        return dict(json.loads(self._lan[name].run(sys.executable, "-c", program, address)))

    def stop(self) -> None:
        for service in self._services.values():
            service.stop(check=False)
        for process in (*self._keepalived.values(), *([self._redis] if self._redis else [])):
            process.kill()
            process.wait()

    # Settings

    def _shared_settings(self, name: str) -> list[str]:
        redis = ["--redis", f"redis://{LAN['redis']}:{REDIS_PORT}"] if self.has_redis else []
        return [
            "--secret-file", str(self.secret), "--admin", f"{LAN[name]}:{ADMIN_PORT}", "--drain", "2", *redis,
        ]  # fmt: skip

    def _network_settings(self) -> list[str]:
        network = f"{GATEWAY}/{PREFIX}".replace(".1/", ".0/")
        return ["--transceiver-network", f"0={network}:{LINK_PORT}-{LINK_PORT}", "--relay-network", network]

    def _known_transceivers(self) -> list[str]:
        names = ("transceiver-1", "transceiver-2")
        return [word for name in names for word in ("--transceiver", f"http://{LAN[name]}:{CONTROL_PORT}")]

    def _relay_settings(self, name: str) -> list[str]:
        return [
            *self._shared_settings(name), *self._network_settings(), *self._known_transceivers(),
            "--media", f"{RELAYS[name]}:{MEDIA_PORT}", "--relay-link", f"{LAN[name]}:{LINK_PORT + 100}",
            "--workers", str(WORKERS),
        ]  # fmt: skip

    def _transceiver_settings(self, name: str) -> list[str]:
        return [
            *self._shared_settings(name), *self._network_settings(), "--audio", "opus",
            "--link", f"{LAN[name]}:{LINK_PORT}", "--control", f"{LAN[name]}:{CONTROL_PORT}",
            "--backend", f"fleet=ws://backends:{BACKEND_PORT}", "--capacity", str(SLOTS),
        ]  # fmt: skip

    def _signaling_settings(self, name: str) -> list[str]:
        addresses = (VIP,) if name == "signaling-1" else (LONE, VIP)
        return [
            *self._shared_settings(name), *self._known_transceivers(), "--no-auth",
            "--http", f"{LAN[name]}:{HTTP_PORT}", *(word for one in addresses for word in ("--advertise", one)),
        ]  # fmt: skip

    def _children(self, pid: int) -> list[int]:
        with suppress(OSError):
            return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return []


@contextmanager
def fleet(folder: Path, *, redis: bool = True, seed: int = 0) -> Iterator[RunningFleet]:
    """Make the hosts and start all services on them, without calls."""
    site = HostPlan("site", ("192.0.2.1",), behind=(VIP, LONE, LAN["signaling-1"], LAN["signaling-2"]))
    callers = HostPlan(CALLERS, (CALLERS_ADDRESS,), nat="203.0.113.7")
    browser = HostPlan(BROWSER, (BROWSER_ADDRESS,), nat="203.0.113.8")
    with (
        network(site, callers, browser, seed=seed) as net,
        lan(net["site"], GATEWAY, PREFIX, LAN) as hosts,
        _one_name(hosts, "backends", (LAN["backend-1"], LAN["backend-2"])),
        ExitStack() as stack,
    ):
        ip("-n", hosts["relay-c"].namespace, "addr", "add", f"{LONE}/32", "dev", DEVICE)
        running = RunningFleet(net, hosts, folder, stack, redis=redis)
        stack.callback(running.stop)
        running.start()
        yield running


@contextmanager
def _one_name(hosts: Lan, name: str, addresses: tuple[str, ...]) -> Iterator[None]:
    """Resolve a name to several addresses in every host: `ip netns exec` mounts such files over /etc."""
    folders = [Path("/etc/netns") / hosts[host].namespace for host in LAN]
    lines = [Path("/etc/hosts").read_text(), *(f"{address} {name}\n" for address in addresses)]
    try:
        for folder in folders:
            folder.mkdir(parents=True)
            (folder / "hosts").write_text("\n".join(lines))
        yield
    finally:
        for folder in folders:
            (folder / "hosts").unlink(missing_ok=True)
            folder.rmdir()
