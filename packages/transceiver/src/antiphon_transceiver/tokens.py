"""The route tokens of one transceiver: ICE credentials whose ufrag leads relays to it."""

from collections.abc import Callable, Container

from antiphon_common.control import IceParameters
from antiphon_common.errors import DecodeError
from antiphon_common.routing import Owner, RouteToken, RouteTokens
from antiphon_transceiver.ice import ice_password

MAX_NONCE = 0xFFFFFFFF
"""The nonce of a route token has 32 bits."""


class OwnTokens:
    """The route tokens of `owner`. `mint` credentials for its calls; `made` recognizes its tokens."""

    def __init__(self, owner: Owner, tokens: RouteTokens, random: Callable[[int], bytes]) -> None:
        self.owner = owner
        self._tokens = tokens
        self._random = random

    def mint(self, taken: Container[bytes], unix_now: float) -> IceParameters:
        """Return new credentials whose ufrag is not among those `taken`.

        Tokens of different nonces differ, so the search takes at most one step more than there are ufrags.
        """
        token = RouteToken(*self.owner, int.from_bytes(self._random(4), "big"))
        while (ufrag := self._tokens.mint(token, unix_now)).encode() in taken:
            token = token._replace(nonce=token.nonce + 1 & MAX_NONCE)
        return IceParameters(ufrag, ice_password(self._random))

    def made(self, ufrag: bytes, unix_now: float) -> bool:
        """Whether a ufrag is a token that names this transceiver, even if its call has ended."""
        try:
            token = self._tokens.read(ufrag, unix_now)
        except DecodeError:
            return False
        return token.owner == self.owner
