"""The search finds planted faults with the tries that it has in CI, and finds nothing without them."""

import subprocess
import sys
from pathlib import Path

import pytest

from cost.planted import FAULTS

TESTS = Path(__file__).parents[1]
PACKAGES = TESTS.parent / "packages"


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "cost", "--no-save", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=TESTS, check=False, timeout=240)


@pytest.mark.parametrize("name", FAULTS)
def test_the_search_finds_a_planted_fault(name: str) -> None:
    found = run("--planted", name, FAULTS[name].target)
    assert found.returncode == 1, found.stdout + found.stderr
    assert "OVER BOUND" in found.stdout


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_fits_its_source(name: str) -> None:
    sources = [file.read_text() for file in PACKAGES.glob("*/src/**/*.py")]
    assert sum(source.count(FAULTS[name].patch.find) for source in sources) == 1


def test_the_same_seed_finds_the_same() -> None:
    first, second = run("rtcp", "--tries", "20"), run("rtcp", "--tries", "20")
    assert first.returncode == 0, first.stdout + first.stderr
    assert first.stdout == second.stdout
