"""What an SRTP packet can be refused for."""

from antiphon_common.errors import DecodeError


class SrtpError(DecodeError):
    """The packet is no valid SRTP: malformed, not authentic, seen before, or of one source too many."""
