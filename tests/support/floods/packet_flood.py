"""Floods from spoofed source addresses: the plans for `flood.c`, and the backscatter that those addresses receive."""

import ctypes
import os
import socket
import struct
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Address
from math import inf
from pathlib import Path
from random import Random
from typing import NamedTuple

from antiphon_common.control import IceParameters
from antiphon_common.stun import TRANSACTION_ID_SIZE, AttributeType, Message, MessageClass

SOURCE = Path(__file__).with_suffix(".c")
SPOOFED_NETWORK = "127.64.0.0"
"""First of the loopback addresses that neither a service nor a caller of these tests uses."""
SPOOFED_MASK = 0xFFC00000
SO_RCVBUFFORCE, SO_ATTACH_FILTER = 33, 26
TEMPLATES = 500
RTP_SIZE = 160

ICE_CHARS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
PRIORITY = (110 << 24 | 0xFFFF << 8 | 0xFF).to_bytes(4, "big")

Address = tuple[str, int]


class SpoofedSources(NamedTuple):
    """The source addresses of a flood: `addresses` consecutive hosts, each with `ports` consecutive ports."""

    host: str
    addresses: int = 1
    port: int = 20000
    ports: int = 1

    def all(self) -> Iterator[Address]:
        """Every source, in the order in which they are used."""
        first = int(IPv4Address(self.host))
        hosts = [str(IPv4Address(first + number)) for number in range(self.addresses)]
        return ((host, self.port + number) for number in range(self.ports) for host in hosts)


class Flood(NamedTuple):
    """The datagrams of a flood, used in turn, and their source addresses."""

    sources: SpoofedSources
    datagrams: Sequence[bytes]


class FloodResult(NamedTuple):
    """The result of a flood: packets sent, duration in seconds, and bytes sent by each source address."""

    packets: int
    seconds: float
    by_source: dict[Address, int]

    @property
    def rate(self) -> float:
        return self.packets / self.seconds


class FloodSource:
    """The compiled flood program, pinned to one core. Needs gcc and CAP_NET_RAW.

    Raises RuntimeError without CAP_NET_RAW.
    """

    def __init__(self, folder: Path, core: int) -> None:
        self._folder = folder
        self._core = core
        subprocess.run(["gcc", "-O2", "-o", folder / "flood", SOURCE], check=True)
        try:
            socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW).close()
        except PermissionError:
            raise RuntimeError(
                "floods need CAP_NET_RAW to spoof sources: run as root, or in a container that has it"
            ) from None

    def run(self, flood: Flood, port: int, rate: float, count: int) -> FloodResult:
        """Send `count` packets to a port of 127.0.0.1, `rate` packets per second, and wait for the end."""
        plan, report = self._folder / "plan", self._folder / "report"
        sources = flood.sources
        head = struct.pack("=IIHH", int(IPv4Address(sources.host)), sources.addresses, sources.port, sources.ports)
        plan.write_bytes(head + b"".join(struct.pack("=H", len(data)) + data for data in flood.datagrams))
        command = [str(self._folder / "flood"), str(plan), str(port), str(rate), str(count), str(report)]
        run = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=True,
            preexec_fn=lambda: os.sched_setaffinity(0, {self._core}),
        )  # fmt: skip
        packets, seconds = run.stdout.split()
        by_source = zip(
            sources.all(), struct.unpack(f"={report.stat().st_size // 4}I", report.read_bytes()), strict=True
        )
        return FloodResult(int(packets), float(seconds), dict(by_source))


class BackscatterCounter:
    """Counts the bytes that one port sends to spoofed source addresses (backscatter).

    It reads from a packet socket on the loopback interface, in a thread, until `close`.
    """

    def __init__(self, port: int) -> None:
        self.callers: set[Address] = set()
        """Addresses that real calls used. What they receive is not backscatter."""
        self._got: Counter[Address] = Counter()
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
        _attach_filter(self._socket, port)
        self._socket.settimeout(0.1)
        self._socket.bind(("lo", 0x0800))
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    @property
    def got(self) -> dict[Address, int]:
        """The bytes received by each address, without the addresses of real calls."""
        return {address: size for address, size in self._got.copy().items() if address not in self.callers}

    def amplification(self, spoofed_bytes: Mapping[Address, int]) -> float:
        """Return the largest amplification factor: bytes received by an address over bytes sent from it."""
        got = ((size, spoofed_bytes.get(address, 0)) for address, size in self.got.items())
        return max((size / sent if sent else inf for size, sent in got), default=0.0)

    def close(self) -> None:
        self._done.set()
        self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        while True:
            try:
                packet = self._socket.recv(2048)
            except TimeoutError:
                if self._done.is_set():
                    return
                continue
            header = (packet[0] & 15) * 4
            port, size = struct.unpack_from("!HH", packet, header + 2)
            self._got[socket.inet_ntoa(packet[16:20]), port] += size - 8


def rtp_packets(seed: int) -> list[bytes]:
    """Return packets with a valid RTP header and random content, which fail authentication."""
    random = Random(seed)
    return [b"\x80\x6f" + random.randbytes(RTP_SIZE - 2) for _ in range(TEMPLATES)]


def junk(seed: int) -> list[bytes]:
    """Return packets that need no state of a call: noise, media, handshake records, invalid STUN, forged tokens."""
    random = Random(seed)

    def forged() -> bytes:
        """Return a check with a forged token under the id of a real key: the most expensive one to refuse."""
        ufrag = b"A" + bytes(random.choices(ICE_CHARS, k=21)) + bytes(random.choices(b"AQgw"))
        return check(random, ufrag.decode(), "their", "password" * 3)

    kinds = [
        lambda: random.randbytes(random.randrange(1, 1200)),
        lambda: b"\x80\x6f" + random.randbytes(RTP_SIZE - 2),
        lambda: b"\x16\xfe\xfd" + random.randbytes(random.randrange(200)),
        lambda: b"\x00\x01" + random.randbytes(random.randrange(200)),
        lambda: check(random, "short", "their", "password" * 3),
        forged,
        forged,
        forged,
    ]
    return [kinds[number % len(kinds)]() for number in range(TEMPLATES)]


def checks(seed: int, server: IceParameters, client_ufrag: str) -> list[bytes]:
    """Return valid connectivity checks of a caller. Every second one nominates its pair."""
    random = Random(seed)
    return [
        check(random, server.ufrag, client_ufrag, server.password, nominate=number % 2 == 1)
        for number in range(TEMPLATES)
    ]


def check(random: Random, server_ufrag: str, client_ufrag: str, password: str, *, nominate: bool = False) -> bytes:
    """Return one connectivity check of a controlling agent (RFC 8445 §7.2.5)."""
    attributes: dict[int, bytes] = {
        AttributeType.USERNAME: f"{server_ufrag}:{client_ufrag}".encode(),
        AttributeType.ICE_CONTROLLING: bytes(8),
        AttributeType.PRIORITY: PRIORITY,
    }
    if nominate:
        attributes[AttributeType.USE_CANDIDATE] = b""
    message = Message(MessageClass.REQUEST, random.randbytes(TRANSACTION_ID_SIZE), attributes)
    return message.encode(password.encode())


def _attach_filter(sock: socket.socket, port: int) -> None:
    """Let the kernel deliver only packets received from `port` for a spoofed address (classic BPF)."""
    load_word, load_half, keep, equal, give = 0x20, 0x28, 0x54, 0x15, 0x06
    packet_type, outgoing = 0xFFFFF004, 4  # SKF_AD_OFF + SKF_AD_PKTTYPE, PACKET_OUTGOING
    program = [
        (load_word, 0, 0, packet_type),
        (equal, 6, 0, outgoing),
        (load_half, 0, 0, 20),
        (equal, 0, 4, port),
        (load_word, 0, 0, 16),
        (keep, 0, 0, SPOOFED_MASK),
        (equal, 0, 1, int(IPv4Address(SPOOFED_NETWORK))),
        (give, 0, 0, 0xFFFF),
        (give, 0, 0, 0),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *instruction) for instruction in program))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(code)))
