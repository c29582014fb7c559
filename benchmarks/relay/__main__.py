"""CPU per forwarded packet: our relay beside a forwarder in C, both directions, over the same sockets and flows.

    python -m benchmarks.relay [--seconds S] [--rounds N] [--flows N]

Both are compiled or started here and measured in alternation, so that other load of the machine affects both. Rows:
microseconds of CPU (user and system) of the whole process for each forwarded packet, the median of all rounds; the
ratio; packets lost; and median and 99th percentile of the delay that the relay added.
"""

import argparse
import os
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path as FilePath
from typing import NamedTuple

from antiphon_common.core import Path
from antiphon_common.keys import KeyRing
from antiphon_common.link import DOWNLINK, Confirm, LinkKeys
from antiphon_common.sockaddr import encode_address
from support.processes.ports import free_udp_port

HERE = FilePath(__file__).parent
RATES = (20_000, 50_000, 100_000)
SHAPES = {"bursts": 100, "even": 1}
"""Packets of a burst, sent back to back."""
DUE = {("bursts", 100_000): 2.0, ("even", 50_000): 2.0}
"""The highest allowed ratio of the relay's cost to that of C, where there is one."""
INGRESS = 7
HOST = "127.0.0.1"
FAR = 0.0


class GeneratorResult(NamedTuple):
    """The result of one run of the load generator; delays in microseconds."""

    sent: int
    received: int
    median: float
    p99: float
    longest: float


class Sample(NamedTuple):
    micros: float
    load: GeneratorResult

    @property
    def lost(self) -> float:
        return 1 - self.load.received / self.load.sent


class Bench:
    """Client and transceiver sockets with a flow for each client, and the two forwarders between them."""

    def __init__(self, flows: int, folder: FilePath, stack: ExitStack) -> None:
        self._folder = folder
        self._keys = KeyRing.generate(os.urandom)
        self._link_keys = LinkKeys(self._keys.link)
        self._transceiver = stack.enter_context(_open_socket(8 << 20))
        self._clients = [stack.enter_context(_open_socket(1 << 20)) for _ in range(flows)]
        self._media_port, self._link_port = free_udp_port(), free_udp_port()
        self._write_files()
        for name in ("forwarder", "load"):
            subprocess.run(["gcc", "-O2", "-o", folder / name, HERE / f"{name}.c"], check=True)

    def _write_files(self) -> None:
        owner = encode_address(*self._transceiver.getsockname())
        forwarder, load = b"", b""
        for client in self._clients:
            host, port = client.getsockname()
            path = Path.of(host, port, ingress=INGRESS)
            down = self._link_keys.header(path, DOWNLINK, FAR)
            forwarder += encode_address(host, port) + owner + self._link_keys.header(path, 0, FAR) + down
            load += struct.pack("=i", client.fileno()) + down
        (self._folder / "forwarder.flows").write_bytes(forwarder)
        (self._folder / "load.flows").write_bytes(load)
        (self._folder / "secret").write_text(self._keys.format())

    @contextmanager
    def c_forwarder(self) -> Iterator[subprocess.Popen[str]]:
        ports = [str(self._media_port), str(self._link_port)]
        with _running([str(self._folder / "forwarder"), str(self._folder / "forwarder.flows"), *ports]) as process:
            yield process

    @contextmanager
    def relay(self) -> Iterator[subprocess.Popen[str]]:
        command = [sys.executable, "-m", "antiphon_relay", "--media", f"{INGRESS}={HOST}:{self._media_port}"]
        command += ["--relay-link", f"{HOST}:{self._link_port}", "--admin", f"{HOST}:0"]
        command += ["--secret-file", str(self._folder / "secret")]
        with _running(command) as process:
            for client in self._clients:
                path = Path.of(*client.getsockname(), ingress=INGRESS)
                self._transceiver.sendto(self._link_keys.encode(Confirm(path), FAR), (HOST, self._link_port))
            self._load(2_000, 1, 0.5)
            yield process

    def measure(self, process: subprocess.Popen[str], rate: int, burst: int, seconds: float) -> Sample:
        before = _cpu_seconds(process.pid)
        load = self._load(rate, burst, seconds)
        used = _cpu_seconds(process.pid) - before
        return Sample(used / max(1, load.received) * 1e6, load)

    def _load(self, rate: int, burst: int, seconds: float) -> GeneratorResult:
        command = [self._folder / "load", self._folder / "load.flows", self._transceiver.fileno(), self._media_port]
        command += [self._link_port, rate, burst, seconds]
        sockets = [self._transceiver.fileno(), *(client.fileno() for client in self._clients)]
        run = subprocess.run(
            [str(word) for word in command], pass_fds=sockets, stdout=subprocess.PIPE, text=True, check=True,
            preexec_fn=lambda: _pin(1),
        )  # fmt: skip
        sent, received, *delays = run.stdout.split()
        return GeneratorResult(int(sent), int(received), *map(float, delays))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.relay", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each cell")
    parser.add_argument("--flows", type=int, default=200, help="clients")
    arguments = parser.parse_args(argv)
    cells = [(shape, rate) for shape in SHAPES for rate in RATES]
    samples: dict[tuple[str, int, str], list[Sample]] = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        bench = Bench(arguments.flows, FilePath(folder), stack)
        for _ in range(arguments.rounds):
            for shape, rate in cells:
                for name, start in (("C", bench.c_forwarder), ("relay", bench.relay)):
                    with start() as process:
                        sample = bench.measure(process, rate, SHAPES[shape], arguments.seconds)
                    samples.setdefault((shape, rate, name), []).append(sample)
    print_table(cells, samples)
    return 0


def print_table(cells: list[tuple[str, int]], samples: dict[tuple[str, int, str], list[Sample]]) -> None:
    print("CPU µs for each forwarded packet of 160 bytes, both directions")
    print(f"{'':8}{'packets/s':>10}{'C':>8}{'relay':>8}{'ratio':>8}{'due':>6}{'lost %':>9}{'p50 µs':>9}{'p99 µs':>9}")
    for shape, rate in cells:
        yardstick, relay = (samples[shape, rate, name] for name in ("C", "relay"))
        ours, theirs = (statistics.median(sample.micros for sample in side) for side in (relay, yardstick))
        lost = statistics.median(sample.lost for sample in relay) * 100
        median, p99 = (statistics.median(getattr(s.load, field) for s in relay) for field in ("median", "p99"))
        due = DUE.get((shape, rate), "")
        print(
            f"{shape:8}{rate:>10,}{theirs:>8.2f}{ours:>8.2f}{ours / theirs:>8.2f}{due:>6}{lost:>9.3f}"
            f"{median:>9.0f}{p99:>9.0f}"
        )


@contextmanager
def _running(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Run a forwarder on the first core; yield it once it is ready."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, preexec_fn=lambda: _pin(0)
    ) as process:
        assert process.stdout is not None
        try:
            if not process.stdout.readline().startswith("ready"):
                raise RuntimeError(f"{command[0]} did not start")
            yield process
        finally:
            process.terminate()


def _pin(core: int) -> None:
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[core % len(cores)]})


def _cpu_seconds(pid: int) -> float:
    """Return user and system time of all threads of a process, in seconds with nanosecond resolution."""
    tasks = FilePath(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def _open_socket(buffer: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    sock.bind((HOST, 0))
    sock.setblocking(False)
    return sock


if __name__ == "__main__":
    sys.exit(main())
