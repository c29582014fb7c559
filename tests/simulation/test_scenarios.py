"""Whole calls by seed: nothing goes wrong in them, the same seed gives the same bytes, and a bug would be found."""

import base64
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from antiphon_common.errors import DecodeError
from antiphon_common.formats import TICKS_PER_MS
from antiphon_common.ownership import OwnershipTable
from antiphon_common.routing import TOKEN_SIZE, RouteToken, RouteTokens
from antiphon_common.sequence import ReplayWindow
from antiphon_transceiver.audio import jitter
from antiphon_transceiver.backends import BackendCall
from support.scenario import Outcome, simulate

SEEDS = range(1, 13)
MOST_SIMULATIONS = 40
"""In which a planted bug must be found."""

ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

Plant = Callable[[pytest.MonkeyPatch], None]


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_goes_wrong(seed: int) -> None:
    assert simulate(seed).problem == ""


def test_a_seed_gives_the_same_bytes_in_every_process() -> None:
    """Also where Python hashes differently."""
    script = "from support.scenario import simulate; print([simulate(seed).digest for seed in (3, 4)])"
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    runs = [
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": hash_seed},
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert runs[0] == runs[1] == f"{[simulate(seed).digest for seed in (3, 4)]}\n".encode()
    assert simulate(3).digest != simulate(4).digest


def forget_replays(patch: pytest.MonkeyPatch) -> None:
    """The replay window finds every packet new."""
    patch.setattr(ReplayWindow, "check", lambda self, index: True)


def trust_tokens(patch: pytest.MonkeyPatch) -> None:
    """Route tokens are read without their check."""

    def read(self: RouteTokens, ufrag: bytes, unix_now: float) -> RouteToken:
        key = self._keys.accepting(ALPHABET.find(ufrag[:1]), unix_now)
        if key is None or len(ufrag) != TOKEN_SIZE:
            raise DecodeError("no key of this id")
        block = self._opener(key).update(base64.b64decode(ufrag[1:] + b"=="))
        return RouteToken(*struct.unpack("!HIHI4x", block))

    patch.setattr(RouteTokens, "read", read)


def give_paths_away(patch: pytest.MonkeyPatch) -> None:
    """Whoever answers on a path has it, confirmed for another or not."""
    patch.setattr(OwnershipTable, "may_answer", lambda self, key, owner, now: True)


def release_unordered(patch: pytest.MonkeyPatch) -> None:
    """The jitter buffer puts a packet that was overtaken behind those that overtook it."""
    patch.setattr(jitter, "insort", list.append)


def grant_twice(patch: pytest.MonkeyPatch) -> None:
    """Backends get back twice the credit that was played."""

    def give_back(self: BackendCall, ticks: int) -> None:
        original(self, ticks)
        if ticks >= 100 * TICKS_PER_MS:
            original(self, ticks)

    original = BackendCall._give_back
    patch.setattr(BackendCall, "_give_back", give_back)


@pytest.mark.parametrize(
    ("plant", "found"),
    [
        (forget_replays, "taken twice|out of order"),
        (trust_tokens, "token that nobody made"),
        (give_paths_away, "gave|packets heard"),
        (release_unordered, "after"),
        (grant_twice, "overrun|wait to be played"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_planted_bug_is_found(plant: Plant, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    failure = first_failure()
    assert failure is not None, f"{MOST_SIMULATIONS} simulations found nothing"
    print(f"\n{plant.__name__}: seed {failure.seed}: {failure.problem}", end="")
    assert any(word in failure.problem for word in found.split("|"))


def first_failure() -> Outcome | None:
    outcomes = (simulate(seed) for seed in range(1, MOST_SIMULATIONS + 1))
    return next((outcome for outcome in outcomes if outcome.problem), None)
