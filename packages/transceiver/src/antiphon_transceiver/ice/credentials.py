"""The ICE credentials of a call: one generation from the offer, another from each ICE restart (RFC 8445 §9)."""

from base64 import b64encode
from collections.abc import Callable
from typing import NamedTuple

from antiphon_common.control import IceParameters

MAX_GENERATIONS = 4
"""A client in the middle of a restart uses two; restarts that overtake each other need a few more."""


class Generation(NamedTuple):
    """Both sides' credentials of one ICE generation, encoded. `username` is that of our requests, which begins with the
    peer's ufrag (RFC 8445 §7.2.2)."""

    local: IceParameters
    remote: IceParameters
    password: bytes
    remote_password: bytes
    username: bytes

    @classmethod
    def of(cls, local: IceParameters, remote: IceParameters) -> "Generation":
        username = f"{remote.ufrag}:{local.ufrag}".encode()
        return cls(local, remote, local.password.encode(), remote.password.encode(), username)


class IceCredentials:
    """The generations of a call by our ufrag, oldest first. Look one up with `find`; the oldest makes room."""

    def __init__(self, local: IceParameters, remote: IceParameters) -> None:
        self._generations: dict[bytes, Generation] = {}
        self._store(Generation.of(local, remote))

    def find(self, username: bytes) -> Generation | None:
        """Return the generation that a request's USERNAME names, or None."""
        ufrag, colon, _ = username.partition(b":")
        return self._generations.get(ufrag) if colon else None

    def add(self, local: IceParameters, remote: IceParameters) -> IceParameters | None:
        """Add a generation; return our credentials of the oldest one, if it made room."""
        self._store(Generation.of(local, remote))
        if len(self._generations) <= MAX_GENERATIONS:
            return None
        return self._generations.pop(next(iter(self._generations))).local

    def _store(self, generation: Generation) -> None:
        self._generations[generation.local.ufrag.encode()] = generation


def ice_ufrag(random: Callable[[int], bytes]) -> str:
    """Make a username fragment that routes nothing: 8 ice-chars, 48 random bits (RFC 8445 §5.3 asks for 24)."""
    return b64encode(random(6)).decode()


def ice_password(random: Callable[[int], bytes]) -> str:
    """Make a password: 24 ice-chars, 144 random bits (RFC 8445 §5.3 asks for 128)."""
    return b64encode(random(18)).decode()
