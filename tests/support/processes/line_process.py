"""Test programs as separate processes, which answer each line with a line of JSON."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[2]


def python_path() -> str:
    """Return a PYTHONPATH with which another process finds the packages and `support`."""
    return os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])


class LineProcess:
    """A process `python -m MODULE ARGUMENTS`. Call `wait_ready` first; `ready` is the text after its `ready` line."""

    def __init__(self, module: str, *arguments: str) -> None:
        self._module = module
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": python_path()},
        )  # fmt: skip
        self.ready = ""

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_ready(self) -> str:
        """Wait for the `ready` line and return the text after it."""
        line = self._read()
        assert line.startswith("ready "), f"{self._module} did not get ready: {line!r}"
        self.ready = line.removeprefix("ready ").strip()
        return self.ready

    def ask(self, question: str = "") -> str:
        """Write one line and return the response line."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{question}\n")
        self._process.stdin.flush()
        return self._read()

    def end(self) -> None:
        """Close standard input and wait for a clean exit of the process."""
        self._process.communicate(timeout=30)
        assert self._process.returncode == 0

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()
