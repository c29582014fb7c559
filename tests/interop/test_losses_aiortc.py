"""What is heard of speech where packets get lost, beside aiortc's receiver on the same packets. `nox -s quality` tells
more."""

from functools import partial
from statistics import mean

import numpy as np
import pytest

from support.listeners import Listener, aiortc, antiphon
from support.lossy_speech import Condition, carry, encode, load_speech

SEEDS = range(1, 6)


def likeness(listener: Listener, condition: Condition, seed: int) -> float:
    """Correlation of what is heard with what would be without losses."""
    packets = encode(load_speech(), condition.loss)
    whole = listener(packets, carry(packets, Condition(0), 0)).sound
    heard = listener(packets, carry(packets, condition, seed)).sound
    return float(np.dot(whole, heard) / (np.linalg.norm(whole) * np.linalg.norm(heard)))


@pytest.mark.parametrize(
    ("bursts", "red"), [(False, False), (False, True), (True, True)], ids=["random-fec", "random-red", "bursts-red"]
)
def test_fifteen_percent_of_losses_do_less_than_three_do_to_aiortc(bursts: bool, red: bool) -> None:
    """In-band FEC alone reaches back by one packet, which is too little for bursts of three."""
    print("seeds", SEEDS)
    ours = mean(likeness(partial(antiphon, red=red), Condition(0.15, bursts), seed) for seed in SEEDS)
    theirs = mean(likeness(aiortc, Condition(0.03, bursts), seed) for seed in SEEDS)
    print(f"correlation {ours:.3f}; aiortc, with a fifth of the losses, {theirs:.3f}")
    assert ours > theirs
