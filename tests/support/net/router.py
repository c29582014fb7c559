"""Joins network namespaces: a process that reads and writes their TUN devices, and drives the impairment model in real
time. `support.net.namespaces` starts it and sends it commands.

    host ── uplink impairment ── NAT ─┬─ routing ─┬─ NAT ── downlink impairment ── host
"""

import heapq
import itertools
import os
import select
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any

import msgspec

from support.net import ip_packets
from support.net.impairment import Change, ImpairedLink, Impairment
from support.net.middleboxes import Nat, Spreader

BATCH = 64
"""Packets read from one device before the others have their turn."""

MAX_IN_FLIGHT = 100_000
LARGEST = 65_536


class PortPlan(msgspec.Struct, frozen=True):
    """One host of the network. `addresses` are numeric; with `nat` that address stands for all of them outside, and
    nobody reaches the host unasked."""

    name: str
    device: int
    addresses: tuple[str, ...]
    nat: str = ""


class RouterPlan(msgspec.Struct, frozen=True):
    """`spray` is how packets for an address of several hosts are spread."""

    ports: tuple[PortPlan, ...]
    seed: int = 0
    spray: bool = False


class Impair(msgspec.Struct, frozen=True, tag=True):
    """Change one direction, `up` from the host or `down` to it, after so many seconds."""

    host: str
    direction: str
    impairment: Impairment
    after: float = 0.0


class Rebind(msgspec.Struct, frozen=True, tag=True):
    """Let a host's NAT forget its UDP ports, after so many seconds."""

    host: str
    after: float = 0.0


class Report(msgspec.Struct, frozen=True, tag=True):
    """Ask for the figures."""


Command = Impair | Rebind | Report


class LinkFigures(msgspec.Struct):
    """What the links of one host did, by direction and counter."""

    up: dict[str, int]
    down: dict[str, int]
    unasked: int
    """Packets that the NAT let nobody have."""


class Figures(msgspec.Struct):
    """`busy` is the processor time of the router, in seconds."""

    packets: int
    busy: float
    hosts: dict[str, LinkFigures]


COUNTERS = ("sent", "lost", "too_long", "overflowed", "blocked", "duplicated")


class Port:
    """One host as the router sees it."""

    def __init__(self, plan: PortPlan, random: Random) -> None:
        self.name = plan.name
        self.device = plan.device
        self.up = ImpairedLink(Impairment(), random)
        self.down = ImpairedLink(Impairment(), random)
        self.public = _encode(plan.nat) if plan.nat else b""
        self.nats = {kind: Nat(self.public, random) for kind in (ip_packets.UDP, ip_packets.TCP)} if plan.nat else {}
        self.unasked = 0
        self.addresses = [self.public] if plan.nat else [_encode(address) for address in plan.addresses]

    def figures(self) -> LinkFigures:
        up, down = ({name: getattr(link, name) for name in COUNTERS} for link in (self.up, self.down))
        return LinkFigures(up, down, self.unasked)


class Router:
    """The loop. `control` is a socket that carries one JSON command, or answer, in each message."""

    def __init__(self, plan: RouterPlan, control: socket.socket) -> None:
        random = Random(plan.seed)
        self._control = control
        self._ports = {port.device: Port(port, random) for port in plan.ports}
        self._routes: dict[bytes, list[Port]] = {}
        for port in self._ports.values():
            for address in port.addresses:
                self._routes.setdefault(address, []).append(port)
        self._spreader = Spreader(random, spray=plan.spray)
        self._agenda: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = itertools.count()
        self._packets = 0

    def run(self) -> None:
        """Forward until the control socket is closed."""
        readable = [*self._ports, self._control.fileno()]
        for device in self._ports:
            os.set_blocking(device, False)
        while True:
            wait = max(0.0, self._agenda[0][0] - time.monotonic()) if self._agenda else None
            ready, _, _ = select.select(readable, (), (), wait)
            for device in ready:
                if device in self._ports:
                    self._drain(self._ports[device])
                elif not self._obey():
                    return
            self._run_agenda()

    # Packets

    def _drain(self, port: Port) -> None:
        now = time.monotonic()
        for _ in range(BATCH):
            try:
                packet = os.read(port.device, LARGEST)
            except BlockingIOError:
                return
            self._packets += 1
            self._take(port, packet, now)

    def _take(self, port: Port, packet: bytes, now: float) -> None:
        """A packet left a host."""
        udp = ip_packets.protocol(packet) == ip_packets.UDP
        too_long = port.up.too_long
        for arrival in port.up.arrivals(len(packet), now, udp=udp):
            self._at(arrival, now, self._route, port, packet)
        if port.up.too_long > too_long:
            self._complain(port, packet, port.up.impairment.mtu)

    def _route(self, sender: Port, packet: bytes) -> None:
        """A packet has crossed its sender's network."""
        original = packet
        if sender.nats:
            outward = self._translate_outward(sender, packet)
            if outward is None:
                return
            packet = outward
        source, target = ip_packets.addresses(packet)
        ports = self._routes.get(target)
        if not ports:
            return
        port = ports[0] if len(ports) == 1 else self._spreader.choose(source[-4:] + packet[20:22], ports)
        if port.nats:
            inward = self._translate_inward(port, packet)
            if inward is None:
                port.unasked += 1
                return
            packet = inward
        now = time.monotonic()
        udp = ip_packets.protocol(packet) == ip_packets.UDP
        too_long = port.down.too_long
        for arrival in port.down.arrivals(len(packet), now, udp=udp):
            self._at(arrival, now, self._deliver, port, packet)
        if port.down.too_long > too_long:
            self._complain(sender, original, port.down.impairment.mtu)

    def _deliver(self, port: Port, packet: bytes) -> None:
        with suppress(OSError):  # the host is being taken down
            os.write(port.device, packet)

    def _complain(self, port: Port, packet: bytes, mtu: int) -> None:
        message = ip_packets.fragmentation_needed(packet, mtu)
        if message is not None:
            self._deliver(port, message)

    def _translate_outward(self, port: Port, packet: bytes) -> bytes | None:
        if ip_packets.is_later_fragment(packet):  # it goes where the first one does (RFC 4787 §11)
            return ip_packets.rewrite_source(packet, port.public)
        ends = ip_packets.endpoints(packet)
        if ends is None:
            return None
        source, target = ends
        return ip_packets.rewrite(packet, port.nats[ip_packets.protocol(packet)].outward(source, target), target)

    def _translate_inward(self, port: Port, packet: bytes) -> bytes | None:
        ends = ip_packets.endpoints(packet)
        if ends is None:
            return None
        source, public = ends
        inside = port.nats[ip_packets.protocol(packet)].inward(public, source)
        return None if inside is None else ip_packets.rewrite(packet, source, inside)

    # Time

    def _at(self, when: float, now: float, action: Callable[..., None], *arguments: Any) -> None:
        if when <= now:
            action(*arguments)
        elif len(self._agenda) < MAX_IN_FLIGHT:
            heapq.heappush(self._agenda, (when, next(self._order), action, arguments))

    def _run_agenda(self) -> None:
        agenda = self._agenda
        now = time.monotonic()
        while agenda and agenda[0][0] <= now:
            _, _, action, arguments = heapq.heappop(agenda)
            action(*arguments)

    # Commands

    def _obey(self) -> bool:
        """Carry out one command; return False when nobody is there to give any."""
        message = self._control.recv(LARGEST)
        if not message:
            return False
        command = msgspec.json.decode(message, type=Command)
        now = time.monotonic()
        answer: object = None
        match command:
            case Impair(host, direction, impairment, after):
                link: ImpairedLink = getattr(self._find(host), direction)
                link.change([Change(now + after, impairment)])
            case Rebind(host, after):
                self._at(now + after, now, self._find(host).nats[ip_packets.UDP].rebind)
            case Report():
                hosts = {port.name: port.figures() for port in self._ports.values()}
                answer = Figures(self._packets, time.process_time(), hosts)
        self._control.send(msgspec.json.encode(answer))
        return True

    def _find(self, host: str) -> Port:
        return next(port for port in self._ports.values() if port.name == host)


def _encode(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def run_at_once() -> None:
    """Have this process woken before all ordinary ones: it stands for hardware that has nothing else to do."""
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))


if __name__ == "__main__":
    run_at_once()
    with socket.socket(fileno=int(sys.argv[1])) as given:
        Router(msgspec.json.decode(sys.argv[2], type=RouterPlan), given).run()
