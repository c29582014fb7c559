"""The SDP offer of the test client, and the parameters that it reads from the answer."""

import msgspec
from aioice import Candidate

from antiphon_common.control import Fingerprint, IceParameters, SctpParameters, Setup
from antiphon_common.core import Path
from antiphon_common.errors import DecodeError
from antiphon_signaling.sdp import Attribute, MediaDescription, SessionDescription
from antiphon_signaling.sdp.attributes import ExtMap, decode_fingerprint, decode_number, encode_fingerprint
from antiphon_transceiver.rtp import RtpOptions

OPUS_PAYLOAD_TYPE = 111
MID = "0"
CHANNELS_MID = "1"


class Answer(msgspec.Struct, frozen=True):
    """The server's parameters from an answer. `read_answer` returns it.

    `setup` is the server's DTLS role. `options` are those that both sides support. `sctp` is None if the server accepts
    no data channels.
    """

    ice: IceParameters
    setup: Setup
    fingerprints: tuple[Fingerprint, ...]
    candidates: tuple[Path, ...]
    options: RtpOptions
    sctp: SctpParameters | None


def write_offer(
    ice: IceParameters,
    fingerprint: Fingerprint,
    setup: Setup,
    ssrc: int,
    cname: str,
    options: RtpOptions,
    sctp: SctpParameters | None = None,
) -> str:
    """Return an offer without candidates: an audio section with Opus in both directions, and data channels if `sctp`
    is given."""
    transport = (
        Attribute("ice-ufrag", ice.ufrag),
        Attribute("ice-pwd", ice.password),
        Attribute("fingerprint", encode_fingerprint(fingerprint)),
        Attribute("setup", setup),
    )
    audio = MediaDescription(
        kind="audio",
        port=9,
        protocol="UDP/TLS/RTP/SAVPF",
        formats=(str(OPUS_PAYLOAD_TYPE),),
        connection="IN IP4 0.0.0.0",
        attributes=(
            Attribute("mid", MID),
            Attribute("sendrecv"),
            Attribute("rtcp-mux"),
            *([Attribute("rtcp-rsize")] if options.reduced_size else []),
            *(Attribute("extmap", f"{number} {uri}") for uri, number in options.extensions.items()),
            Attribute("rtpmap", f"{OPUS_PAYLOAD_TYPE} opus/48000/2"),
            Attribute("fmtp", f"{OPUS_PAYLOAD_TYPE} minptime=10;useinbandfec=1"),
            *(Attribute("rtcp-fb", f"{OPUS_PAYLOAD_TYPE} {value}") for value in options.feedback),
            *transport,
            Attribute("ssrc", f"{ssrc} cname:{cname}"),
        ),
    )
    media = (audio,) if sctp is None else (audio, _channels(sctp, transport))
    mids = " ".join(section.value("mid") or "" for section in media)
    description = SessionDescription(
        origin=f"- {ssrc} 1 IN IP4 127.0.0.1", attributes=(Attribute("group", f"BUNDLE {mids}"),), media=media
    )
    return description.encode().decode()


def _channels(sctp: SctpParameters, transport: tuple[Attribute, ...]) -> MediaDescription:
    return MediaDescription(
        kind="application",
        port=9,
        protocol="UDP/DTLS/SCTP",
        formats=("webrtc-datachannel",),
        connection="IN IP4 0.0.0.0",
        attributes=(
            Attribute("mid", CHANNELS_MID),
            *transport,
            Attribute("sctp-port", str(sctp.port)),
            Attribute("max-message-size", str(sctp.max_message_size)),
        ),
    )


def read_answer(sdp: str) -> Answer:
    """Read the answer to an offer of `write_offer`.

    Raises:
        DecodeError: something in it is missing or malformed.
    """
    media = SessionDescription.decode(sdp.encode()).media
    if not media:
        raise DecodeError("the answer has no media")
    audio, *others = media
    ufrag, password, setup = audio.value("ice-ufrag"), audio.value("ice-pwd"), audio.value("setup")
    fingerprints = tuple(found for value in audio.values("fingerprint") if (found := decode_fingerprint(value)))
    if not ufrag or not password or not fingerprints or setup not in ("active", "passive"):
        raise DecodeError("the answer has no ice-ufrag, ice-pwd, fingerprint or setup")
    try:
        candidates = map(Candidate.from_sdp, audio.values("candidate"))
        udp = (candidate for candidate in candidates if candidate.transport.lower() == "udp")
        paths = tuple(Path.of(candidate.host, candidate.port) for candidate in udp)
    except ValueError as error:
        raise DecodeError(f"bad a=candidate: {error}") from None
    return Answer(
        IceParameters(ufrag, password),
        "active" if setup == "active" else "passive",
        fingerprints,
        paths,
        RtpOptions(
            extensions={extension.uri: extension.id for extension in map(ExtMap.decode, audio.values("extmap"))},
            mid=audio.value("mid") or "",
            feedback=tuple(value.split(maxsplit=1)[-1] for value in audio.values("rtcp-fb")),
            reduced_size=audio.has("rtcp-rsize"),
        ),
        next((_read_channels(section) for section in others if section.port), None),
    )


def _read_channels(section: MediaDescription) -> SctpParameters:
    port, longest = section.value("sctp-port") or "", section.value("max-message-size") or ""
    return SctpParameters(decode_number("sctp-port", port), decode_number("max-message-size", longest))
