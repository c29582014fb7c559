"""What a cipher offers to the streams it protects."""

from typing import Protocol


class Transform(Protocol):
    """A cipher with its keys for one direction.

    `index` is what `SendStream` or `ReceiveStream` found. Unprotecting returns None for what is not authentic.
    """

    rtp_overhead: int
    """Bytes that protecting adds to a packet."""
    rtcp_overhead: int
    """The same of RTCP: the tag and the four bytes of the index (RFC 3711 §3.4, RFC 7714 §9)."""
    rtcp_index_end: int
    """Bytes behind the index of an RTCP packet: the tag follows it, or stands before it."""

    def protect_rtp(self, packet: bytes, header_length: int, ssrc: int, index: int) -> bytes: ...

    def unprotect_rtp(self, packet: bytes, header_length: int, ssrc: int, index: int) -> bytes | None: ...

    def protect_rtcp(self, packet: bytes, ssrc: int, index: int) -> bytes: ...

    def unprotect_rtcp(self, packet: bytes, ssrc: int, index: int) -> bytes | None: ...

    @property
    def indexed(self) -> "Transform":
        """The same cipher for sources whose count does not begin at zero."""

    def forget(self, ssrc: int) -> None:
        """Release what is kept of a source that was evicted."""
