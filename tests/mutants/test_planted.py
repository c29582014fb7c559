"""The planted bugs that README.md names exist."""

import re
from pathlib import Path

from mutants.planting import load_mutants

HERE = Path(__file__).parent


def test_every_bug_that_the_readme_names_is_planted() -> None:
    rows = [line.split("|") for line in (HERE / "README.md").read_text().splitlines() if line.startswith("|")]
    named = {row[1].strip(): re.findall(r"`([a-z0-9-]+)`", row[2]) for row in rows[2:]}
    assert len(named) > 20
    assert all(named.values())
    planted = {mutant.name for mutant in load_mutants(HERE / "planted")}
    assert {name for names in named.values() for name in names} - planted == set()
