"""Searches the input with the largest share of its bound: hill climbing with restarts, guided by cost.

Each input is tried in a fork of the process that prepared the core, so that each finds the same state. Nothing depends
on time: the same seed and number of tries give the same inputs and costs.
"""

import gc
import os
import pickle
import sys
import traceback
import tracemalloc
from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple

from antiphon_common.errors import AntiphonError
from cost import work
from cost.bounds import Bound
from cost.grammars import Grammar, Whole
from cost.mutation import Mutator

POPULATION = 12
"""Number of inputs kept for one state: those with the largest shares of their bounds."""

RESTART = 0.15
"""Share of tries that begin with a seed, not with an expensive input, to leave local maxima."""

ENDLESS = 4
"""Multiple of its bound at which the measurement of an input is stopped."""

EFFORT = 10_000_000
"""Units after which the search of one state ends, so that long inputs do not take all the time."""

MAX_DATAGRAM = 1200
"""Bytes of the content of a datagram."""


class Ready(NamedTuple):
    """A core in a state, with seeds and a grammar of inputs. `receive` processes one input completely."""

    receive: Callable[[bytes], object]
    seeds: Sequence[bytes]
    grammar: Grammar = Whole()
    limit: int = MAX_DATAGRAM
    numbers: Sequence[int] = ()
    """Numbers with a meaning in this state, such as a TSN."""
    stateless: bool = False
    """Whether inputs change no state, so that no fork is needed."""
    memory: bool = False
    """Whether memory counts, too."""
    wrap: Callable[[bytes], bytes] = bytes
    """Signs or encrypts an input as its sender does. It is not measured."""


class InputCost(NamedTuple):
    """The cost of one input, absolute and as shares of its bounds."""

    data: bytes
    units: int
    memory: int
    ratio: float
    """The larger of both shares of a bound; more than 1 is a failure."""
    failure: str | None = None
    """The exception raised, if any."""


class Search:
    """The search on one state."""

    def __init__(self, ready: Ready, bound: Bound, seed: int, corpus: Sequence[bytes] = ()) -> None:
        self.tried = 0
        self.effort = 0
        self._ready = ready
        self._bound = bound
        self._random = Random(seed)
        self._mutator = Mutator(ready.grammar, ready.limit, ready.numbers, self._random)
        self._seen: set[bytes] = set()
        self.population: list[InputCost] = []
        if ready.stateless:  # values that are made once and kept are not part of an input's cost
            for data in ready.seeds:
                measure_here(ready, data[: ready.limit], _WARMING)
        gc.collect()
        gc.freeze()
        for data in (*corpus, *ready.seeds):
            self._try(data[: ready.limit])

    @property
    def most_expensive(self) -> InputCost:
        return self.population[0]

    def climb(self, tries: int) -> None:
        """Try some more inputs; stop at one that exceeds its bound, and after `EFFORT`."""
        for _ in range(tries):
            if self.most_expensive.ratio > 1.0 or self.effort > EFFORT:
                return
            self.step()

    def step(self) -> None:
        """Try one more input."""
        random = self._random
        if random.random() < RESTART:
            parent = random.choice(self._ready.seeds)
        else:
            parent = self.population[min(int(random.expovariate(0.5)), len(self.population) - 1)].data
        other = random.choice((random.choice(self._ready.seeds), random.choice(self.population).data))
        self._try(self._mutator.mutate(parent, other))

    def _try(self, data: bytes) -> None:
        if data in self._seen:
            return
        self._seen.add(data)
        self.tried += 1
        price = self.measure(data)
        self.effort += price.units
        if len(self.population) < POPULATION or price.ratio > self.population[-1].ratio:
            self.population.append(price)
            self.population.sort(key=lambda kept: (-kept.ratio, len(kept.data), kept.data))
            del self.population[POPULATION:]

    def measure(self, data: bytes) -> InputCost:
        """Return the cost of one input in this state."""
        run = measure_here if self._ready.stateless else measure_in_fork
        limit = int(ENDLESS * self._bound.units(data))
        units, memory, failure = run(self._ready, data, limit)
        ratio = units / self._bound.units(data)
        if self._ready.memory:
            ratio = max(ratio, memory / self._bound.memory(data))
        return InputCost(data, units, memory, ratio if failure is None else float("inf"), failure)


_WARMING = 50_000_000
"""Units that an input may take the first time."""

Taken = tuple[int, int, str | None]


def measure_here(ready: Ready, data: bytes, limit: int) -> Taken:
    """Return the units and the bytes of memory that one input takes, and the exception raised."""
    failure = None
    try:
        wrapped = ready.wrap(data)
    except Exception as error:
        if data in ready.seeds:
            raise
        return 0, 0, None if isinstance(error, AntiphonError) else str(error)
    if ready.memory:
        tracemalloc.start()
    try:
        units = work.measure(lambda: ready.receive(wrapped), limit)
    except work.TooExpensiveError:
        units = limit
    except Exception as error:
        units, failure = work.count[0], f"{type(error).__name__}: {error}"
    memory = 0
    if ready.memory:
        memory = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return units, memory, failure


def measure_in_fork(ready: Ready, data: bytes, limit: int) -> Taken:
    """Measure one input in a child process, so that this process keeps its state."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            gc.disable()
            os.write(writing, pickle.dumps(measure_here(ready, data, limit)))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    if not answer:
        return 0, 0, "the process died"
    taken: Taken = pickle.loads(answer)
    return taken


def describe(price: InputCost, grammar: Grammar) -> str:
    """Return a description of an input's elements in one line."""
    names: dict[str, int] = {}
    for element in grammar.split(price.data):
        name = grammar.name(element)
        names[name] = names.get(name, 0) + 1
    listed = ", ".join(f"{count} x {name}" for name, count in sorted(names.items(), key=lambda one: -one[1])[:3])
    return f"{len(price.data):,} bytes: {listed}"


def is_counted() -> bool:
    """Return whether the imported sources count their work."""
    return any(
        hasattr(module, "__turn__") for name, module in list(sys.modules.items()) if name.startswith("antiphon_")
    )
