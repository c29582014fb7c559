"""Simulates calls, as many as asked for: `nox -s simulate -- --calls N --seed S`.

Each simulation has a seed of its own, from S on. Prints how it gets on every few seconds, each seed that failed at
once, and at the end how fast that was, and a digest of all that happened.
"""

import argparse
import hashlib
import os
import sys
import time
from multiprocessing import Pool

import msgspec

from support.sim.scenario import Outcome, simulate
from support.sim.scenario_plan import draw

PROGRESS_SECONDS = 5.0


class Progress:
    """What is known so far of simulations that come in by and by."""

    def __init__(self, calls: int) -> None:
        self.outcomes: list[Outcome] = []
        self._wanted = calls
        self._calls = 0
        self._seconds = 0.0
        self._started = self._told = time.monotonic()

    def add(self, outcome: Outcome, *, plan: bool) -> None:
        self.outcomes.append(outcome)
        self._calls += outcome.calls
        self._seconds += outcome.seconds
        if plan:
            say(msgspec.json.format(msgspec.json.encode(draw(outcome.seed))).decode())
        if outcome.problem:
            say(f"seed {outcome.seed} failed: {outcome.problem}")
            say(f"    again: nox -s simulate -- --calls 1 --seed {outcome.seed} --plan")
        if time.monotonic() - self._told >= PROGRESS_SECONDS:
            self._told = time.monotonic()
            say(f"{self._calls} of {self._wanted} calls: {self._speed()}")

    def finish(self) -> bool:
        """Tell how it went; return whether all is well."""
        failed = [outcome.seed for outcome in self.outcomes if outcome.problem]
        digest = hashlib.blake2b("".join(outcome.digest for outcome in self.outcomes).encode(), digest_size=8)
        seeds = f"seeds {self.outcomes[0].seed} to {self.outcomes[-1].seed}"
        say(f"{self._calls} calls in {len(self.outcomes)} simulations, {seeds}; digest {digest.hexdigest()}")
        say(f"{self._seconds:.0f} simulated seconds in {time.monotonic() - self._started:.1f} s: {self._speed()}")
        say(f"failed: {len(failed)}" + "".join(f" {seed}" for seed in failed))
        return not failed

    def _speed(self) -> str:
        wall = time.monotonic() - self._started
        return f"{self._calls / wall:.1f} calls a second, {self._seconds / wall:.0f} simulated seconds a second"


def seeds_for(calls: int, first: int) -> list[int]:
    """Return the seeds whose simulations have at least so many calls together."""
    seeds: list[int] = []
    while calls > 0:
        seeds.append(first + len(seeds))
        calls -= len(draw(seeds[-1]).calls)
    return seeds


def say(line: str) -> None:
    print(line, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="simulate", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=300, help="at least so many (default 300)")
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
