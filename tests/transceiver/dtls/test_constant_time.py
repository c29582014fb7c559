"""Finished is compared in constant time."""

import pytest

from support.fakes.comparisons import record_comparisons
from support.peers.dtls_pair import make_peers

VERIFY_DATA_SIZE = 12


def test_finished_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = record_comparisons(monkeypatch)
    make_peers().shake_hands()
    finished = [pair for pair in compared if len(pair[0]) == VERIFY_DATA_SIZE]
    assert len(finished) == 2
    assert all(received == expected for received, expected in finished)
