"""The parameters of a peer, and the state cookie that returns them to us (RFC 9260 §5.1.3)."""

import hmac
from struct import Struct

import msgspec

from antiphon_common.errors import DecodeError
from antiphon_transceiver.sctp.chunks import ChunkType, Init
from antiphon_transceiver.sctp.parameters import Parameter, ParameterType

SECRET_SIZE = 32
COOKIE_LIFETIME = 60.0
"""Seconds (Valid.Cookie.Life of RFC 9260 §16)."""

_TAG_SIZE = 16
_BODY = Struct("!dIIHHI??")

EXTENSIONS = (
    Parameter(ParameterType.SUPPORTED_EXTENSIONS, bytes((ChunkType.RECONFIG, ChunkType.FORWARD_TSN))),
    Parameter(ParameterType.FORWARD_TSN_SUPPORTED, b""),
)
"""The extensions announced in our INIT and INIT ACK."""


class PeerParameters(msgspec.Struct, frozen=True):
    """The parameters in the INIT or INIT ACK of a peer. `forward_tsn` and `reconfig` are supported extensions.

    `Lifecycle` keeps them, and `DataTransfer` begins with them.
    """

    tag: int
    a_rwnd: int
    outbound_streams: int
    inbound_streams: int
    initial_tsn: int
    forward_tsn: bool
    reconfig: bool

    @classmethod
    def of(cls, init: Init) -> "PeerParameters":
        """Return the parameters in an INIT or INIT ACK."""
        extensions = init.parameter(ParameterType.SUPPORTED_EXTENSIONS) or b""
        return cls(
            init.tag,
            init.a_rwnd,
            init.outbound_streams,
            init.inbound_streams,
            init.initial_tsn,
            init.parameter(ParameterType.FORWARD_TSN_SUPPORTED) is not None or ChunkType.FORWARD_TSN in extensions,
            ChunkType.RECONFIG in extensions,
        )


class StaleCookieError(DecodeError):
    """A state cookie of ours is older than `COOKIE_LIFETIME`. It is answered with an ERROR (RFC 9260 §5.2.6)."""


class CookieJar:
    """Makes and reads state cookies. They are authenticated, so no state is kept for them.

    `make` one for each INIT, and `read` the one in a COOKIE ECHO.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def make(self, peer: PeerParameters, now: float) -> bytes:
        """Return a cookie with the peer's parameters (RFC 9260 §5.1.3)."""
        body = _BODY.pack(
            now,
            peer.tag,
            peer.a_rwnd,
            peer.outbound_streams,
            peer.inbound_streams,
            peer.initial_tsn,
            peer.forward_tsn,
            peer.reconfig,
        )
        return self._authenticate(body) + body

    def read(self, cookie: bytes, now: float) -> PeerParameters:
        """Return the peer's parameters in a cookie of ours.

        Raises:
            DecodeError: The cookie is not ours.
            StaleCookieError: The cookie is too old.
        """
        tag, body = cookie[:_TAG_SIZE], cookie[_TAG_SIZE:]
        if len(body) != _BODY.size or not hmac.compare_digest(tag, self._authenticate(body)):
            raise DecodeError("a cookie that is not ours")
        made_at, *fields = _BODY.unpack(body)
        if now - made_at > COOKIE_LIFETIME:
            raise StaleCookieError("a cookie too old")
        return PeerParameters(*fields)

    def _authenticate(self, body: bytes) -> bytes:
        return hmac.digest(self._secret, body, "sha256")[:_TAG_SIZE]
