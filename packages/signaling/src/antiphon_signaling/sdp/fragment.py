"""SDP fragments, with which a client trickles candidates or restarts ICE (RFC 8840 §9, RFC 9725 §4.3)."""

from collections.abc import Sequence

import msgspec

from antiphon_common.control import IceParameters
from antiphon_common.errors import DecodeError
from antiphon_signaling.sdp.answer import write_candidates
from antiphon_signaling.sdp.description import Attribute, read_lines
from antiphon_signaling.sdp.offer import check_ice_parameters

MEDIA_TYPE = "application/trickle-ice-sdpfrag"


class IceFragment(msgspec.Struct, frozen=True):
    """The client's side of a fragment, from `read_fragment`. `media` is its first media line, `mid` the section's
    id."""

    ice: IceParameters
    media: str | None
    mid: str | None


def read_fragment(data: bytes) -> IceFragment:
    """Read a fragment. Its candidates are ignored: a lite agent answers to the source of each check.

    Raises:
        DecodeError: the fragment is malformed, or has no ICE credentials.
        OfferError: the ICE credentials are malformed.
    """
    lines = read_lines(data)
    values: dict[str, str] = {}
    for kind, value in lines:
        if kind == "a":
            name, _, rest = value.partition(":")
            values.setdefault(name, rest)
    if "ice-ufrag" not in values or "ice-pwd" not in values:
        raise DecodeError("the fragment has no a=ice-ufrag and a=ice-pwd")
    media = next((value for kind, value in lines if kind == "m"), None)
    return IceFragment(check_ice_parameters(values["ice-ufrag"], values["ice-pwd"]), media, values.get("mid"))


def write_fragment(asked: IceFragment, ice: IceParameters, addresses: Sequence[tuple[str, int]]) -> bytes:
    """Write the answer to a restart: our new ICE credentials and the advertised addresses."""
    lines = ["a=ice-lite", f"m={asked.media}" if asked.media else "m=audio 9 UDP/TLS/RTP/SAVPF 0"]
    if asked.mid is not None:
        lines.append(f"a=mid:{asked.mid}")
    lines += [f"a=ice-ufrag:{ice.ufrag}", f"a=ice-pwd:{ice.password}"]
    lines += [Attribute("candidate", value).encode() for value in write_candidates(addresses)]
    return "".join(f"{line}\r\n" for line in [*lines, "a=end-of-candidates"]).encode()
