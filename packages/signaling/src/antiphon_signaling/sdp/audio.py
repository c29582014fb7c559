"""Chooses the audio sections of an offer (RFC 3264 §6): one for both directions, or one for each."""

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from antiphon_common.control import Codec, Direction
from antiphon_signaling.sdp.attributes import DIRECTIONS, Group
from antiphon_signaling.sdp.codecs import choose_codec
from antiphon_signaling.sdp.description import MediaDescription, SessionDescription

# fmt: off
RTP_PROTOCOLS = frozenset({
    "UDP/TLS/RTP/SAVPF", "UDP/TLS/RTP/SAVP", "TCP/DTLS/RTP/SAVPF", "TCP/DTLS/RTP/SAVP", "RTP/SAVPF", "RTP/SAVP",
    "RTP/AVPF", "RTP/AVP",
})
# fmt: on
"""Profiles of media lines that mean DTLS-SRTP if the offer has a fingerprint (RFC 8829 §5.1.2)."""

_DIRECTIONS: dict[str, Direction] = {direction: direction for direction in DIRECTIONS}


class AudioSections(NamedTuple):
    """The audio sections that are answered, from `choose_audio`.

    The offerer sends in section `audio` and receives in section `playback`. Their indices are equal unless there is one
    section for each direction. `direction` is the offerer's.
    """

    audio: int
    playback: int
    codec: Codec
    direction: Direction


class _UsableAudio(NamedTuple):
    number: int
    codec: Codec
    direction: Direction
    group: Group | None


def is_active(section: MediaDescription) -> bool:
    """Return True unless port 0 marks a section as rejected; `bundle-only` sections have it too (RFC 9143 §6)."""
    return section.port != 0 or section.has("bundle-only")


def bundles_of(description: SessionDescription) -> dict[str, Group]:
    """Return the BUNDLE group of each mid. If several groups name it, the first counts."""
    found: dict[str, Group] = {}
    for group in map(Group.decode, description.values("group")):
        if group.semantics.upper() == "BUNDLE":
            for mid in group.mids:
                found.setdefault(mid, group)
    return found


def read_directions(description: SessionDescription) -> list[Direction]:
    """Return the direction of each section: its own attribute, else the session's (RFC 8866 §6.7)."""
    common = _direction_of(description, "sendrecv")
    return [_direction_of(section, common) for section in description.media]


def _direction_of(level: SessionDescription | MediaDescription, default: Direction) -> Direction:
    return next((_DIRECTIONS[item.name] for item in level.attributes if item.name in _DIRECTIONS), default)


def choose_audio(description: SessionDescription) -> AudioSections | None:
    """Return the audio sections to answer, or None if no section has a supported codec.

    The order of preference: one section for both directions; two, one for each direction, with the same transport and
    codec; one that sends; one that receives; an inactive one. Among equals the first is chosen.
    """
    sections = list(_usable(description))
    if both := _first(sections, "sendrecv"):
        return AudioSections(both.number, both.number, both.codec, "sendrecv")
    for sends in (section for section in sections if section.direction == "sendonly"):
        for receives in (section for section in sections if section.direction == "recvonly"):
            if (codec := _shared_codec(sends, receives)) is not None:
                return AudioSections(sends.number, receives.number, codec, "sendrecv")
    one = _first(sections, "sendonly") or _first(sections, "recvonly") or _first(sections, "inactive")
    return None if one is None else AudioSections(one.number, one.number, one.codec, one.direction)


def _usable(description: SessionDescription) -> Iterator[_UsableAudio]:
    bundles = bundles_of(description)
    for index, (section, direction) in enumerate(zip(description.media, read_directions(description), strict=True)):
        if section.kind.lower() == "audio" and is_active(section):
            codec = choose_codec(section)
            if codec and section.protocol.upper() in RTP_PROTOCOLS:
                yield _UsableAudio(index, codec, direction, bundles.get(section.value("mid") or ""))


def _first(sections: list[_UsableAudio], direction: Direction) -> _UsableAudio | None:
    return next((section for section in sections if section.direction == direction), None)


def _shared_codec(sends: _UsableAudio, receives: _UsableAudio) -> Codec | None:
    """Return the codec of two sections with one direction each, or None if they differ.

    Within one BUNDLE group a payload type has one meaning (RFC 9143 §9.1). Parameters are those that the offerer of a
    section wants to receive.
    """
    ours, theirs = receives.codec, sends.codec
    if receives.group is None or receives.group is not sends.group:
        return None
    if (ours.payload_type, ours.name) != (theirs.payload_type, theirs.name):
        return None
    same = ours.redundancy == theirs.redundancy
    return msgspec.structs.replace(ours, redundancy=ours.redundancy if same else None)
