"""CPU time of a call in relay, transceiver and backend, beside that of aiortc's echo, with the same load client.

    python -m benchmarks.calls [--seconds S] [--rounds N] [--aiortc-calls N] [--opus-calls N] [--pcm16-calls N]
                               [--shared-calls N]

Every service is a separate process. All services share the first core; the load client has the second. The backend is
`loopback`. In opus mode packets pass unchanged. In pcm16 mode the transceiver decodes to 24 kHz and encodes again
(complexity 5, mono, 32 kbit/s), as aiortc does at 48 kHz in stereo. The cost of a call falls with the number of calls,
since one wake-up serves several; so ours are measured with as many calls as aiortc can handle, and with many. Modes
alternate, so that other load of the machine affects all of them. Figures are medians of all rounds, in milliseconds of
CPU time per call and second. The last figure is the cost of a call in one of two transceivers with calls of their own:
they share nothing, so it should be no higher than in a single one.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from statistics import median
from typing import NamedTuple

import trio

from antiphon.shell.load_run import LoadGenerator, LoadSettings
from support.processes.services import Service, apart
from support.processes.usage import Usage

OWN = ("relay", "transceiver", "backend")
DUE = {"pcm16": 1 / 3}
"""Largest cost of relay and transceiver together, with many calls, as a share of aiortc's."""

PAIR_DUE = 1.1
"""Largest cost of a call in one of two transceivers, as a share of its cost in a single one with as many calls."""

CORES = sorted(os.sched_getaffinity(0))

SETTLE_SECONDS = 1.0
"""Seconds between the set-up of the last call and the measurement."""


class CallSample(NamedTuple):
    """One measurement: milliseconds of CPU time per call and second, by process, and the share of packets returned."""

    cost: Mapping[str, float]
    returned: float


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.calls", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=6.0, help="length of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each mode")
    parser.add_argument("--aiortc-calls", type=int, default=15, help="calls at once; more is too much for it")
    parser.add_argument("--opus-calls", type=int, default=100)
    parser.add_argument("--pcm16-calls", type=int, default=40)
    parser.add_argument("--shared-calls", type=int, default=30, help="of each of two transceivers")
    arguments = parser.parse_args(argv)
    few = arguments.aiortc_calls
    modes = {("aiortc", few), ("opus", few), ("pcm16", few)}
    modes |= {("opus", arguments.opus_calls), ("pcm16", arguments.pcm16_calls)}
    samples: dict[tuple[str, int], list[CallSample]] = {mode: [] for mode in sorted(modes)}
    shared: dict[int, list[float]] = {1: [], 2: []}
    _pin(os.getpid(), 1)
    for _ in range(arguments.rounds):
        for (server, calls), taken in samples.items():
            with running(server) as (url, pids):
                taken.append(trio.run(measure, url, pids, calls, arguments.seconds))
        for transceivers, costs in shared.items():
            with running("opus", transceivers) as (url, pids):
                sample = trio.run(measure, url, pids, transceivers * arguments.shared_calls, arguments.seconds)
                costs.append(sum(cost for name, cost in sample.cost.items() if name.startswith("transceiver")))
    print_table(samples)
    alone, beside = (median(costs) for costs in shared.values())
    print(
        f"two transceivers, {arguments.shared_calls} opus calls each: {beside:.2f} ms for each call and second, "
        f"{beside / alone:.2f} times one with as many (due {PAIR_DUE})"
    )
    return 0


@contextmanager
def running(server: str, transceivers: int = 1) -> Iterator[tuple[str, dict[str, int]]]:
    """Run a server on the first core. Yield its URL and the ids of its processes."""
    if server == "aiortc":
        with Service("benchmarks.calls.aiortc_echo") as service:
            url, pids = service.wait_ready().ready, {"aiortc": service.pid}
            _pin(service.pid, 0)
            yield url, pids
        return
    audio = {"opus": "opus", "pcm16": "pcm16/24000"}[server]
    with apart(audio=audio, capacity=1000, transceivers=transceivers) as deployment:
        pids = {name: service.pid for name, service in deployment.services.items() if name != "signaling"}
        for pid in pids.values():
            _pin(pid, 0)
        yield deployment.url, pids


async def measure(url: str, pids: Mapping[str, int], calls: int, seconds: float) -> CallSample:
    """Make calls and measure the cost of a second of each."""
    async with trio.open_nursery() as nursery:
        load = LoadGenerator(LoadSettings(url))
        await nursery.start(load.run)
        await load.add(calls)
        await load.talk(SETTLE_SECONDS)
        usage = Usage({**pids, "client": os.getpid()})
        await load.talk(seconds)
        cost = {name: share / calls * 1000 for name, share in usage.busy().items()}
        await load.stop_speech()
        load.hang_up()
        nursery.cancel_scope.cancel()
    sent, received = (sum(getattr(report, way) for report in load.reports) for way in ("sent", "received"))
    return CallSample(cost, received / sent)


def print_table(samples: Mapping[tuple[str, int], list[CallSample]]) -> None:
    columns = (*OWN, "relay + transceiver", "of aiortc", "due", "load client", "came back")
    print("CPU in milliseconds for each call and second; echoed speech, one core")
    print(f"{'':7}{'calls':>6}" + "".join(f"{name:>{len(name) + 3}}" for name in columns))
    yardstick = next(_cost(taken, "aiortc") for (server, _), taken in samples.items() if server == "aiortc")
    fewest = min(calls for _, calls in samples)
    for (server, calls), taken in samples.items():
        returned = f"{median(sample.returned for sample in taken):.2%}"
        client = f"{_cost(taken, 'client'):.2f}"
        if server == "aiortc":
            cells = ["", "", "", f"{yardstick:.2f}", "1.00", "", client, returned]
        else:
            parts = [_cost(taken, name) for name in OWN]
            due = f"{DUE[server]:.2f}" if server in DUE and calls > fewest else ""
            ours = parts[0] + parts[1]
            cells = [f"{part:.2f}" for part in (*parts, ours, ours / yardstick)] + [due, client, returned]
        shown = "".join(f"{cell:>{len(name) + 3}}" for cell, name in zip(cells, columns, strict=True))
        print(f"{server:7}{calls:>6}{shown}")


def _cost(samples: list[CallSample], name: str) -> float:
    return median(sample.cost[name] for sample in samples)


def _pin(pid: int, core: int) -> None:
    """Pin all threads of a process to one core."""
    for task in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(task), {CORES[core % len(CORES)]})


if __name__ == "__main__":
    sys.exit(main())
