"""Corrupted copies of valid packets."""

import random
from collections.abc import Iterator


def mutations(data: bytes, rng: random.Random, count: int) -> Iterator[bytes]:
    """Yield `count` copies of `data` with bits flipped, or bytes removed, inserted or replaced. None equals `data`."""
    made = 0
    while made < count:
        broken = bytearray(data)
        kind = rng.randrange(4)
        if kind == 0:
            broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del broken[rng.randrange(len(broken)) :]
        elif kind == 2:
            position = rng.randrange(len(broken) + 1)
            broken[position:position] = rng.randbytes(rng.randint(1, 8))
        else:
            for _ in range(rng.randint(1, 6)):
                broken[rng.randrange(len(broken))] = rng.randrange(256)
        if broken != data:
            made += 1
            yield bytes(broken)
