"""The ICE credentials of a call: one generation from the offer, another from each ICE restart (RFC 8445 §9)."""

from base64 import b64encode
from collections.abc import Callable
from typing import NamedTuple

from antiphon_common.control import IceParameters

MAX_GENERATIONS = 4
"""A client in the middle of a restart uses two; restarts that overtake each other need a few more."""


class Generation(NamedTuple):
    """Both sides' credentials, ready for the wire. `username` is that of our requests: the peer's ufrag comes first
    (RFC 8445 §7.2.2)."""

    local: IceParameters
    remote: IceParameters
    password: bytes
    remote_password: bytes
    username: bytes

    @classmethod
    def of(cls, local: IceParameters, remote: IceParameters) -> "Generation":
        username = f"{remote.ufrag}:{local.ufrag}".encode()
        return cls(local, remote, local.password.encode(), remote.password.encode(), username)


class Credentials:
    """Generations by our ufrag, oldest first; the oldest makes room."""

    def __init__(self, local: IceParameters, remote: IceParameters) -> None:
        self._generations: dict[bytes, Generation] = {}
        self._newest = Generation.of(local, remote)
        self._store()

    def find(self, username: bytes) -> Generation | None:
        """Return the generation that a request's USERNAME names."""
        ufrag, colon, _ = username.partition(b":")
        return self._generations.get(ufrag) if colon else None

    def add_local(self, local: IceParameters) -> IceParameters | None:
        """Begin a generation, until `set_remote` with the peer's present credentials; return ours of the one that
        made room."""
        self._newest = Generation.of(local, self._newest.remote)
        self._store()
        if len(self._generations) <= MAX_GENERATIONS:
            return None
        return self._generations.pop(next(iter(self._generations))).local

    def set_remote(self, remote: IceParameters) -> None:
        """Set the peer's credentials of the newest generation."""
        self._newest = Generation.of(self._newest.local, remote)
        self._store()

    def _store(self) -> None:
        self._generations[self._newest.local.ufrag.encode()] = self._newest


def ice_ufrag(random: Callable[[int], bytes]) -> str:
    """Make a username fragment that routes nothing: 8 ice-chars, 48 random bits (RFC 8445 §5.3 asks for 24)."""
    return b64encode(random(6)).decode()


def ice_password(random: Callable[[int], bytes]) -> str:
    """Make a password: 24 ice-chars, 144 random bits (RFC 8445 §5.3 asks for 128)."""
    return b64encode(random(18)).decode()
