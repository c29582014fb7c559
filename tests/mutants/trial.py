"""Runs tests against a copy of the sources, in a process group of their own, for a limited time."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

FIXED_LIMIT, LIMIT_FACTOR = 60.0, 5.0
"""Time limit of tests with a planted bug: seconds, and a multiple of their time without it. A bug that makes tests hang
counts as noticed, since a time limit ends them in every session."""
BASELINE_LIMIT = 300.0
"""Seconds that the tests of one file get without a bug."""
PYTEST = ("-m", "pytest", "-x", "-q", "--no-header", "--tb=short", "-p", "no:cacheprovider")
SUCCEEDED, FAILED = 0, 1
"""Exit codes of pytest. With any other code no test had a result."""


class Trial(NamedTuple):
    """The result of tests: whether they passed, the one that failed, seconds taken, and their last output."""

    code: int | None
    """Of pytest; None where the time limit ended it."""
    first_failure: str
    seconds: float
    output: str

    @property
    def noticed(self) -> bool:
        return self.code in (None, FAILED)


def run_tests(tests: Sequence[str], *, sources: Path, root: Path, limit: float) -> Trial:
    """Run tests until the first fails, with `sources` before every installed package, in child processes too.

    Args:
        limit: seconds
    """
    began = time.monotonic()
    environment = os.environ | {"PYTHONPATH": str(sources)}
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        process = subprocess.Popen(
            [sys.executable, *PYTEST, *tests],
            cwd=root,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with all processes that its tests started
            process.wait()
        output.seek(0)
        text = output.read()
    seconds = time.monotonic() - began
    failure = re.search(r"^(?:FAILED|ERROR) (\S+)", text, re.MULTILINE)
    named = failure[1] if failure else f"the time limit of {limit:.0f} s" if code is None else "no test by name"
    return Trial(code, named, seconds, text)


def missing_tests(tests: Iterable[str], *, sources: Path, root: Path) -> list[str]:
    """Return pytest's messages about node ids that it cannot collect."""
    found = run_tests(["--collect-only", *sorted(tests)], sources=sources, root=root, limit=BASELINE_LIMIT)
    if found.code == SUCCEEDED:
        return []
    return [line for line in found.output.splitlines() if line.startswith("ERROR")] or [found.output[-2000:]]
