"""Chooses the codec of an audio section, and writes it to the answer: Opus, with RED if offered, else G.711."""

from collections.abc import Iterator

from antiphon_common.control import Codec
from antiphon_signaling.sdp.attributes import FormatParameters, RtpMap
from antiphon_signaling.sdp.description import Attribute, MediaDescription

OPUS_PARAMETERS = {"minptime": "10", "useinbandfec": "1"}
"""Parameters of the Opus that we receive (RFC 7587 §6.1): mono, packets from 10 ms, in-band FEC."""

_STATIC = {"0": RtpMap(0, "PCMU", 8000), "8": RtpMap(8, "PCMA", 8000)}
"""Static payload types, which need no `a=rtpmap` (RFC 3551 §6)."""

_OPUS, _RED = ("opus", 48000, 2), ("red", 48000, 2)
_OF_TWO_CHANNELS = (_OPUS[:2], _RED[:2])
_FALLBACKS = (("pcmu", 8000, 1), ("pcma", 8000, 1))


def choose_codec(section: MediaDescription) -> Codec | None:
    """Return the first Opus of the media line, or else the first G.711.

    `opus/48000/2` is the correct form (RFC 7587 §7). Opus with one channel, or without a number, is accepted as the
    same. Audio is mono, since the answer has no `stereo`.
    """
    offered = list(_offered(section))
    opus = next((item for item in offered if _kind(item) == _OPUS), None)
    if opus is None:
        fallback = next((item for item in offered if _kind(item) in _FALLBACKS), None)
        return Codec(fallback.encoding.lower(), fallback.payload_type, fallback.clock_rate) if fallback else None
    formats = {item.format: item.parameters for item in map(FormatParameters.decode, section.values("fmtp"))}
    red = next((item for item in offered if _kind(item) == _RED and _repeats(item, opus, formats)), None)
    return Codec(
        "opus",
        opus.payload_type,
        opus.clock_rate,
        parameters=formats.get(str(opus.payload_type), {}),
        redundancy=red.payload_type if red else None,
    )


def answered_formats(section: MediaDescription, codec: Codec) -> tuple[str, ...]:
    """Return the payload types of the answer, in the order of the offer.

    That is the offerer's preference (RFC 3264 §6.1).
    """
    taken = (str(codec.payload_type), str(codec.redundancy))
    return tuple(dict.fromkeys(item for item in section.formats if item in taken))


def write_codec(section: MediaDescription, codec: Codec) -> Iterator[Attribute]:
    """Yield `a=rtpmap` and `a=fmtp` of the codec. Offerers compare `a=rtpmap`, so it is copied from the section."""
    own = str(codec.payload_type)
    offered = {item.payload_type: item for item in _offered(section)}
    yield Attribute("rtpmap", offered[codec.payload_type].encode())
    if codec.name != "opus":
        return
    yield Attribute("fmtp", FormatParameters(own, OPUS_PARAMETERS).encode())
    if codec.redundancy is not None:
        yield Attribute("rtpmap", offered[codec.redundancy].encode())
        yield Attribute("fmtp", f"{codec.redundancy} {own}/{own}")


def _offered(section: MediaDescription) -> Iterator[RtpMap]:
    maps = _STATIC | {str(item.payload_type): item for item in map(RtpMap.decode, section.values("rtpmap"))}
    return (maps[payload_type] for payload_type in section.formats if payload_type in maps)


def _kind(item: RtpMap) -> tuple[str, int, int]:
    name = item.encoding.lower()
    return name, item.clock_rate, 2 if (name, item.clock_rate) in _OF_TWO_CHANNELS else item.channels


def _repeats(red: RtpMap, codec: RtpMap, formats: dict[str, dict[str, str]]) -> bool:
    """Return True if `red` carries `codec` alone, or has no parameters.

    Its parameters are payload types, separated by slashes (RFC 2198 §4).
    """
    carried = {payload_type for item in formats.get(str(red.payload_type), {}) for payload_type in item.split("/")}
    return carried <= {str(codec.payload_type)}
