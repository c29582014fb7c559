"""Reads an offer: its audio sections, its data channels, and the parameters that a transceiver needs.

An offer that cannot be answered raises `OfferError`, with one sentence that names what is missing.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar, cast

import msgspec

from antiphon_common.control import (
    CallRequest,
    Codec,
    Direction,
    Fingerprint,
    HeaderExtension,
    IceParameters,
    SctpParameters,
    Setup,
)
from antiphon_common.errors import DecodeError, RemoteProtocolError
from antiphon_common.rtp_extensions import ABSOLUTE_SEND_TIME, AUDIO_LEVEL, MID, TRANSPORT_SEQUENCE
from antiphon_signaling.sdp.attributes import (
    ExtMap,
    Group,
    decode_fingerprint,
    decode_number,
)
from antiphon_signaling.sdp.audio import AudioSections, bundles_of, choose_audio, is_active
from antiphon_signaling.sdp.description import MAX_PORT, MediaDescription, SessionDescription

HEADER_EXTENSIONS = frozenset({MID, AUDIO_LEVEL, ABSOLUTE_SEND_TIME, TRANSPORT_SEQUENCE})
"""RTP header extensions that the transceiver uses. Others are not answered."""
RTCP_FEEDBACK = frozenset({"nack", "transport-cc"})
"""Values of `a=rtcp-fb` that are answered (RFC 4585 §4.2)."""
MAX_ONE_BYTE_ID = 14
"""Header extensions with a higher id need the two-byte form (RFC 8285 §4.3), and are not answered."""
MAX_FINGERPRINTS = 16
DATA_CHANNELS = "webrtc-datachannel"
SCTP_PROTOCOLS = frozenset({"UDP/DTLS/SCTP", "TCP/DTLS/SCTP"})
"""Protocols of media lines that mean data channels (RFC 8829 §5.1.2)."""
DEFAULT_MAX_MESSAGE_SIZE = 64 * 1024 - 1
"""Largest message for a peer that sets no limit. RFC 8841 §6.1 has 64 K, but Pion closes a channel over a message of
exactly that size."""

NO_MAX_MESSAGE_SIZE = 0
"""Value of `a=max-message-size` that means no limit (RFC 8841 §6.1)."""

T = TypeVar("T")

# RFC 8839 §5.4 allows letters, digits, + and /. Devices also send padded or URL-safe Base64, and browsers accept it.
_UFRAG = re.compile(r"[A-Za-z0-9+/=_#-]{4,256}")
_PASSWORD = re.compile(r"[A-Za-z0-9+/=_#-]{22,256}")
_HUGE = re.compile(r"[0-9]{19,}")
_SETUPS = ("actpass", "active", "passive")


class OfferError(RemoteProtocolError):
    """An offer that cannot be answered. The caller gets it as 422, with `code` for programs and the message for
    people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Offer(msgspec.Struct, frozen=True):
    """A negotiated offer, from `read_offer`. `call_request` makes a transceiver's request of it, `write_answer` the
    answer.

    `audio`, `playback` and `application` are the indices of the accepted sections. The offerer sends in `audio` and
    receives in `playback`, mostly the same section. Without data channels `application` and `sctp` are None. `group` is
    the BUNDLE group of the audio. `setup` is the offered DTLS role. `mid` is that of the section in which we send.
    `direction`, and the directions in `extensions`, are the offerer's.
    """

    description: SessionDescription
    audio: int
    playback: int
    application: int | None
    sctp: SctpParameters | None
    group: Group | None
    ice: IceParameters
    setup: Setup
    fingerprints: tuple[Fingerprint, ...]
    codec: Codec
    mid: str
    direction: Direction
    extensions: tuple[ExtMap, ...]
    feedback: tuple[str, ...]

    @property
    def section(self) -> MediaDescription:
        return self.description.media[self.audio]

    def call_request(self, call_id: str, tenant: str, session: dict[str, Any]) -> CallRequest:
        """Return the request that asks a transceiver for this call."""
        return CallRequest(
            call_id=call_id,
            tenant=tenant,
            ice=self.ice,
            setup=self.setup,
            fingerprints=self.fingerprints,
            codec=self.codec,
            mid=self.mid,
            direction=self.direction,
            extensions=tuple(HeaderExtension(extension.id, extension.uri) for extension in self.extensions),
            feedback=self.feedback,
            reduced_size_rtcp=self.section.has("rtcp-rsize"),
            sctp=self.sctp,
            session=session,
        )


def read_offer(data: bytes, *, held: bool = False) -> Offer:
    """Negotiate an offer. With `held` the audio may be inactive, as in an offer of a running call on hold.

    There is one transport. The answer rejects sections outside the BUNDLE group of the audio (RFC 9429 §4.1.1).

    Raises:
        DecodeError: the offer is malformed.
        OfferError: the offer cannot be answered.
    """
    description = SessionDescription.decode(data)
    audio, playback, codec, direction = _require_audio(description)
    if direction == "inactive" and not held:
        raise OfferError("inactive", "the offer's audio is inactive: this call could never carry any")
    section, played = description.media[audio], description.media[playback]
    group = bundles_of(description).get(section.value("mid") or "")
    application = _choose_application(description, group)
    transport = list(_transport_levels(description, section, group))
    if description.has("ice-lite"):
        raise OfferError(
            "ice_lite", "the offer has a=ice-lite, but this server is ICE-lite too: neither would send checks"
        )
    if not any(level.has("rtcp-mux") or level.has("rtcp-mux-only") for level in transport):
        raise OfferError("no_rtcp_mux", "the offer's audio section has no a=rtcp-mux")
    return Offer(
        description=description,
        audio=audio,
        playback=playback,
        application=application,
        sctp=None if application is None else _read_sctp(description.media[application]),
        group=group,
        ice=_read_ice(transport),
        setup=_read_setup(transport),
        fingerprints=_read_fingerprints(transport),
        codec=codec,
        mid=played.value("mid") or "",
        direction=direction,
        extensions=_common(_read_extensions(description, section), _read_extensions(description, played)),
        feedback=_common(_read_feedback(section, codec), _read_feedback(played, codec)),
    )


def _require_audio(description: SessionDescription) -> AudioSections:
    if not any(section.kind.lower() == "audio" and is_active(section) for section in description.media):
        only = " but only data channels" if any(map(_has_channels, description.media)) else ""
        raise OfferError("no_audio", f"the offer has no audio section{only}")
    chosen = choose_audio(description)
    if chosen is None:
        raise OfferError("no_codec", "the offer has no audio section with opus/48000/2, PCMU or PCMA over DTLS-SRTP")
    return chosen


def _common(first: Iterable[T], second: Iterable[T]) -> tuple[T, ...]:
    """Return the items that both have, in the order of the first."""
    both = list(second)
    return tuple(item for item in first if item in both)


def _has_channels(section: MediaDescription) -> bool:
    """Return True if a section offers data channels. Without a port it is invalid (RFC 8841 §5.1)."""
    return section.protocol.upper() in SCTP_PROTOCOLS and DATA_CHANNELS in section.formats and section.has("sctp-port")


def _choose_application(description: SessionDescription, group: Group | None) -> int | None:
    """Return the first section with data channels on the transport of the audio."""
    mids = () if group is None else group.mids
    for index, section in enumerate(description.media):
        if is_active(section) and _has_channels(section) and section.value("mid") in mids:
            return index
    return None


def _transport_levels(
    description: SessionDescription, section: MediaDescription, group: Group | None
) -> Iterator[SessionDescription | MediaDescription]:
    """Yield the levels that may have the transport attributes, the most specific first.

    These are the section itself, the section whose transport its BUNDLE group shares (RFC 9143 §7.1.3), and the
    session.
    """
    yield section
    if group:
        yield from (
            other for other in description.media if other.value("mid") == group.mids[0] and other is not section
        )
    yield description


def _lookup(levels: list[SessionDescription | MediaDescription], name: str) -> str | None:
    return next((level.value(name) for level in levels if level.has(name)), None)


def _read_ice(levels: list[SessionDescription | MediaDescription]) -> IceParameters:
    ufrag, password = _lookup(levels, "ice-ufrag"), _lookup(levels, "ice-pwd")
    if ufrag is None or password is None:
        raise OfferError("no_ice_credentials", "the offer has no a=ice-ufrag and a=ice-pwd for its audio")
    return check_ice_parameters(ufrag, password)


def check_ice_parameters(ufrag: str, password: str) -> IceParameters:
    """Return ICE credentials after a check of their form (RFC 8839 §5.4). Other alphabets of Base64 are accepted.

    Raises:
        OfferError: a credential is too short, too long, or has other characters.
    """
    if not _UFRAG.fullmatch(ufrag) or not _PASSWORD.fullmatch(password):
        raise OfferError(
            "bad_ice_credentials", "a=ice-ufrag must have 4 to 256 and a=ice-pwd 22 to 256 characters of Base64"
        )
    return IceParameters(ufrag, password)


def _read_setup(levels: list[SessionDescription | MediaDescription]) -> Setup:
    """Return the offered DTLS role. Without a=setup it is actpass, as in browsers."""
    setup = (_lookup(levels, "setup") or "actpass").strip().lower()
    if setup not in _SETUPS:
        raise OfferError("bad_setup", "a=setup of the offer's audio must be actpass, active or passive")
    return cast(Setup, setup)


def _read_fingerprints(levels: list[SessionDescription | MediaDescription]) -> tuple[Fingerprint, ...]:
    """Return the fingerprints of the most specific level that has any (RFC 8122 §5)."""
    given = next((values for level in levels if (values := level.values("fingerprint"))), [])
    if len(given) > MAX_FINGERPRINTS:
        raise OfferError("bad_fingerprint", f"the offer has more than {MAX_FINGERPRINTS} fingerprints")
    taken = tuple(found for found in map(decode_fingerprint, given) if found)
    if not taken:
        raise OfferError("no_fingerprint", "the offer has no sha-256, sha-384 or sha-512 fingerprint for its audio")
    return taken


def _read_sctp(section: MediaDescription) -> SctpParameters:
    port = decode_number("sctp-port", section.value("sctp-port") or "")
    if not 0 < port <= MAX_PORT:
        raise DecodeError(f"bad a=sctp-port: {port}")
    longest = section.value("max-message-size")
    if longest is None:
        return SctpParameters(port, DEFAULT_MAX_MESSAGE_SIZE)
    if _HUGE.fullmatch(longest):
        return SctpParameters(port, NO_MAX_MESSAGE_SIZE)
    return SctpParameters(port, decode_number("max-message-size", longest))


def _read_extensions(description: SessionDescription, section: MediaDescription) -> Iterator[ExtMap]:
    taken: set[int | str] = set()
    offered = section.values("extmap") or description.values("extmap")
    for extension in map(ExtMap.decode, offered):
        spoken = extension.uri in HEADER_EXTENSIONS and 1 <= extension.id <= MAX_ONE_BYTE_ID
        if spoken and extension.direction != "inactive" and not taken & {extension.id, extension.uri}:
            taken |= {extension.id, extension.uri}
            yield extension


def _read_feedback(section: MediaDescription, codec: Codec) -> Iterator[str]:
    taken: set[str] = set()
    for line in section.values("rtcp-fb"):
        payload_type, _, feedback = line.partition(" ")
        value = feedback.strip()
        if payload_type in (str(codec.payload_type), "*") and value in RTCP_FEEDBACK and value not in taken:
            taken.add(value)
            yield value
