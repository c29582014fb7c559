"""Coverage-guided fuzzing of every target with atheris: `python -m fuzz --seconds 60 [--keep] [TARGET …]`.

It prints the inputs tried and the lines covered. An input that finds a bug is printed and kept beside the corpus.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import coverage

from fuzz.targets import TARGETS

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
START_SECONDS = 3.0
"""Seconds of each target's time for imports and instrumentation."""
MAX_INPUT = 16384


class FuzzOutcome(NamedTuple):
    """The outcome of one target: inputs tried, and the last output of libFuzzer if it found a bug."""

    name: str
    tried: int
    failure: str | None


def main() -> None:
    given = parse_arguments()
    names = given.targets or list(TARGETS)
    workers = os.cpu_count() or 1
    share = max(1, round(given.seconds * workers / len(names) - START_SECONDS))
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(workers) as pool:
        outcomes = list(pool.map(lambda name: fuzz(name, share, Path(scratch) / name, given.seed), names))
        if given.keep:
            keep(names, Path(scratch))
        covered = count_lines(names, Path(scratch))
    for outcome in outcomes:
        print(f"{outcome.name:20} {outcome.tried:>9,} inputs{'' if outcome.failure is None else '  FAILED'}")
    print(f"{sum(outcome.tried for outcome in outcomes):,} inputs tried, {covered:,} lines of ours covered")
    failures = [outcome for outcome in outcomes if outcome.failure is not None]
    for outcome in failures:
        print(f"\n--- {outcome.name}\n{outcome.failure}")
    raise SystemExit(1 if failures else 0)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fuzz", description="Fuzz every target for a while, led by coverage.")
    parser.add_argument("--seconds", type=float, default=60.0, help="for all targets together (default 60)")
    parser.add_argument("--seed", type=int, default=1, help="of libFuzzer, 0 for a new one each time (default 1)")
    parser.add_argument("--keep", action="store_true", help="add the inputs that reach new lines to the corpus")
    parser.add_argument("targets", nargs="*", choices=[[], *TARGETS], help="instead of all")
    return parser.parse_args()


def fuzz(name: str, seconds: int, found: Path, seed: int) -> FuzzOutcome:
    """Run one target in a separate process. Inputs that reach new code go into the folder `found`."""
    found.mkdir()
    options = [f"-max_total_time={seconds}", f"-max_len={MAX_INPUT}", f"-seed={seed}", "-print_final_stats=1"]
    options += ["-timeout=10", "-rss_limit_mb=4096", f"-artifact_prefix={HERE}/found-{name}-"]
    done = run_one(name, [str(found), str(CORPUS / name), *options])
    tried = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    failed = done.returncode != 0
    return FuzzOutcome(name, int(tried[1]) if tried else 0, done.stderr[-4000:] if failed else None)


def keep(names: Sequence[str], found: Path) -> None:
    """Add the inputs that reach new code to the corpus, smallest first."""
    for name in names:
        run_one(name, ["-merge=1", f"-max_len={MAX_INPUT}", str(CORPUS / name), str(found / name)])


def run_one(name: str, arguments: list[str]) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "fuzz.one", name, *arguments]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", cwd=HERE.parent, check=False)


def count_lines(names: Sequence[str], found: Path) -> int:
    """Return the number of source lines that all inputs together cover."""
    measured = coverage.Coverage(data_file=None, include=["*/antiphon_*/*"])
    with measured.collect():
        for name in names:
            for file in [*(CORPUS / name).iterdir(), *(found / name).iterdir()]:
                TARGETS[name](file.read_bytes())
    data = measured.get_data()
    return sum(len(data.lines(file) or ()) for file in data.measured_files())


if __name__ == "__main__":
    main()
