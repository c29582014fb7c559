"""Planted bugs: how they are written down, and how one gets into a copy of the sources.

Each file of a folder `planted` is an area, with one table for each mutant:

    [[mutant]]
    name = "short-kebab-name"
    bug = "One sentence: what a tired engineer did."
    find = '''text that occurs exactly once in the sources of all packages'''
    replace = '''the text with the bug'''
    tests = ["tests/relay/test_cache.py"]  # files or node ids: at least one test must fail

No mutant names a file of the sources, so that it survives when code moves.
"""

import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec


class Mutant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    bug: str
    find: str
    replace: str
    tests: tuple[str, ...]
    area: str = ""
    """Name of the file that lists it, without its suffix."""


class Area(msgspec.Struct, forbid_unknown_fields=True):
    mutant: list[Mutant]


class Misfit(Exception):
    """A mutant that cannot be planted, and why."""


def load_mutants(folder: Path) -> list[Mutant]:
    """Read every area of a folder, sorted by area."""
    mutants: list[Mutant] = []
    for file in sorted(folder.glob("*.toml")):
        area = msgspec.toml.decode(file.read_bytes(), type=Area)
        mutants += [msgspec.structs.replace(mutant, area=file.stem) for mutant in area.mutant]
    return mutants


class Sources:
    """A copy of the sources of all packages in one folder, which goes first into PYTHONPATH."""

    def __init__(self, root: Path, folder: Path) -> None:
        for source in sorted(root.glob("packages/*/src")):
            shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        self.folder = folder
        self._texts = dict(read_texts(folder))
        self._paths = {
            file.relative_to(source): file.relative_to(root)
            for source in root.glob("packages/*/src")
            for file in source.rglob("*")
        }
        self._changes = 0

    def locate(self, mutant: Mutant) -> tuple[Path, int]:
        """Return the file in the copy that a mutant changes, and the offset of the change.

        Raises:
            Misfit: the text is not there, or more than once, or the mutant changes nothing.
        """
        found = [file for file, text in self._texts.items() for _ in range(text.count(mutant.find))]
        if len(found) != 1:
            where = "".join(f"\n    {self._paths[file.relative_to(self.folder)]}" for file in found)
            raise Misfit(f"its text occurs {len(found)} times in the sources, not once{where}")
        if mutant.find == mutant.replace:
            raise Misfit("it changes nothing")
        return found[0], self._texts[found[0]].index(mutant.find)

    def place(self, mutant: Mutant) -> str:
        """Return file and line of a mutant, as an editor takes them."""
        file, offset = self.locate(mutant)
        return f"{self._paths[file.relative_to(self.folder)]}:{self._texts[file].count(chr(10), 0, offset) + 1}"

    def check(self, mutant: Mutant) -> tuple[Path, int]:
        """Return the changed file and a hash of it. Raises Misfit unless a mutant fits exactly once and its result
        compiles."""
        file, _ = self.locate(mutant)
        left = self._mutated(file, mutant)
        if file.suffix == ".py":
            try:
                compile(left, str(file), "exec")
            except SyntaxError as error:
                raise Misfit(f"what it leaves does not compile: {error}") from error
        return file, hash(left)

    @contextmanager
    def planted(self, mutant: Mutant) -> Iterator[None]:
        """Plant a mutant into the copy for the length of the block."""
        file, _ = self.locate(mutant)
        self._write(file, self._mutated(file, mutant))
        try:
            yield
        finally:
            self._write(file, self._texts[file])

    def _mutated(self, file: Path, mutant: Mutant) -> str:
        return self._texts[file].replace(mutant.find, mutant.replace)

    def _write(self, file: Path, text: str) -> None:
        """Write a file with a modification time of its own: Python trusts bytecode by size and seconds alone."""
        file.write_text(text)
        self._changes += 1
        os.utime(file, (self._changes, self._changes))


def read_texts(folder: Path) -> Iterator[tuple[Path, str]]:
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            try:
                yield file, file.read_text()
            except UnicodeDecodeError:
                continue


def find_misfits(mutants: Iterable[Mutant], sources: Sources, root: Path) -> dict[str, str]:
    """Return the names of mutants that cannot be planted, each with the reason."""
    mutants = list(mutants)
    misfits = {name: "another mutant has its name" for name, n in Counter(m.name for m in mutants).items() if n > 1}
    left: dict[tuple[Path, int], str] = {}
    for mutant in mutants:
        try:
            first = left.setdefault(sources.check(mutant), mutant.name)
            if first != mutant.name:
                raise Misfit(f"it is the same as {first}")
        except Misfit as misfit:
            misfits[mutant.name] = str(misfit)
        missing = [test for test in mutant.tests if not (root / test.partition("::")[0]).exists()]
        if missing or not mutant.tests:
            misfits[mutant.name] = f"no such test: {', '.join(missing) or 'it names none'}"
    return misfits
