"""Writes the answer: audio and data channels with the transceiver's parameters. All other sections are rejected."""

import ipaddress
from collections.abc import Iterator, Sequence

from aioice.candidate import Candidate, candidate_priority

from antiphon_common.control import CallAccepted
from antiphon_signaling.sdp.attributes import (
    MIRRORED,
    ExtMap,
    Group,
    encode_fingerprint,
)
from antiphon_signaling.sdp.codecs import answered_formats, write_codec
from antiphon_signaling.sdp.description import Attribute, MediaDescription, SessionDescription
from antiphon_signaling.sdp.offer import DATA_CHANNELS, Offer

STREAM_ID = "antiphon"
MAX_LOCAL_PREFERENCE = 65535
END_OF_CANDIDATES = Attribute("end-of-candidates")


def write_answer(
    offer: Offer, accepted: CallAccepted, addresses: Sequence[tuple[str, int]], session_id: int
) -> SessionDescription:
    """Return the answer to `offer`.

    `addresses` are the advertised hosts and ports, the best first. `session_id` has 63 random bits (RFC 9429 §5.2.1).
    """
    taken = _taken(offer, accepted)
    media = offer.description.media
    bundle = [Attribute("group", Group("BUNDLE", tuple(media[index].value("mid") or "" for index in taken)).encode())]
    return SessionDescription(
        origin=f"- {session_id} 1 IN IP4 127.0.0.1",
        attributes=(
            Attribute("ice-lite"),
            Attribute("ice-options", "ice2"),
            *(bundle if offer.group else ()),
            *_echo(offer.description, "extmap-allow-mixed"),
            Attribute("msid-semantic", "WMS *"),
        ),
        media=tuple(
            _write_section(offer, accepted, addresses, index, tagged=index == taken[0] or _is_pair_half(offer, index))
            if index in taken
            else _reject(section, accepted)
            for index, section in enumerate(media)
        ),
    )


def _taken(offer: Offer, accepted: CallAccepted) -> list[int]:
    """Return the indices of the accepted sections, in the order of their BUNDLE group.

    The first is the tagged section, which carries the transport (RFC 9143 §7.3).
    """
    if offer.group is None:
        return [offer.audio]
    taken = {offer.audio, offer.playback}
    if offer.application is not None and accepted.sctp is not None:
        taken.add(offer.application)
    place = {mid: index for index, mid in enumerate(offer.group.mids)}
    media = offer.description.media
    return sorted(taken, key=lambda index: place[media[index].value("mid") or ""])


def _is_pair_half(offer: Offer, index: int) -> bool:
    """Return True if `index` is one of two audio sections, one for each direction.

    Both get candidates then, although only the tagged section needs them (RFC 9143 §7.3): aiortc uses the last section
    of a transport.
    """
    return offer.audio != offer.playback and index in (offer.audio, offer.playback)


def _echo(section: SessionDescription | MediaDescription, name: str) -> list[Attribute]:
    return [Attribute(name)] if section.has(name) else []


def _reject(section: MediaDescription, accepted: CallAccepted) -> MediaDescription:
    """Reject a section with port 0 (RFC 3264 §6).

    Only its kind and mid have a meaning then. But aiortc refuses an answer without transport attributes and a codec.
    """
    first = section.formats[0]
    codec = [Attribute("rtpmap", value) for value in section.values("rtpmap") if value.split()[:1] == [first]]
    return MediaDescription(
        kind=section.kind,
        port=0,
        protocol=section.protocol,
        formats=(first,),
        connection="IN IP4 0.0.0.0",
        attributes=(
            *_transport(section.value("mid"), accepted),
            *_echo(section, "rtcp-mux"),
            *codec,
            Attribute("inactive"),
        ),
    )


def _write_section(
    offer: Offer, accepted: CallAccepted, addresses: Sequence[tuple[str, int]], index: int, *, tagged: bool
) -> MediaDescription:
    section = offer.description.media[index]
    host, port = addresses[0]
    is_audio = index in (offer.audio, offer.playback)
    candidates = [*(Attribute("candidate", candidate) for candidate in write_candidates(addresses)), END_OF_CANDIDATES]
    return MediaDescription(
        kind=section.kind,
        port=port,
        protocol=section.protocol,
        formats=answered_formats(section, offer.codec) if is_audio else (DATA_CHANNELS,),
        connection=f"IN IP{ipaddress.ip_address(host).version} {host}",
        attributes=(
            *_transport(section.value("mid"), accepted),
            *(_audio(offer, accepted, index) if is_audio else _channels(accepted)),
            *(candidates if tagged else ()),
        ),
    )


def _audio(offer: Offer, accepted: CallAccepted, index: int) -> Iterator[Attribute]:
    section = offer.description.media[index]
    yield Attribute("rtcp-mux")
    yield from _echo(section, "rtcp-rsize")
    yield from _echo(section, "extmap-allow-mixed")
    yield from _codec(offer, section)
    yield from _media(offer, accepted, index)


def _channels(accepted: CallAccepted) -> Iterator[Attribute]:
    if accepted.sctp is not None:
        yield Attribute("sctp-port", str(accepted.sctp.port))
        yield Attribute("max-message-size", str(accepted.sctp.max_message_size))


def write_candidates(addresses: Sequence[tuple[str, int]]) -> Iterator[str]:
    """Yield the value of each `a=candidate`, the best first."""
    for index, (host, port) in enumerate(addresses):
        priority = candidate_priority(1, "host", MAX_LOCAL_PREFERENCE - index)
        yield Candidate(str(index + 1), 1, "udp", priority, host, port, "host").to_sdp()


def _transport(mid: str | None, accepted: CallAccepted) -> Iterator[Attribute]:
    if mid is not None:
        yield Attribute("mid", mid)
    yield Attribute("ice-ufrag", accepted.ice.ufrag)
    yield Attribute("ice-pwd", accepted.ice.password)
    yield Attribute("fingerprint", encode_fingerprint(accepted.fingerprint))
    yield Attribute("setup", accepted.setup)


def _codec(offer: Offer, section: MediaDescription) -> Iterator[Attribute]:
    yield from write_codec(section, offer.codec)
    yield from (Attribute("rtcp-fb", f"{offer.codec.payload_type} {feedback}") for feedback in offer.feedback)
    for extension in offer.extensions:
        mirrored = ExtMap(extension.id, extension.uri, MIRRORED[extension.direction])
        yield Attribute("extmap", mirrored.encode())


def _media(offer: Offer, accepted: CallAccepted, index: int) -> Iterator[Attribute]:
    direction = MIRRORED[offer.direction]
    if offer.audio != offer.playback:
        direction = "recvonly" if index == offer.audio else "sendonly"
    yield Attribute(direction)
    if direction in ("sendrecv", "sendonly"):
        yield Attribute("msid", f"{STREAM_ID} {STREAM_ID}-audio")
        yield Attribute("ssrc", f"{accepted.ssrc} cname:{accepted.cname}")
