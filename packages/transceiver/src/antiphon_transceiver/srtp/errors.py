"""The error of an SRTP packet that is refused."""

from antiphon_common.errors import DecodeError


class SrtpError(DecodeError):
    """A received packet is refused: malformed, not authentic, replayed, or of one source too many.

    `SrtpSession.unprotect_rtp` and `unprotect_rtcp` raise it, and count each reason in `SrtpCounters`.
    """
