"""Searches expensive inputs of every core and decoder: `python -m cost --seconds 60 [--keep] [TARGET …]`.

It prints the most expensive input of each state, and the share of its bound. An input above its bound is a failure,
and is kept in tests/cost/found, which git ignores.
"""

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from cost import work

HERE = Path(__file__).parent
CORPUS, FOUND = HERE / "corpus", HERE / "found"

TRIES = 100
"""Inputs tried in each state besides the known ones, without `--seconds`."""

LONGEST_KEPT = 4096
"""Bytes of the longest input that is kept in the corpus. Longer ones are generated as seeds."""


LONG = 1 << 16
"""Bytes above which only a quarter of the inputs is tried, since each takes long."""


class CostOutcome(NamedTuple):
    """The most expensive input of one state."""

    target: str
    name: str
    slug: str
    tried: int
    data: bytes
    units: int
    bound: int
    memory: int
    ratio: float
    failure: str | None
    described: str


def main() -> None:
    given = parse_arguments()
    work.install(planted(given.planted))
    from cost.targets import STATES  # the hook must be there before our packages are

    chosen = [state for state in STATES if not given.targets or state.target in given.targets]
    if not chosen:
        raise SystemExit(f"no such target; there are {', '.join(sorted({state.target for state in STATES}))}")
    workers = os.cpu_count() or 1
    share = None if given.seconds is None else given.seconds * workers / len(chosen)
    print(f"seed {given.seed}; a bound is a base and a price per byte, of units of work: tests/cost/bounds.py")
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("fork")) as pool:
        runs = [pool.submit(search, STATES.index(state), given.seed, given.tries, share) for state in chosen]
        outcomes = [run.result() for run in runs]
    report(outcomes)
    if given.keep:
        keep(outcomes)
    failed = [outcome for outcome in outcomes if outcome.ratio > 1.0]
    if failed and not given.no_save:
        save(failed)
    raise SystemExit(1 if failed else 0)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="cost", description="Search expensive inputs of every core and decoder.")
    parser.add_argument("--seconds", type=float, help="for all states together, instead of a number of tries")
    parser.add_argument("--tries", type=int, default=TRIES, help=f"in each state (default {TRIES})")
    parser.add_argument("--seed", type=int, default=1, help="of the search (default 1)")
    parser.add_argument("--keep", action="store_true", help="put the most expensive inputs into the corpus")
    parser.add_argument("--no-save", action="store_true", help="leave no files of what fails")
    parser.add_argument("--planted", help="name of a planted fault of tests/cost/planted.py, to see it found")
    parser.add_argument("targets", nargs="*", help="instead of all")
    return parser.parse_args()


def planted(name: str | None) -> Sequence[work.Patch]:
    from cost.planted import FAULTS

    return () if name is None else (FAULTS[name].patch,)


def search(index: int, seed: int, tries: int, seconds: float | None) -> CostOutcome:
    """Search one state, in a process of the pool. Runs with the same number of tries try the same inputs."""
    from cost.search import Search, describe
    from cost.targets import STATES

    state = STATES[index]
    ready = state.prepare()
    began = time.monotonic()
    found = Search(ready, state.bound, seed, list(corpus(state.slug)))
    if seconds is None:
        found.climb(tries if ready.limit <= LONG else tries // 4)
    else:
        while time.monotonic() < began + seconds and found.most_expensive.ratio <= 1.0:
            found.step()
    best = found.most_expensive
    bound = round(state.bound.units(best.data))
    described = describe(best, ready.grammar)
    return CostOutcome(
        state.target,
        state.name,
        state.slug,
        found.tried,
        best.data,
        best.units,
        bound,
        best.memory,
        best.ratio,
        best.failure,
        described,
    )


def corpus(slug: str) -> Sequence[bytes]:
    folder = CORPUS / slug
    return [file.read_bytes() for file in sorted(folder.iterdir())] if folder.is_dir() else []


def report(outcomes: Sequence[CostOutcome]) -> None:
    for one in outcomes:
        memory = f", {one.memory >> 10:,} KiB" if one.memory else ""
        print(
            f"{one.target:11} {one.name:38} {one.units:>10,} of {one.bound:>10,} units{memory}"
            f" {100 * one.ratio:>6.0f} %  {one.described}{'  OVER BOUND' if one.ratio > 1.0 else ''}"
            f"{'' if one.failure is None else '  ' + one.failure}"
        )
    tried = sum(outcome.tried for outcome in outcomes)
    print(f"{tried:,} inputs tried in {len(outcomes)} states")


def keep(outcomes: Sequence[CostOutcome]) -> None:
    """Replace the kept input of each state by its most expensive one."""
    for one in outcomes:
        if len(one.data) <= LONGEST_KEPT and one.failure is None:
            folder = CORPUS / one.slug
            folder.mkdir(parents=True, exist_ok=True)
            for file in folder.iterdir():
                file.unlink()
            (folder / blake2b(one.data, digest_size=8).hexdigest()).write_bytes(one.data)


def save(failed: Sequence[CostOutcome]) -> None:
    FOUND.mkdir(exist_ok=True)
    for one in failed:
        file = FOUND / f"{one.slug}-{blake2b(one.data, digest_size=8).hexdigest()}"
        file.write_bytes(one.data)
        print(f"{one.target}, {one.name}: {file.relative_to(HERE.parents[1])}", file=sys.stderr)


if __name__ == "__main__":
    main()
