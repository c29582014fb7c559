"""Joins network namespaces: a process that reads and writes their TUN devices and runs the impairment model.

It runs in real time. `support.net.namespaces` starts it and sends it commands.

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
"""Packets read from one device before the next device is read."""

MAX_IN_FLIGHT = 100_000
LARGEST = 65_536


class PortPlan(msgspec.Struct, frozen=True):
    """One host of the network, with numeric addresses. With `nat` it is behind a NAT with that public address."""

    name: str
    device: int
    addresses: tuple[str, ...]
    nat: str = ""


class RouterPlan(msgspec.Struct, frozen=True):
    """All hosts of a router. With `spray` it chooses a host for each packet to a shared address."""

    ports: tuple[PortPlan, ...]
    seed: int = 0
    spray: bool = False


class Impair(msgspec.Struct, frozen=True, tag=True):
    """Change one direction, `up` from the host or `down` to it, after `after` seconds."""

    host: str
    direction: str
    impairment: Impairment
    after: float = 0.0


class Rebind(msgspec.Struct, frozen=True, tag=True):
    """Make a host's NAT drop its UDP mappings after `after` seconds."""

    host: str
    after: float = 0.0


class GetFigures(msgspec.Struct, frozen=True, tag=True):
    """Request the router's counters; the response is `RouterFigures`."""


Command = Impair | Rebind | GetFigures


class LinkFigures(msgspec.Struct):
    """The counters of one host's links, by direction and name."""

    up: dict[str, int]
    down: dict[str, int]
    unsolicited: int
    """Packets that the NAT dropped because no mapping accepted them."""


class RouterFigures(msgspec.Struct):
    """The counters of a router. `busy` is its processor time in seconds."""

    packets: int
    busy: float
    hosts: dict[str, LinkFigures]


COUNTERS = ("sent", "lost", "too_long", "overflowed", "blocked", "duplicated")


class Port:
    """The router's port to one host: its TUN device, links and NATs."""

    def __init__(self, plan: PortPlan, random: Random) -> None:
        self.name = plan.name
        self.device = plan.device
        self.up = ImpairedLink(Impairment(), random)
        self.down = ImpairedLink(Impairment(), random)
        self.public = _encode(plan.nat) if plan.nat else b""
        self.nats = {kind: Nat(self.public, random) for kind in (ip_packets.UDP, ip_packets.TCP)} if plan.nat else {}
        self.unsolicited = 0
        self.addresses = [self.public] if plan.nat else [_encode(address) for address in plan.addresses]

    def figures(self) -> LinkFigures:
        up, down = ({name: getattr(link, name) for name in COUNTERS} for link in (self.up, self.down))
        return LinkFigures(up, down, self.unsolicited)


class Router:
    """The forwarding loop. `control` is a socket that carries one JSON command or response in each message."""

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
                elif not self._handle_command():
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
            self._forward(port, packet, now)

    def _forward(self, port: Port, packet: bytes, now: float) -> None:
        """Send a packet from a host through the uplink impairment of its network."""
        udp = ip_packets.protocol(packet) == ip_packets.UDP
        too_long = port.up.too_long
        for arrival in port.up.arrivals(len(packet), now, udp=udp):
            self._at(arrival, now, self._route, port, packet)
        if port.up.too_long > too_long:
            self._send_fragmentation_needed(port, packet, port.up.impairment.mtu)

    def _route(self, sender: Port, packet: bytes) -> None:
        """Route a packet that crossed its sender's network: translate its addresses and send it to the target's."""
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
                port.unsolicited += 1
                return
            packet = inward
        now = time.monotonic()
        udp = ip_packets.protocol(packet) == ip_packets.UDP
        too_long = port.down.too_long
        for arrival in port.down.arrivals(len(packet), now, udp=udp):
            self._at(arrival, now, self._deliver, port, packet)
        if port.down.too_long > too_long:
            self._send_fragmentation_needed(sender, original, port.down.impairment.mtu)

    def _deliver(self, port: Port, packet: bytes) -> None:
        with suppress(OSError):  # the host is being removed
            os.write(port.device, packet)

    def _send_fragmentation_needed(self, port: Port, packet: bytes, mtu: int) -> None:
        message = ip_packets.fragmentation_needed(packet, mtu)
        if message is not None:
            self._deliver(port, message)

    def _translate_outward(self, port: Port, packet: bytes) -> bytes | None:
        if ip_packets.is_later_fragment(packet):  # it follows the first one (RFC 4787 §11)
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

    def _handle_command(self) -> bool:
        """Handle one command. Return False when the control socket is closed."""
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
            case GetFigures():
                hosts = {port.name: port.figures() for port in self._ports.values()}
                answer = RouterFigures(self._packets, time.process_time(), hosts)
        self._control.send(msgspec.json.encode(answer))
        return True

    def _find(self, host: str) -> Port:
        return next(port for port in self._ports.values() if port.name == host)


def _encode(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def run_at_once() -> None:
    """Give this process real-time priority: it stands for network hardware, which is never busy with other work."""
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))


if __name__ == "__main__":
    run_at_once()
    with socket.socket(fileno=int(sys.argv[1])) as control:
        Router(msgspec.json.decode(sys.argv[2], type=RouterPlan), control).run()
