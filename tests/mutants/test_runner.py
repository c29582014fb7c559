"""`python -m mutants` in a small tree: what it reports, and when it fails."""

import json
from pathlib import Path

import pytest

from mutants.__main__ import main

SOURCE = """
def largest(a: int, b: int) -> int:
    return a if a > b else b

def smallest(a: int, b: int) -> int:
    return a if a < b else b

def count(n: int) -> int:
    steps = 0
    while n > 0:
        n -= 1
        steps += 1
    return steps
"""
TESTS = """
import subprocess, sys
import numbers_of_test as numbers

def test_largest():
    assert numbers.largest(2, 1) == 2

def test_largest_in_a_child_process():
    command = [sys.executable, "-c", "import numbers_of_test as n; print(n.largest(2, 1))"]
    assert subprocess.check_output(command) == b"2\\n"

def test_count():
    assert numbers.count(3) == 3
"""


class Tree:
    """A repository with one package of one module, its tests, and mutants."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("packages/small/src/numbers_of_test.py", SOURCE)
        self.write("tests/test_numbers.py", TESTS)
        self.write("pyproject.toml", "[tool.pytest.ini_options]\naddopts = '-ra'\n")
        self.mutants: list[str] = []

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def plant(self, name: str, find: str, replace: str, test: str = "tests/test_numbers.py") -> None:
        fields = {"name": name, "bug": "Somebody was tired.", "find": find, "replace": replace, "tests": [test]}
        self.mutants.append("\n".join(["[[mutant]]", *(f"{key} = {json.dumps(fields[key])}" for key in fields)]))
        self.write("tests/mutants/planted/small.toml", "\n".join(self.mutants))

    def run(self, *arguments: str) -> int:
        return main(arguments, self.root)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_a_bug_that_a_test_notices_is_no_failure(tree: Tree, capsys: pytest.CaptureFixture[str]) -> None:
    tree.plant("reversed", "a > b", "a < b", "tests/test_numbers.py::test_largest")
    assert tree.run() == 0
    printed = capsys.readouterr().out
    assert "small reversed: noticed by tests/test_numbers.py::test_largest," in printed
    assert "1 bugs planted, 0 lived" in printed
    assert "a > b" in (tree.root / "packages/small/src/numbers_of_test.py").read_text()


def test_a_bug_is_planted_in_child_processes_too(tree: Tree) -> None:
    tree.plant("reversed", "a > b", "a < b", "tests/test_numbers.py::test_largest_in_a_child_process")
    assert tree.run() == 0


def test_a_bug_that_lives_fails_and_is_named_with_its_place(tree: Tree, capsys: pytest.CaptureFixture[str]) -> None:
    tree.plant("unnoticed", "a < b", "a > b")
    tree.plant("reversed", "a > b", "a < b")
    assert tree.run() == 1
    printed = capsys.readouterr().out
    assert "--- unnoticed lives: Somebody was tired.\n    packages/small/src/numbers_of_test.py:6\n" in printed
    assert "2 bugs planted, 1 lived" in printed


def test_each_bug_is_planted_alone_though_their_lengths_are_equal(tree: Tree) -> None:
    """Python reuses bytecode of a source of the same size and second, and a stale one would hide the second bug."""
    tree.plant("reversed", "a > b", "a < b", "tests/test_numbers.py::test_largest")
    tree.plant("unnoticed", "a < b", "a > b", "tests/test_numbers.py::test_largest")
    assert tree.run("reversed") == 0
    assert tree.run("unnoticed") == 1


@pytest.mark.parametrize("find", ["no such text", "return a if"], ids=["nowhere", "twice"])
def test_a_bug_that_does_not_fit_exactly_once_fails(tree: Tree, capsys: pytest.CaptureFixture[str], find: str) -> None:
    tree.plant("misfit", find, "return b if")
    assert tree.run() == 1
    assert tree.run("--check") == 1
    printed = capsys.readouterr().out
    assert "MISFIT misfit: its text occurs" in printed
    assert "planted" not in printed


@pytest.mark.parametrize("replace", ["a > b", "a >"], ids=["no change", "no Python"])
def test_a_bug_that_is_none_fails(tree: Tree, replace: str) -> None:
    tree.plant("misfit", "a > b", replace)
    assert tree.run("--check") == 1


def test_the_same_bug_twice_fails(tree: Tree, capsys: pytest.CaptureFixture[str]) -> None:
    tree.plant("reversed", "a > b", "a < b")
    tree.plant("turned", "a if a > b", "a if a < b")
    assert tree.run("--check") == 1
    assert "MISFIT turned: it is the same as reversed" in capsys.readouterr().out


def test_two_bugs_of_one_name_fail(tree: Tree) -> None:
    tree.plant("reversed", "a > b", "a < b")
    tree.plant("reversed", "a > b", "a >= b")
    assert tree.run("--check") == 1


@pytest.mark.parametrize("test", ["tests/test_none.py", "tests/test_numbers.py::test_none"])
def test_a_test_that_does_not_exist_fails(tree: Tree, test: str) -> None:
    tree.plant("reversed", "a > b", "a < b", test)
    assert tree.run("--check") == 1
    assert tree.run() == 1


def test_a_test_that_fails_without_a_bug_fails(tree: Tree, capsys: pytest.CaptureFixture[str]) -> None:
    tree.write("tests/test_broken.py", "def test_broken():\n    assert False\n")
    tree.plant("reversed", "a > b", "a < b", "tests/test_broken.py")
    assert tree.run() == 1
    assert "tests/test_broken.py fails without a bug" in capsys.readouterr().out


def test_a_module_that_does_not_import_proves_nothing(tree: Tree) -> None:
    tree.plant("unimportable", "def largest", "raise ImportError\ndef largest")
    assert tree.run() == 1


def test_a_bug_that_makes_tests_hang_is_noticed(
    tree: Tree, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mutants.__main__.FIXED_LIMIT", 1.0)
    tree.plant("endless", "n -= 1", "n -= 0", "tests/test_numbers.py::test_count")
    assert tree.run() == 0
    assert "endless: noticed by the time limit of" in capsys.readouterr().out


def test_a_sample_is_drawn_by_the_seed_that_it_prints(tree: Tree, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(9):
        tree.plant(f"reversed-{number}", "a > b", f"a < b + {number}")

    def drawn(*arguments: str) -> str:
        assert tree.run("--list", "--sample", "3", *arguments) == 0
        return capsys.readouterr().out

    first = drawn()
    assert len(first.splitlines()) == 4
    seed = first.splitlines()[0].split()[-1]
    assert drawn("--seed", seed) == first
    assert len({drawn("--seed", str(seed)) for seed in range(5)}) > 1


def test_a_name_or_an_area_restricts_the_choice(tree: Tree, capsys: pytest.CaptureFixture[str]) -> None:
    tree.plant("reversed", "a > b", "a < b")
    tree.plant("equal", "a > b", "a == b")
    tree.write("tests/mutants/planted/other.toml", tree.mutants[0].replace("reversed", "another"))
    tree.run("--list", "--area", "small", "equal")
    assert capsys.readouterr().out.split() == ["small", "equal:", "Somebody", "was", "tired."]
    with pytest.raises(SystemExit, match="unknown: absent"):
        tree.run("--list", "absent")
