"""Simulates at least N calls: `nox -s simulate -- --calls N --seed S`.

Each simulation has its own seed, from S on. It prints its progress every few seconds and each seed that failed at once.
At the end it prints the speed and a digest of all datagrams and messages.
"""

import argparse
import hashlib
import os
import sys
import time
from multiprocessing import Pool

import msgspec

from support.sim.scenario import SimulationOutcome, simulate
from support.sim.scenario_plan import draw_plan

PROGRESS_SECONDS = 5.0


class Progress:
    """Collects the outcomes of simulations and prints the progress. Call `add` for each, then `finish`."""

    def __init__(self, calls: int) -> None:
        self.outcomes: list[SimulationOutcome] = []
        self._wanted = calls
        self._calls = 0
        self._seconds = 0.0
        self._started = self._printed_at = time.monotonic()

    def add(self, outcome: SimulationOutcome, *, plan: bool) -> None:
        self.outcomes.append(outcome)
        self._calls += outcome.calls
        self._seconds += outcome.seconds
        if plan:
            print_line(msgspec.json.format(msgspec.json.encode(draw_plan(outcome.seed))).decode())
        if outcome.problem:
            print_line(f"seed {outcome.seed} failed: {outcome.problem}")
            print_line(f"    again: nox -s simulate -- --calls 1 --seed {outcome.seed} --plan")
        if time.monotonic() - self._printed_at >= PROGRESS_SECONDS:
            self._printed_at = time.monotonic()
            print_line(f"{self._calls} of {self._wanted} calls: {self._speed()}")

    def finish(self) -> bool:
        """Print the summary. Return whether no simulation failed."""
        failed = [outcome.seed for outcome in self.outcomes if outcome.problem]
        digest = hashlib.blake2b("".join(outcome.digest for outcome in self.outcomes).encode(), digest_size=8)
        seeds = f"seeds {self.outcomes[0].seed} to {self.outcomes[-1].seed}"
        print_line(f"{self._calls} calls in {len(self.outcomes)} simulations, {seeds}; digest {digest.hexdigest()}")
        print_line(
            f"{self._seconds:.0f} simulated seconds in {time.monotonic() - self._started:.1f} s: {self._speed()}"
        )
        print_line(f"failed: {len(failed)}" + "".join(f" {seed}" for seed in failed))
        return not failed

    def _speed(self) -> str:
        wall = time.monotonic() - self._started
        return f"{self._calls / wall:.1f} calls a second, {self._seconds / wall:.0f} simulated seconds a second"


def seeds_for(calls: int, first: int) -> list[int]:
    """Return the seeds whose simulations have at least `calls` calls in total."""
    seeds: list[int] = []
    while calls > 0:
        seeds.append(first + len(seeds))
        calls -= len(draw_plan(seeds[-1]).calls)
    return seeds


def print_line(line: str) -> None:
    print(line, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="simulate", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=300, help="minimum number of calls (default 300)")
    parser.add_argument("--seed", type=int, default=1, help="of the first simulation (default 1)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: one for each core)")
    parser.add_argument("--plan", action="store_true", help="print what each simulation does")
    options = parser.parse_args()
    progress = Progress(options.calls)
    with Pool(options.jobs) as pool:
        for outcome in pool.imap(simulate, seeds_for(options.calls, options.seed)):
            progress.add(outcome, plan=options.plan)
    return 0 if progress.finish() else 1


if __name__ == "__main__":
    sys.exit(main())
