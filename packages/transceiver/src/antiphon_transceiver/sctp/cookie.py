"""What an INIT says about its sender, and the state cookie that carries it back to us (RFC 9260 §5.1.3)."""

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
"""What our INIT and INIT ACK say we can do besides RFC 9260."""


class PeerParameters(msgspec.Struct, frozen=True):
    """The other side as its INIT or INIT ACK describes it."""

    tag: int
    a_rwnd: int
    outbound_streams: int
    inbound_streams: int
    initial_tsn: int
    forward_tsn: bool
    reconfig: bool

    @classmethod
    def of(cls, init: Init) -> "PeerParameters":
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
    """A cookie of ours that is too old."""


class CookieJar:
    """Makes and reads state cookies; they are authenticated, and nothing is kept of them."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def make(self, peer: PeerParameters, now: float) -> bytes:
        """Return a cookie that holds what the peer asked for (RFC 9260 §5.1.3)."""
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
        """Return the peer that a cookie of ours describes; raise DecodeError if it is not, or too old."""
        tag, body = cookie[:_TAG_SIZE], cookie[_TAG_SIZE:]
        if len(body) != _BODY.size or not hmac.compare_digest(tag, self._authenticate(body)):
            raise DecodeError("a cookie that is not ours")
        made_at, *fields = _BODY.unpack(body)
        if now - made_at > COOKIE_LIFETIME:
            raise StaleCookieError("a cookie too old")
        return PeerParameters(*fields)

    def _authenticate(self, body: bytes) -> bytes:
        return hmac.digest(self._secret, body, "sha256")[:_TAG_SIZE]
