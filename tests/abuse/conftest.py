"""One battlefield for all floods; its table is printed at the end."""

from collections.abc import Iterator

import pytest

from support.battle import HEADING
from support.battlefield import TRANSCEIVERS, Battlefield
from support.processes import apart


@pytest.fixture(scope="session")
def field(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Battlefield]:
    with apart(audio="opus", transceivers=TRANSCEIVERS, capacity=200) as deployment:
        field = Battlefield(deployment, tmp_path_factory.mktemp("flood"))
        try:
            yield field
        finally:
            field.close()
        print(f"\n\nThe relay sustains {field.sustained:,.0f} packets a second.\n{HEADING}")
        print("\n".join(field.table))
