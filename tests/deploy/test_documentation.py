"""Documentation that names files names those that exist, and its links lead somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page
    for page in ROOT.rglob("*.md")
    if not any(part.startswith(".") or part == "node_modules" for part in page.relative_to(ROOT).parts)
)
FILE = re.compile(r"`((?:packages|tests|benchmarks|deploy|docs|examples)/[\w./-]+\.\w+)`")
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_and_links_of_a_page_exist(page: Path) -> None:
    text = page.read_text()
    named = [ROOT / name for name in FILE.findall(text)]
    linked = [page.parent / target for target in LINK.findall(text)]
    assert [str(file) for file in [*named, *linked] if not file.exists()] == []


def test_the_walks_of_the_architecture_name_their_files() -> None:
    walks = (ROOT / "docs/architecture.md").read_text().split("\n## Walk ")[1:]
    assert len(walks) == 4
    for walk in walks:
        assert len(set(FILE.findall(walk))) >= 8, walk.splitlines()[0]
