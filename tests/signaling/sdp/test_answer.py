"""Answers to offers: sections, transport, candidates, codecs, extensions, feedback and data channels."""

import msgspec
import pytest

from antiphon_common.control import CallAccepted, SctpParameters
from antiphon_common.rtp_extensions import AUDIO_LEVEL, MID
from antiphon_signaling.sdp import Offer, SessionDescription, read_offer, write_answer
from antiphon_signaling.sdp.attributes import RtpMap
from support.peers.sdp_offers import ACCEPTED, ADDRESSES, DIGEST, audio_only, edited, recorded, sections, without

WITH_CHANNELS = msgspec.structs.replace(ACCEPTED, sctp=SctpParameters(5000, 262144))


def answer(offer: Offer, accepted: CallAccepted = ACCEPTED) -> SessionDescription:
    return SessionDescription.decode(write_answer(offer, accepted, ADDRESSES, 2**62).encode())


def with_application(*attributes: str, group: str = "BUNDLE a d", protocol: str = "UDP/DTLS/SCTP") -> bytes:
    application = (f"m=application 9 {protocol} webrtc-datachannel", "a=mid:d", *attributes)
    return audio_only("a=mid:a", f"a=fingerprint:sha-256 {DIGEST}", *application, session=f"a=group:{group}")


@pytest.mark.parametrize("name", ["chromium-156", "firefox-esr", "aiortc-1.16", "pion-4"])
def test_an_answer_accepts_the_audio_and_rejects_other_media(name: str) -> None:
    offer = read_offer(recorded(name))
    description = answer(offer)
    audio, *others = description.media
    assert [section.kind for section in description.media] == [section.kind for section in offer.description.media]
    assert all((section.port, len(section.formats), section.has("mid")) == (0, 1, True) for section in others)
    assert description.values("group") == ["BUNDLE 0"]
    assert description.has("ice-lite")
    formats = ("111", "63") if name == "chromium-156" else (str(offer.codec.payload_type),)
    assert (audio.port, audio.connection, audio.formats) == (3478, "IN IP4 203.0.113.10", formats)
    assert audio.value("mid") == "0"
    assert audio.value("ice-ufrag") == ACCEPTED.ice.ufrag
    assert audio.value("fingerprint") == f"sha-256 {ACCEPTED.fingerprint.value}"
    assert audio.value("setup") == "active"
    assert audio.value("fmtp") == f"{offer.codec.payload_type} minptime=10;useinbandfec=1"
    assert audio.value("ssrc") == f"{0x12345678} cname:call"
    assert all(audio.has(attribute) for attribute in ("rtcp-mux", "sendrecv", "msid", "end-of-candidates"))
    transport_cc = [] if name.startswith("aiortc") else [f"{offer.codec.payload_type} transport-cc"]
    assert audio.values("rtcp-fb") == transport_cc
    assert audio.has("rtcp-rsize") == (name in ("chromium-156", "pion-4"))
    assert description.has("extmap-allow-mixed") == (name in ("chromium-156", "pion-4"))


def test_candidates_are_exactly_the_advertised_addresses_best_first() -> None:
    candidates = answer(read_offer(recorded("chromium-156"))).media[0].values("candidate")
    assert candidates == [
        "1 1 udp 2130706431 203.0.113.10 3478 typ host",
        "2 1 udp 2130706175 2001:db8::10 3478 typ host",
    ]


@pytest.mark.parametrize(
    ("name", "longest"), [("chromium-156", 262144), ("firefox-esr", 1073741823), ("aiortc-1.16", 262144)]
)
def test_data_channels_are_accepted_on_the_transport_of_the_audio(name: str, longest: int) -> None:
    offer = read_offer(recorded(name))
    assert offer.call_request("rtc_1", "acme", {}).sctp == SctpParameters(5000, longest)
    description = answer(offer, WITH_CHANNELS)
    audio, application = description.media
    assert description.values("group") == ["BUNDLE 0 1"]
    assert (application.kind, application.protocol) == ("application", "UDP/DTLS/SCTP")
    assert (application.port, application.connection) == (audio.port, audio.connection)
    assert application.formats == ("webrtc-datachannel",)
    assert application.value("mid") == "1"
    assert (application.value("sctp-port"), application.value("max-message-size")) == ("5000", "262144")
    assert all(
        application.value(name) == audio.value(name) for name in ("ice-ufrag", "ice-pwd", "fingerprint", "setup")
    )
    assert audio.has("candidate")
    assert not application.has("candidate")


def test_data_channels_are_rejected_for_a_transceiver_without_them() -> None:
    description = answer(read_offer(recorded("chromium-156")), ACCEPTED)
    assert description.values("group") == ["BUNDLE 0"]
    assert description.media[1].port == 0


@pytest.mark.parametrize(
    ("data", "sctp"),
    [
        (with_application("a=sctp-port:5001", "a=max-message-size:0"), SctpParameters(5001, 0)),
        (with_application("a=sctp-port:5000"), SctpParameters(5000, 65535)),
        (with_application("a=sctp-port:5000", protocol="TCP/DTLS/SCTP"), SctpParameters(5000, 65535)),
        (with_application(), None),
        (with_application("a=sctpmap:5000 webrtc-datachannel 1024", protocol="DTLS/SCTP"), None),
        (with_application("a=sctp-port:5000", group="BUNDLE a"), None),
    ],
)
def test_data_channels_need_a_port_and_the_bundle(data: bytes, sctp: SctpParameters | None) -> None:
    offer = read_offer(data)
    assert offer.sctp == sctp
    assert (answer(offer, WITH_CHANNELS).media[1].port == 0) == (sctp is None)


def test_transport_attributes_are_in_the_first_section_of_the_bundle_group() -> None:
    offer = read_offer(with_application("a=sctp-port:5000", group="BUNDLE d a"))
    description = answer(offer, WITH_CHANNELS)
    assert description.values("group") == ["BUNDLE d a"]
    assert [section.has("candidate") for section in description.media] == [False, True]


@pytest.mark.parametrize(
    ("offered", "answered", "sends"),
    [
        ("sendrecv", "sendrecv", True),
        ("sendonly", "recvonly", False),
        ("recvonly", "sendonly", True),
    ],
)
def test_the_direction_is_reversed_at_either_level(offered: str, answered: str, sends: bool) -> None:
    for data in (audio_only(f"a={offered}"), audio_only(session=f"a={offered}")):
        audio = answer(read_offer(data)).media[0]
        assert audio.has(answered)
        assert audio.has("msid") == audio.has("ssrc") == sends
    assert answer(read_offer(audio_only("a=sendrecv", session=f"a={offered}"))).media[0].has("sendrecv")
    assert answer(read_offer(audio_only())).media[0].has("sendrecv")


def test_a_section_without_bundle_or_mid_is_answered_without_them() -> None:
    description = answer(read_offer(audio_only()))
    assert not description.has("group")
    assert not description.media[0].has("mid")


def test_transport_attributes_are_read_from_the_first_section_of_the_bundle_group() -> None:
    video_first = (
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE v a\r\n"
        "m=video 9 UDP/TLS/RTP/SAVPF 97\r\na=mid:v\r\na=rtpmap:97 VP8/90000\r\na=rtcp-mux\r\na=setup:passive\r\n"
        f"a=ice-ufrag:wxyz\r\na=ice-pwd:{'y' * 22}\r\na=fingerprint:sha-256 {DIGEST}\r\n"
        "m=audio 0 UDP/TLS/RTP/SAVPF 0 96\r\na=mid:a\r\na=bundle-only\r\na=rtpmap:96 OPUS/48000/2\r\n"
    )
    offer = read_offer(video_first.encode())
    assert (offer.audio, offer.ice.ufrag, offer.setup) == (1, "wxyz", "passive")
    description = answer(offer)
    assert [section.port for section in description.media] == [0, 3478]
    assert description.values("group") == ["BUNDLE a"]


def test_header_extensions_are_mirrored_and_only_those_in_use_are_answered() -> None:
    data = audio_only(
        f"a=extmap:1/sendonly {AUDIO_LEVEL}",
        f"a=extmap:2/inactive {MID}",
        f"a=extmap:15 {MID}",
        f"a=extmap:3 {MID}",
        f"a=extmap:4 {MID}",
        "a=extmap:5 urn:ietf:params:rtp-hdrext:toffset",
    )
    assert answer(read_offer(data)).media[0].values("extmap") == [f"1/recvonly {AUDIO_LEVEL}", f"3 {MID}"]


def test_only_supported_feedback_is_answered_once_each() -> None:
    data = audio_only(
        *("a=rtcp-fb:96 nack", "a=rtcp-fb:96 nack pli", "a=rtcp-fb:* transport-cc ", "a=rtcp-fb:96 transport-cc"),
        *("a=rtcp-fb:96 goog-remb", "a=rtcp-fb:97 ccm fir", "a=rtcp-rsize"),
    )
    offer = read_offer(data)
    assert answer(offer).media[0].values("rtcp-fb") == ["96 nack", "96 transport-cc"]
    request = offer.call_request("rtc_1", "acme", {})
    assert request.feedback == ("nack", "transport-cc")
    assert request.reduced_size_rtcp
    assert not read_offer(audio_only()).call_request("rtc_1", "acme", {}).reduced_size_rtcp
    assert read_offer(audio_only("a=rtcp-fb:97 nack", "a=rtcp-fb:97 transport-cc")).feedback == ()


@pytest.mark.parametrize(
    ("offer", "answered"),
    [
        (sections(("0", "sendonly"), ("1", "recvonly")), [("0", "recvonly"), ("1", "sendonly")]),
        (sections(("0", "recvonly"), ("1", "sendonly")), [("0", "sendonly"), ("1", "recvonly")]),
        (sections(("0", "inactive"), ("1", "sendrecv")), [("1", "sendrecv")]),
        (sections(("0", "recvonly"), ("1", "sendrecv")), [("1", "sendrecv")]),
        (sections(("0", "sendonly"), ("1", "sendrecv")), [("1", "sendrecv")]),
        (sections(("0", "sendrecv"), ("1", "sendrecv")), [("0", "sendrecv")]),
        (sections(("0", "sendrecv"), ("1", "sendrecv"), ports="09"), [("1", "sendrecv")]),
        (sections(("0", "inactive"), ("1", "sendonly"), ("2", "recvonly")), [("1", "recvonly"), ("2", "sendonly")]),
        (sections(("0", "sendonly"), ("1", "recvonly"), ("2", "sendrecv")), [("2", "sendrecv")]),
        (sections(("0", "recvonly"), ("1", "recvonly")), [("0", "sendonly")]),
        (sections(("0", "sendonly"), ("1", "inactive")), [("0", "recvonly")]),
        (sections(("0", "inactive"), ("1", "sendonly"), group=False), [("1", "recvonly")]),
        (sections(("0", "sendonly"), ("1", "recvonly"), ports="90"), [("0", "recvonly")]),
    ],
)
def test_the_audio_sections_with_the_most_useful_directions_are_accepted(
    offer: bytes, answered: list[tuple[str, str]]
) -> None:
    """A microphone and a loudspeaker in separate sections are one conversation. An inactive section is never chosen."""
    negotiated = read_offer(offer)
    description = answer(negotiated)
    live = [section for section in description.media if section.port]
    names = ("sendrecv", "sendonly", "recvonly", "inactive")
    assert [(s.value("mid"), next(name for name in names if s.has(name))) for s in live] == answered
    sending = [section for section in live if section.has("sendonly") or section.has("sendrecv")]
    assert [section.has("ssrc") for section in live] == [section in sending for section in live]
    if len(answered) == 2:
        request = negotiated.call_request("rtc_1", "acme", {})
        assert (request.direction, request.mid) == ("sendrecv", sending[0].value("mid"))
        assert description.value("group") == "BUNDLE " + " ".join(mid for mid, _ in answered)
        assert request.feedback == ("nack",)
        assert [extension.uri for extension in request.extensions] == [MID]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("a=group:BUNDLE 0 1", "a=group:BUNDLE 0"),
        (
            "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:1\r\na=rtpmap:111 opus/48000/2",
            "m=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:1",
        ),
    ],
)
def test_sections_of_different_transports_or_codecs_are_not_paired(old: str, new: str) -> None:
    offer = sections(("0", "sendonly"), ("1", "recvonly")).decode().replace(old, new)
    assert [section.port != 0 for section in answer(read_offer(offer.encode())).media] == [True, False]


@pytest.mark.parametrize("codec", ["111 opus/48000/2", "111 opus/48000/1", "111 opus/48000", "111 OPUS/48000/2"])
def test_opus_is_accepted_with_any_channel_count(codec: str) -> None:
    """RFC 7587 §7 requires two. The answer repeats the offered count, because offerers compare it."""
    negotiated = read_offer(audio_only(codec=codec))
    assert negotiated.codec.name == "opus"
    answered = answer(negotiated).media[0].values("rtpmap")
    assert [RtpMap.decode(value) for value in answered] == [RtpMap.decode(codec)]


@pytest.mark.parametrize(
    "data",
    [
        without("a=group"),
        edited("a=group:BUNDLE 0 1", "a=group:BUNDLE 1"),
        edited("a=group:BUNDLE 0 1", "a=group:LS 0 1"),
    ],
    ids=["no group", "audio outside the group", "no BUNDLE group"],
)
def test_the_audio_of_unbundled_sections_is_accepted_and_the_others_rejected(data: bytes) -> None:
    """RFC 9429 §4.1.1, max-bundle. Offers of webrtcbin are not bundled unless the application asks for it."""
    offer = read_offer(data)
    answered = answer(offer, WITH_CHANNELS)
    assert offer.sctp is None
    assert [section.port for section in answered.media] == [3478, 0]
    assert not answered.has("group")
