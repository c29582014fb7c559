"""Hosts as network namespaces, joined by the router of `support.net.router`. Needs root, `ip` and /dev/net/tun.

All namespaces are removed at the end. The next run removes those of a run that was killed.
"""

import fcntl
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from support.net.impairment import CUT, PERFECT, Impairment
from support.net.router import Command, GetFigures, Impair, PortPlan, Rebind, RouterFigures, RouterPlan

PREFIX = "antiphon-"
DEVICE = "wan0"
"""The one interface of a host besides loopback."""

QUEUE = 5000
"""Packets that a host queues for the router."""

COMMAND_SECONDS = 5.0

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_TESTS = Path(__file__).parents[2]


class HostPlan(msgspec.Struct, frozen=True):
    """A host with numeric addresses. With `nat` it is behind a NAT with that public address.

    Several hosts may share an address: the router then spreads its packets over them. Packets for `behind` are routed
    to this host, which forwards them.
    """

    name: str
    addresses: tuple[str, ...]
    nat: str = ""
    behind: tuple[str, ...] = ()


class Host:
    """A network namespace. Prefix a command with `command` to run it there, with `tests` on Python's path."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.address = address
        self.namespace = f"{PREFIX}{os.getpid()}-{name}"
        self.command = ("ip", "netns", "exec", self.namespace, "env", f"PYTHONPATH={_TESTS}")

    def run(self, *arguments: str) -> str:
        """Run a command and return its output."""
        return subprocess.run([*self.command, *arguments], check=True, capture_output=True, text=True).stdout

    @contextmanager
    def start(self, *arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
        """Run a command with text pipes for the length of the block."""
        with subprocess.Popen(
            [*self.command, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options
        ) as process:
            try:
                yield process
            finally:
                process.terminate()

    def launcher(self, program: str, folder: Path) -> Path:
        """Write a script into `folder` that runs a program of this machine inside the host, and return its path."""
        found = shutil.which(program)
        assert found, f"{program} is missing"
        script = folder / program
        script.write_text(f'#!/bin/sh\nexec {" ".join(self.command)} {found} "$@"\n')
        script.chmod(0o755)
        return script


class Network:
    """Hosts and the networks between them. The direction `up` is from the host."""

    def __init__(self, hosts: dict[str, Host], control: socket.socket) -> None:
        self.hosts = hosts
        self._control = control
        control.settimeout(COMMAND_SECONDS)

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def impair(
        self, host: str, up: Impairment | None = None, down: Impairment | None = None, *, after: float = 0.0
    ) -> None:
        """Change the impairment of a host's network after `after` seconds."""
        for direction, impairment in (("up", up), ("down", down)):
            if impairment is not None:
                self._send(Impair(host, direction, impairment, after))

    def interrupt(self, host: str, seconds: float, otherwise: Impairment = PERFECT, *, after: float = 0.0) -> None:
        """Drop all packets from and to a host for `seconds`."""
        self.impair(host, CUT, CUT, after=after)
        self.impair(host, otherwise, otherwise, after=after + seconds)

    def rebind(self, host: str, *, after: float = 0.0) -> None:
        """Make a host's NAT drop its UDP mappings."""
        self._send(Rebind(host, after))

    def figures(self) -> RouterFigures:
        """Return the router's counters."""
        return msgspec.json.decode(self._send(GetFigures()), type=RouterFigures)

    def _send(self, command: Command) -> bytes:
        self._control.send(msgspec.json.encode(command))
        return self._control.recv(1 << 16)


@contextmanager
def network(*plans: HostPlan, seed: int = 0, spray: bool = False) -> Iterator[Network]:
    """Make hosts and the router between them."""
    _remove_abandoned()
    with ExitStack() as stack:
        hosts = {plan.name: stack.enter_context(namespace(Host(plan.name, plan.addresses[0]))) for plan in plans}
        devices = [stack.enter_context(_device(hosts[plan.name], plan, index)) for index, plan in enumerate(plans)]
        ports = tuple(
            PortPlan(plan.name, device.fileno(), plan.addresses + plan.behind, plan.nat)
            for plan, device in zip(plans, devices, strict=True)
        )
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stack.enter_context(ours)
        with theirs:
            plan = msgspec.json.encode(RouterPlan(ports, seed, spray)).decode()
            descriptors = [theirs.fileno(), *(device.fileno() for device in devices)]
            router = subprocess.Popen(
                [sys.executable, "-m", "support.net.router", str(theirs.fileno()), plan],
                pass_fds=descriptors,
                env={**os.environ, "PYTHONPATH": str(_TESTS)},
            )
        stack.callback(router.wait)
        stack.callback(ours.shutdown, socket.SHUT_RDWR)
        network = Network(hosts, ours)
        network.figures()  # it answers once it forwards
        yield network


@contextmanager
def namespace(host: Host) -> Iterator[Host]:
    """Make a host's namespace. Remove it after the block, and kill the processes that still run in it."""
    ip("netns", "add", host.namespace)
    try:
        yield host
    finally:
        _remove(host.namespace)


@contextmanager
def _device(host: Host, plan: HostPlan, index: int) -> Iterator[Any]:
    """Make a TUN device and move its interface into the host."""
    name = f"ap{os.getpid()}x{index}"
    with open("/dev/net/tun", "r+b", buffering=0) as device:
        fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
        ip("link", "set", name, "netns", host.namespace, "name", DEVICE)
        commands = ["link set lo up", f"link set {DEVICE} up txqueuelen {QUEUE}"]
        for address in plan.addresses:
            commands += [f"addr add {address} dev {DEVICE}" + (" nodad" if ":" in address else "")]
        versions = {6 if ":" in address else 4 for address in plan.addresses}
        commands += [f"-{version} route add default dev {DEVICE}" for version in sorted(versions)]
        for command in commands:
            ip("-n", host.namespace, *command.split())
        yield device


def _remove_abandoned() -> None:
    """Remove the namespaces of processes that no longer exist."""
    for line in ip("netns", "list").splitlines():
        name = line.split()[0]
        owner = name.removeprefix(PREFIX).partition("-")[0]
        if name.startswith(PREFIX) and not Path(f"/proc/{owner}").exists():
            _remove(name)


def _remove(namespace: str) -> None:
    """Kill the processes in a namespace and remove it."""
    for pid in ip("netns", "pids", namespace).split():
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    ip("netns", "del", namespace)


def ip(*arguments: str) -> str:
    """Run iproute2's `ip` and return its output."""
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout
