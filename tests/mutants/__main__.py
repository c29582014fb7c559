"""Plants each bug of `planted/` by itself, and runs the tests that should notice it.

`python -m mutants [NAME …] [--area AREA] [--sample N [--seed S]] [--list | --check]`

Fails when a bug lives, when one fits its source no longer, and when a test fails without any bug.
"""

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue

from mutants.planting import Mutant, Sources, find_misfits, load_mutants
from mutants.trial import BASELINE_LIMIT, FIXED_LIMIT, LIMIT_FACTOR, SUCCEEDED, Trial, missing_tests, run_tests

ROOT = Path(__file__).parents[2]
OUTPUT_SHOWN = 3000
"""Characters of pytest's output that are printed after a failure."""


class Copies:
    """Copies of the sources, one for each worker; a worker takes one for as long as it runs tests."""

    def __init__(self, root: Path, folder: Path, count: int) -> None:
        self._root = root
        self._free: SimpleQueue[Sources] = SimpleQueue()
        for number in range(count):
            self._free.put(Sources(root, folder / str(number)))

    def try_unchanged(self, tests: Sequence[str]) -> Trial:
        """Run tests without any bug. They are repeated once, since a shared machine may delay them."""
        sources = self._free.get()
        try:
            for _ in range(2):
                trial = run_tests(tests, sources=sources.folder, root=self._root, limit=BASELINE_LIMIT)
                if trial.code == SUCCEEDED:
                    break
            return trial
        finally:
            self._free.put(sources)

    def try_mutant(self, mutant: Mutant, limit: float) -> Trial:
        sources = self._free.get()
        try:
            with sources.planted(mutant):
                return run_tests(mutant.tests, sources=sources.folder, root=self._root, limit=limit)
        finally:
            self._free.put(sources)


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Return the exit code: 0 when every bug fits and is noticed."""
    given = parse_arguments(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        sources = Sources(root, Path(scratch) / "unchanged")
        mutants = load_mutants(root / "tests" / "mutants" / "planted")
        chosen = choose(mutants, given)
        if given.list:
            for mutant in chosen:
                print(f"{mutant.area:12} {mutant.name}: {mutant.bug}")
            return 0
        misfits = find_misfits(chosen, sources, root)
        for name, reason in misfits.items():
            print(f"MISFIT {name}: {reason}")
        tests = {test for mutant in chosen for test in mutant.tests if mutant.name not in misfits}
        missing = missing_tests(tests, sources=sources.folder, root=root) if given.check and tests else []
        print(*missing, sep="\n", end="\n" if missing else "")
        if given.check or misfits:
            print(f"{len({*(m.name for m in chosen)} - {*misfits})} of {len(chosen)} bugs fit their sources")
            return 1 if misfits or missing else 0
        return 0 if try_all(chosen, sources, root, Path(scratch)) else 1


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mutants", description="Plant bugs, and see whether the tests notice.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="instead of all")
    parser.add_argument("--area", action="append", default=[], help="those of an area only, such as dtls; repeatable")
    parser.add_argument("--sample", type=int, metavar="N", help="as many, drawn at random")
    parser.add_argument("--seed", type=int, help="of that draw, instead of a new one; it is printed")
    parser.add_argument("--list", action="store_true", help="print the bugs and plant none")
    parser.add_argument("--check", action="store_true", help="see only whether all fit and their tests exist")
    return parser.parse_args(arguments)


def choose(mutants: Sequence[Mutant], given: argparse.Namespace) -> list[Mutant]:
    """Return the mutants that the arguments select."""
    unknown = {*given.names} - {m.name for m in mutants} | {*given.area} - {m.area for m in mutants}
    if unknown:
        raise SystemExit(f"unknown: {', '.join(sorted(unknown))}")
    chosen = [
        m for m in mutants if (not given.names or m.name in given.names) and (not given.area or m.area in given.area)
    ]
    if given.sample is None:
        return chosen
    seed = random.SystemRandom().getrandbits(32) if given.seed is None else given.seed
    print(f"{given.sample} of {len(chosen)} bugs, drawn by --seed {seed}", flush=True)
    return random.Random(seed).sample(chosen, min(given.sample, len(chosen)))


def try_all(mutants: Sequence[Mutant], sources: Sources, root: Path, scratch: Path) -> bool:
    """Run the tests without a bug, then with each, and print the results. Return whether all were noticed."""
    began = time.monotonic()
    workers = os.cpu_count() or 1
    copies = Copies(root, scratch, workers)
    with ThreadPoolExecutor(workers) as pool:
        try:
            unchanged = dict(try_unchanged(pool, copies, mutants))
            failing = {file: trial for file, trial in unchanged.items() if trial.code != SUCCEEDED}
            for file, trial in sorted(failing.items()):
                print(f"\n--- {file} fails without a bug\n{trial.output[-OUTPUT_SHOWN:]}")
            tried = [mutant for mutant in mutants if not failing.keys() & {*test_files(mutant)}]
            lived = list(try_mutants(pool, copies, tried, unchanged))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    for mutant, trial in lived:
        print(f"\n--- {mutant.name} lives: {mutant.bug}\n    {sources.place(mutant)}\n    {' '.join(mutant.tests)}")
        if trial.code != SUCCEEDED:
            print(trial.output[-OUTPUT_SHOWN:])
    untried = f", {len(mutants) - len(tried)} not tried, since tests fail without them" if failing else ""
    seconds = time.monotonic() - began
    print(f"\n{len(tried)} bugs planted, {len(lived)} lived{untried}, {seconds:.0f} s")
    return not lived and not failing


def try_unchanged(pool: ThreadPoolExecutor, copies: Copies, mutants: Sequence[Mutant]) -> Iterator[tuple[str, Trial]]:
    """Run every named test once, those of one file together. Yield the file and its result."""
    named: dict[str, set[str]] = {}
    for test in {test for mutant in mutants for test in mutant.tests}:
        named.setdefault(test.partition("::")[0], set()).add(test)
    running = {
        pool.submit(copies.try_unchanged, [file] if file in tests else sorted(tests)): file
        for file, tests in sorted(named.items())
    }
    for count, future in enumerate(as_completed(running), 1):
        file, trial = running[future], future.result()
        verdict = "passes" if trial.code == SUCCEEDED else "FAILS"
        print(f"[{count:3}/{len(running)}] {file} {verdict} without a bug, {trial.seconds:.1f} s", flush=True)
        yield file, trial


def try_mutants(
    pool: ThreadPoolExecutor, copies: Copies, mutants: Sequence[Mutant], unchanged: dict[str, Trial]
) -> Iterator[tuple[Mutant, Trial]]:
    """Try each mutant, and yield those that no test notices."""

    def limit(mutant: Mutant) -> float:
        return FIXED_LIMIT + LIMIT_FACTOR * sum(unchanged[file].seconds for file in test_files(mutant))

    running = {pool.submit(copies.try_mutant, mutant, limit(mutant)): mutant for mutant in mutants}
    for count, future in enumerate(as_completed(running), 1):
        mutant, trial = running[future], future.result()
        if trial.noticed:
            verdict = f"noticed by {trial.first_failure}"
        else:
            verdict = "LIVES" if trial.code == SUCCEEDED else f"LIVES: pytest ended with {trial.code}"
            yield mutant, trial
        print(f"[{count:3}/{len(running)}] {mutant.area} {mutant.name}: {verdict}, {trial.seconds:.1f} s", flush=True)


def test_files(mutant: Mutant) -> list[str]:
    """Return the files of a mutant's tests, without the names of single tests."""
    return sorted({test.partition("::")[0] for test in mutant.tests})


if __name__ == "__main__":
    sys.exit(main())
