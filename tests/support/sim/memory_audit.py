"""Finds every container that is reachable from some cores, so that the bound of no queue or table goes unchecked."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

_CONTAINERS = (list, deque, dict, set, frozenset)
_ATOMS = frozenset((int, float, bool, str, bytes, bytearray, type(None), range, type))


class HeldContainer(NamedTuple):
    """A container, with the class and the attribute that hold it."""

    owner: str
    attribute: str
    container: Any


class MemoryAudit:
    """All containers reachable from `roots` through attributes of this project's objects and through containers.

    The search runs in the constructor; read `containers` and `objects`.
    """

    def __init__(self, roots: Iterable[object]) -> None:
        self.containers: list[HeldContainer] = []
        self.objects: dict[str, int] = {}
        """Number of instances by the name of their class."""
        self._seen: set[int] = set()
        self._waiting: list[object] = list(roots)
        while self._waiting:
            self._visit(self._waiting.pop())

    @property
    def largest(self) -> int:
        """The number of elements in the largest container."""
        return max((len(held.container) for held in self.containers), default=0)

    def _visit(self, found: object) -> None:
        if type(found) in _ATOMS or id(found) in self._seen:
            return
        self._seen.add(id(found))
        if isinstance(found, tuple) and not hasattr(found, "_fields"):
            self._waiting.extend(found)
            return
        if not type(found).__module__.startswith("antiphon"):
            return
        name = type(found).__name__
        self.objects[name] = self.objects.get(name, 0) + 1
        if isinstance(found, tuple):
            self._waiting.extend(found)
            return
        for attribute, value in _attributes(found):
            if isinstance(value, _CONTAINERS):
                self._contain(name, attribute, value)
            else:
                self._waiting.append(value)

    def _contain(self, owner: str, attribute: str, container: Any) -> None:
        if id(container) in self._seen:
            return
        self._seen.add(id(container))
        self.containers.append(HeldContainer(owner, attribute, container))
        parts = (*container, *container.values()) if isinstance(container, dict) else container
        for part in parts:
            if isinstance(part, _CONTAINERS):
                self._contain(owner, f"{attribute}[]", part)
            elif type(part) not in _ATOMS:
                self._waiting.append(part)


def _attributes(found: object) -> Iterator[tuple[str, Any]]:
    yield from getattr(found, "__dict__", {}).items()
    for name in _slots(type(found)):
        if hasattr(found, name):
            yield name, getattr(found, name)


def _slots(kind: type) -> tuple[str, ...]:
    """Return every slot of a class and its bases. Fields of a Struct are slots too."""
    known = _known_slots.get(kind)
    if known is None:
        names = list(getattr(kind, "__struct_fields__", ()))
        for base in kind.__mro__:
            slots = base.__dict__.get("__slots__", ())
            names += [slots] if isinstance(slots, str) else list(slots)
        known = _known_slots[kind] = tuple(name for name in names if not name.startswith("__"))
    return known


_known_slots: dict[type, tuple[str, ...]] = {}
