"""Which audio sections of an offer make the conversation (RFC 3264 §6): one of both directions, or one for each."""

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
"""Profiles of media lines that mean DTLS-SRTP in an offer with a fingerprint, which must be accepted (RFC 8829
§5.1.2)."""

_DIRECTIONS: dict[str, Direction] = {direction: direction for direction in DIRECTIONS}


class AudioSections(NamedTuple):
    """What is taken: `audio` is the index of the section in which the offerer sends, `playback` of the one in which it
    receives. They are the same unless two sections share the conversation. `direction` is the offerer's."""

    audio: int
    playback: int
    codec: Codec
    direction: Direction


class _Section(NamedTuple):
    number: int
    codec: Codec
    direction: Direction
    group: Group | None


def is_active(section: MediaDescription) -> bool:
    """Port 0 means rejected or unused, except for a section that exists only inside its BUNDLE group (RFC 9143 §6)."""
    return section.port != 0 or section.has("bundle-only")


def bundles_of(description: SessionDescription) -> dict[str, Group]:
    """Return the BUNDLE group of each mid, the first that names it."""
    found: dict[str, Group] = {}
    for group in map(Group.decode, description.values("group")):
        if group.semantics.upper() == "BUNDLE":
            for mid in group.mids:
                found.setdefault(mid, group)
    return found


def read_directions(description: SessionDescription) -> list[Direction]:
    """Return the direction of each section: its own, or else the session's (RFC 8866 §6.7)."""
    common = _direction_of(description, "sendrecv")
    return [_direction_of(section, common) for section in description.media]


def _direction_of(level: SessionDescription | MediaDescription, default: Direction) -> Direction:
    return next((_DIRECTIONS[item.name] for item in level.attributes if item.name in _DIRECTIONS), default)


def choose_audio(description: SessionDescription) -> AudioSections | None:
    """Return the sections that carry most of a conversation, the first of equals: one of both directions, two of one
    direction each that share transport and codec, one that sends, one that receives, one that does neither.

    None where no section has a codec that is spoken.
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


def _usable(description: SessionDescription) -> Iterator[_Section]:
    bundles = bundles_of(description)
    for index, (section, direction) in enumerate(zip(description.media, read_directions(description), strict=True)):
        if section.kind.lower() == "audio" and is_active(section):
            codec = choose_codec(section)
            if codec and section.protocol.upper() in RTP_PROTOCOLS:
                yield _Section(index, codec, direction, bundles.get(section.value("mid") or ""))


def _first(sections: list[_Section], direction: Direction) -> _Section | None:
    return next((section for section in sections if section.direction == direction), None)


def _shared_codec(sends: _Section, receives: _Section) -> Codec | None:
    """Return the codec of a conversation over two sections. Within one BUNDLE group a payload type means the same in
    both (RFC 9143 §9.1); parameters are what a section's offerer likes to receive."""
    ours, theirs = receives.codec, sends.codec
    if receives.group is None or receives.group is not sends.group:
        return None
    if (ours.payload_type, ours.name) != (theirs.payload_type, theirs.name):
        return None
    same = ours.redundancy == theirs.redundancy
    return msgspec.structs.replace(ours, redundancy=ours.redundancy if same else None)
