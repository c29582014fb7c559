"""Speech of a stream with losses, compared with aiortc's receiver on the same packets. `nox -s quality` measures it in
detail."""

from functools import cache, partial
from statistics import mean

import numpy as np
import pytest

from support.audio.listeners import Receiver, aiortc, antiphon
from support.audio.lossy_speech import Condition, carry, encode, load_speech

SEEDS = range(1, 6)


@cache
def packets_for(loss: float) -> list[bytes]:
    return encode(load_speech(), loss)


def likeness(listener: Receiver, condition: Condition) -> float:
    """Return the mean correlation, over the networks of all seeds, of the output with that of a lossless network."""
    packets = packets_for(condition.loss)
    whole = listener(packets, carry(packets, Condition(0), 0)).sound
    every = (listener(packets, carry(packets, condition, seed)).sound for seed in SEEDS)
    return mean(float(np.dot(whole, heard) / (np.linalg.norm(whole) * np.linalg.norm(heard))) for heard in every)


@pytest.mark.parametrize(
    ("offsets", "bursts", "few"),
    [((), False, 0.03), ((1,), False, 0.03), ((1,), True, 0.05)],
    ids=["random-fec", "random-red", "bursts-red"],
)
def test_fifteen_percent_loss_degrades_speech_less_than_small_losses_do_in_aiortc(
    offsets: tuple[int, ...], bursts: bool, few: float
) -> None:
    """The correlation of 15 % in bursts is close to that of aiortc's 3 %. STOI, in `nox -s quality`, shows more."""
    print("seeds", SEEDS)
    ours = likeness(partial(antiphon, offsets=offsets), Condition(0.15, bursts))
    theirs = likeness(aiortc, Condition(few, bursts))
    print(f"correlation {ours:.3f}; aiortc, with {few:.0%} of losses, {theirs:.3f}")
    assert ours > theirs
