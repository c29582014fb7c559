"""The interface of the ciphers that protect RTP and RTCP."""

from typing import Protocol


class Transform(Protocol):
    """A cipher with its keys for one direction.

    Call it with the index that `SendStream` or `ReceiveStream` returned. A protected packet is longer by the overhead.
    `unprotect_rtp` and `unprotect_rtcp` return None for a packet that is not authentic.
    """

    rtp_overhead: int
    """Bytes that protecting adds to a packet."""
    rtcp_overhead: int
    """Bytes that protecting adds to an RTCP packet: the tag and the index (RFC 3711 §3.4, RFC 7714 §9)."""
    rtcp_index_end: int
    """Bytes of an RTCP packet after the index: the size of the tag, or 0 if the tag is before the index."""

    def protect_rtp(self, packet: bytes, header_length: int, ssrc: int, index: int) -> bytes: ...

    def unprotect_rtp(self, packet: bytes, header_length: int, ssrc: int, index: int) -> bytes | None: ...

    def protect_rtcp(self, packet: bytes, ssrc: int, index: int) -> bytes: ...

    def unprotect_rtcp(self, packet: bytes, ssrc: int, index: int) -> bytes | None: ...

    @property
    def indexed(self) -> "Transform":
        """The same cipher for sources whose index does not begin at zero."""

    def forget(self, ssrc: int) -> None:
        """Free what is kept for a source that was evicted."""
