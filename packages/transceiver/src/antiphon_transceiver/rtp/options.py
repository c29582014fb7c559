"""What a call's RTP and RTCP may use beside the codec."""

from typing import Self

import msgspec

from antiphon_common.control import CallRequest

NACK, TRANSPORT_CC = "nack", "transport-cc"
"""Values of `a=rtcp-fb` (RFC 4585 §4.2)."""


class RtpOptions(msgspec.Struct, frozen=True):
    """As negotiated: the id of each header extension by its URI, the mid of the section, values of `a=rtcp-fb`, and
    whether feedback may travel without a report (RFC 5506)."""

    extensions: dict[str, int] = {}
    mid: str = ""
    feedback: tuple[str, ...] = ()
    reduced_size: bool = False

    @classmethod
    def of(cls, request: CallRequest) -> Self:
        extensions = {extension.uri: extension.id for extension in request.extensions}
        return cls(extensions, request.mid, request.feedback, request.reduced_size_rtcp)
