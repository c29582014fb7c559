"""The negotiated options of a call's RTP and RTCP, apart from the codec."""

from typing import Self

import msgspec

from antiphon_common.control import CallRequest

NACK, TRANSPORT_CC = "nack", "transport-cc"
"""Values of `a=rtcp-fb` (RFC 4585 §4.2)."""


class RtpOptions(msgspec.Struct, frozen=True):
    """The RTP and RTCP options that were negotiated. `RtpSender` and `RtpReceiver` use them in `negotiate`.

    `extensions` maps the URI of each header extension to its id. `mid` is that of the media section, and `feedback` has
    the values of `a=rtcp-fb`. With `reduced_size`, feedback may be sent without a report (RFC 5506).
    """

    extensions: dict[str, int] = {}
    mid: str = ""
    feedback: tuple[str, ...] = ()
    reduced_size: bool = False

    @classmethod
    def of(cls, request: CallRequest) -> Self:
        """Return the options of a call's request."""
        extensions = {extension.uri: extension.id for extension in request.extensions}
        return cls(extensions, request.mid, request.feedback, request.reduced_size_rtcp)
