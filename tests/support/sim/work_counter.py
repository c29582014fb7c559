"""Counts the work of a function instead of its time. The count is the same on every machine."""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, NamedTuple


class Work(NamedTuple):
    calls: int
    """Calls of functions, Python's and C's alike."""
    lines: int
    """Lines of Python; each turn of a loop or comprehension counts."""


def work_of(function: Callable[[], object]) -> Work:
    """Run a function and return the work that it did."""
    calls = lines = 0

    def profile(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal lines
        lines += event == "line"
        return trace

    before = sys.gettrace(), sys.getprofile()
    sys.setprofile(profile)
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before[0])
        sys.setprofile(before[1])
    return Work(calls, lines)
