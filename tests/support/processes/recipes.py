"""Runs the README's recipes as shell commands."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).parents[3]
DEADLINE_SECONDS = 30.0
STOP_SECONDS = 10.0


class Recipe:
    """A running recipe. `wait_for` waits for its output."""

    def __init__(self, process: "subprocess.Popen[str]", output: Path) -> None:
        self._process = process
        self._output = output

    @property
    def output(self) -> str:
        return self._output.read_text(errors="replace")

    def wait_for(self, pattern: str) -> str:
        """Wait until the commands print or log `pattern`. Return the match of its first group."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while (found := re.search(pattern, self.output, re.MULTILINE)) is None:
            over = time.monotonic() > deadline or self._process.poll() is not None
            assert not over, f"{pattern!r} was never printed:\n{self.output}"
            time.sleep(0.02)
        return found[1]


@contextmanager
def recipe(
    heading: str, folder: Path, replacements: Mapping[str, str], settings: Mapping[str, str]
) -> Iterator[Recipe]:
    """Run the commands under a heading of the README in `folder`, and end all of them afterwards.

    `replacements` in their text and `settings` in the environment avoid ports that other processes use.
    """
    script = "".join(blocks(heading, "sh"))
    for old, new in replacements.items():
        script = script.replace(old, new)
    environ = {f"ANTIPHON_{name}": value for name, value in settings.items()}
    environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with tempfile.NamedTemporaryFile("w") as output:
        process = subprocess.Popen(
            ["bash", "-c", f"{script}\nwait"], cwd=folder, env=os.environ | environ, start_new_session=True, text=True,
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
        running = Recipe(process, Path(output.name))
        try:
            yield running
        except BaseException:
            print(f"--- {heading}\n{script}\n---\n{running.output}", file=sys.stderr)
            raise
        finally:
            end_group(process)


def blocks(heading: str, language: str) -> list[str]:
    """Return the README's code blocks of a language under a heading."""
    text = (ROOT / "README.md").read_text()
    found = re.search(rf"^### {re.escape(heading)}\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"the README has no recipe {heading!r}"
    shown = re.findall(rf"^```{language}\n(.*?)^```", found[1], re.MULTILINE | re.DOTALL)
    assert shown, f"the recipe {heading!r} shows no {language}"
    return shown


def end_group(process: "subprocess.Popen[str]") -> None:
    """End a shell and all its child processes. Kill them after `STOP_SECONDS`."""
    deadline = time.monotonic() + STOP_SECONDS
    number = int(signal.SIGTERM)
    with suppress(ProcessLookupError):
        while True:
            os.killpg(process.pid, number)
            process.poll()
            time.sleep(0.02)
            number = signal.SIGKILL if time.monotonic() > deadline else 0
