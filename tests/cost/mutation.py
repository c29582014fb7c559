"""Mutates inputs: repeats and ramps of elements, numbers at their limits, parts of other inputs."""

from collections.abc import Callable, Sequence
from random import Random

from cost.grammars import Grammar

INTERESTING = (0, 1, 2, 3, 7, 8, 15, 16, 31, 32, 63, 64, 127, 128, 255, 256, 1023, 1024, 4095, 0x7FFF, 0x8000, 0xFFFF)
"""Limits of fields, tables and counters."""

WIDTHS = (1, 2, 4)
STEPS = (1, 1, 1, 2, 2, 3, 4, 8, 16, 256, -1, -2)


class Mutator:
    """Makes inputs of at most `limit` bytes. `numbers` are those of a state, such as a TSN or a sequence number."""

    def __init__(self, grammar: Grammar, limit: int, numbers: Sequence[int], random: Random) -> None:
        self._grammar = grammar
        self._limit = limit
        self._numbers = tuple(numbers)
        self._random = random
        self._ways: tuple[Callable[[list[bytes], list[bytes]], None], ...] = (
            self._repeat,
            self._repeat,
            self._ramp,
            self._ramp,
            self._grow,
            self._grow,
            self._tweak,
            self._tweak,
            self._drop,
            self._swap,
            self._splice,
            self._cut,
            self._noise,
        )

    def mutate(self, data: bytes, other: bytes) -> bytes:
        """Return a mutation of `data`, sometimes with parts of `other`."""
        elements, others = self._grammar.split(data), self._grammar.split(other)
        for _ in range(self._random.choice((1, 1, 1, 2, 2, 3, 5))):
            if not elements:
                elements = others[:] or [b"\0" * 4]
            self._random.choice(self._ways)(elements, others)
        return self.fit(elements)

    def fit(self, elements: Sequence[bytes]) -> bytes:
        """Return as many elements as fit the limit, or the beginning of a single one that does not."""
        elements = [one[: self._limit] for one in elements]
        data = self._grammar.join(elements)
        while len(data) > self._limit and len(elements) > 1:
            surplus = len(data) - self._limit
            dropped = 0
            while surplus > 0 and len(elements) > 1:
                surplus -= max(1, len(elements.pop()))
                dropped += 1
            data = self._grammar.join(elements)
        return data[: self._limit]

    def _copies(self, size: int) -> int:
        most = max(1, self._limit // max(1, size))
        return self._random.choice((2, 8, most // 2, most, most))

    def _pick(self, elements: list[bytes]) -> int:
        return self._random.randrange(len(elements))

    def _repeat(self, elements: list[bytes], _: list[bytes]) -> None:
        """Repeat an element, or a few in a row."""
        index = self._pick(elements)
        row = elements[index : index + self._random.choice((1, 1, 1, 2, 3))]
        elements[index:index] = row * min(4096, self._copies(sum(map(len, row))))

    def _ramp(self, elements: list[bytes], _: list[bytes]) -> None:
        """Repeat an element, with numbers in it that rise or fall."""
        index = self._pick(elements)
        element = elements[index]
        fields = [self._field(element) for _ in range(self._random.choice((1, 1, 2)))]
        steps = [self._random.choice(STEPS) for _ in fields]
        copies = []
        for turn in range(min(4096, self._copies(len(element)))):
            copy = element
            for (offset, width), step in zip(fields, steps, strict=True):
                copy = _add(copy, offset, width, turn * step)
            copies.append(copy)
        elements[index : index + 1] = copies

    def _grow(self, elements: list[bytes], _: list[bytes]) -> None:
        """Repeat a span inside an element, with numbers in it that rise or fall, or as it is."""
        index = self._pick(elements)
        element = elements[index]
        if not element:
            return
        size = self._random.choice((1, 2, 4, 4, 8, 12, 16, 24, self._random.randint(1, 40)))
        end = self._random.choice((len(element), len(element), self._random.randint(0, len(element))))
        unit = element[max(0, end - size) : end]
        if not unit:
            return
        fields = [self._field(unit) for _ in range(self._random.choice((0, 1, 2)))]
        step = self._random.choice(STEPS)
        grown = []
        for turn in range(1, min(1 << 20, self._copies(len(unit))) + 1):
            copy = unit
            for offset, width in fields:
                copy = _add(copy, offset, width, turn * step)
            grown.append(copy)
        elements[index] = element[:end] + b"".join(grown) + element[end:]

    def _tweak(self, elements: list[bytes], _: list[bytes]) -> None:
        """Set a number to one at an edge, or near to what it is."""
        index = self._pick(elements)
        element = elements[index]
        if not element:
            return
        offset, width = self._field(element)
        known = self._random.choice((*INTERESTING, *self._numbers, *self._numbers, *self._numbers))
        now = int.from_bytes(element[offset : offset + width], "big")
        near = now + self._random.choice((-256, -16, -2, -1, 1, 2, 16, 256))
        value = self._random.choice(
            (known + self._random.choice((-1, 0, 0, 1, 2)), -known, near, self._random.getrandbits(32))
        )
        elements[index] = _set(element, offset, width, value)

    def _drop(self, elements: list[bytes], _: list[bytes]) -> None:
        start = self._pick(elements)
        del elements[start : start + self._random.choice((1, 1, 2, len(elements)))]

    def _swap(self, elements: list[bytes], _: list[bytes]) -> None:
        first, second = self._pick(elements), self._pick(elements)
        elements[first], elements[second] = elements[second], elements[first]

    def _splice(self, elements: list[bytes], others: list[bytes]) -> None:
        """Put elements of another input in."""
        if others:
            start, index = self._pick(others), self._pick(elements)
            elements[index:index] = others[start : start + self._random.choice((1, 2, len(others)))]

    def _cut(self, elements: list[bytes], _: list[bytes]) -> None:
        """Cut an element short."""
        index = self._pick(elements)
        element = elements[index]
        keep = self._random.choice((len(element) // 2, len(element) - 1, len(element) - 4, 12, 4))
        elements[index] = element[: max(0, keep)]

    def _noise(self, elements: list[bytes], _: list[bytes]) -> None:
        index = self._pick(elements)
        element = elements[index]
        position = self._random.randint(0, len(element))
        noise = self._random.randbytes(self._random.choice((1, 2, 4, 8)))
        cut = self._random.choice((0, len(noise)))
        elements[index] = element[:position] + noise + element[position + cut :]

    def _field(self, element: bytes) -> tuple[int, int]:
        width = self._random.choice(WIDTHS)
        offset = self._random.randrange(max(1, len(element) - width + 1))
        if self._random.random() < 0.7:
            offset -= offset % width
        return offset, width


def _set(element: bytes, offset: int, width: int, value: int) -> bytes:
    return element[:offset] + (value % (1 << 8 * width)).to_bytes(width, "big") + element[offset + width :]


def _add(element: bytes, offset: int, width: int, value: int) -> bytes:
    return _set(element, offset, width, int.from_bytes(element[offset : offset + width], "big") + value)
