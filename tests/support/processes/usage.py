"""Processor time and open files of processes."""

import time
from collections.abc import Mapping
from pathlib import Path


def cpu_seconds(pid: int) -> float:
    """Return the user and system time of all threads of a process, in seconds."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def open_descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


class Usage:
    """Measures the processor time of processes, given by name and id, from its construction on."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = pids
        self._began = time.monotonic()
        self._before = self._cpu_seconds()

    def busy(self) -> dict[str, float]:
        """Return the share of one processor that each process used."""
        elapsed = time.monotonic() - self._began
        return {name: (after - self._before[name]) / elapsed for name, after in self._cpu_seconds().items()}

    def _cpu_seconds(self) -> dict[str, float]:
        return {name: cpu_seconds(pid) for name, pid in self._pids.items()}
