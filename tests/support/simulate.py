"""Simulates calls, as many as asked for: `nox -s simulate -- --calls N --seed S`.

Each simulation has a seed of its own, from S on. Prints how fast that was, a digest of every datagram of every
simulation, and the seed of each that failed.
"""

import argparse
import hashlib
import os
import sys
import time
from multiprocessing import Pool

import msgspec

from support.scenario import draw, simulate


def seeds_for(calls: int, first: int) -> list[int]:
    """Return the seeds whose simulations have at least so many calls together."""
    seeds: list[int] = []
    while calls > 0:
        seeds.append(first + len(seeds))
        calls -= len(draw(seeds[-1]).calls)
    return seeds


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="simulate", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=300, help="at least so many (default 300)")
    parser.add_argument("--seed", type=int, default=1, help="of the first simulation (default 1)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: one for each core)")
    parser.add_argument("--plan", action="store_true", help="print what each simulation does")
    options = parser.parse_args()
    seeds = seeds_for(options.calls, options.seed)
    started = time.monotonic()
    with Pool(options.jobs) as pool:
        outcomes = list(pool.imap(simulate, seeds, chunksize=4))
    wall = time.monotonic() - started
    calls, seconds = sum(outcome.calls for outcome in outcomes), sum(outcome.seconds for outcome in outcomes)
    digest = hashlib.blake2b("".join(outcome.digest for outcome in outcomes).encode(), digest_size=8).hexdigest()
    for outcome in outcomes:
        if options.plan:
            print(msgspec.json.format(msgspec.json.encode(draw(outcome.seed))).decode())
        if outcome.problem:
            print(f"seed {outcome.seed} failed: {outcome.problem}")
            print(f"    again: nox -s simulate -- --calls 1 --seed {outcome.seed} --plan")
    failed = sum(bool(outcome.problem) for outcome in outcomes)
    speed = f"{calls / wall * 60:.0f} calls a minute, {seconds / wall:.0f} simulated seconds a second"
    print(f"{calls} calls in {len(outcomes)} simulations, {failed} failed; digest {digest}")
    print(f"{seconds:.0f} simulated seconds in {wall:.1f} s: {speed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
