import sys
from pathlib import Path

import msgspec
import pytest

from antiphon_common.control import CallAccepted, Fingerprint, HeaderExtension, IceParameters, SctpParameters
from antiphon_common.errors import DecodeError
from antiphon_common.rtp_extensions import ABSOLUTE_SEND_TIME, AUDIO_LEVEL, MID, TRANSPORT_SEQUENCE
from antiphon_signaling.sdp import Offer, OfferError, SessionDescription, read_offer, write_answer
from antiphon_signaling.sdp.attributes import RtpMap
from antiphon_signaling.sdp.offer import MAX_FINGERPRINTS

OFFERS = Path(__file__).parent.parent / "offers"
DIGEST = ":".join(["AB"] * 32)
ACCEPTED = CallAccepted(
    ice=IceParameters("Aabcdefghijklmnopqrstuv", "p" * 24),
    setup="active",
    fingerprint=Fingerprint("sha-256", ":".join(["CD"] * 32)),
    ssrc=0x12345678,
    cname="call",
)
WITH_CHANNELS = msgspec.structs.replace(ACCEPTED, sctp=SctpParameters(5000, 262144))
ADDRESSES = [("203.0.113.10", 3478), ("2001:db8::10", 3478)]


def recorded(name: str) -> bytes:
    return (OFFERS / f"{name}.sdp").read_bytes()


def edited(old: str, new: str = "", name: str = "chromium-156") -> bytes:
    """Return a recorded offer with a piece of every line that has it replaced; a line left empty goes."""
    lines = (line.replace(old, new) for line in recorded(name).decode().splitlines())
    return "".join(f"{line}\r\n" for line in lines if line).encode()


def without(prefix: str, name: str = "chromium-156") -> bytes:
    lines = recorded(name).decode().splitlines()
    return "".join(f"{line}\r\n" for line in lines if not line.startswith(prefix)).encode()


def audio_only(*attributes: str, session: str = "", codec: str = "96 opus/48000/2") -> bytes:
    """Return a small offer of one audio section that lacks nothing, with more attributes."""
    lines = [
        *("v=0", "o=- 1 1 IN IP4 127.0.0.1", "s=-", "t=0 0", *session.splitlines()),
        *(f"m=audio 9 UDP/TLS/RTP/SAVPF {codec.split()[0]}", f"a=rtpmap:{codec}", "a=rtcp-mux", "a=setup:actpass"),
        *("a=ice-ufrag:abcd", f"a=ice-pwd:{'x' * 22}", *attributes),
    ]
    if not any("fingerprint" in line for line in lines):
        lines.append(f"a=fingerprint:sha-256 {DIGEST}")
    return "".join(f"{line}\r\n" for line in lines).encode()


def sections(*given: tuple[str, str], codec: str = "111 opus/48000/2", group: bool = True, ports: str = "") -> bytes:
    """Return an offer of audio sections, each with a mid and a direction; `ports` has a 0 for each without one."""
    lines = ["v=0", "o=- 1 1 IN IP4 127.0.0.1", "s=-", "t=0 0", f"a=fingerprint:sha-256 {DIGEST}", "a=setup:actpass"]
    lines += ["a=ice-ufrag:abcd", f"a=ice-pwd:{'x' * 22}"]
    lines += ["a=group:BUNDLE " + " ".join(mid for mid, _ in given)] if group else []
    for (mid, direction), port in zip(given, ports.ljust(len(given), "9"), strict=True):
        lines += [f"m=audio {port} UDP/TLS/RTP/SAVPF {codec.split()[0]}", f"a=mid:{mid}", f"a=rtpmap:{codec}"]
        lines += [f"a={direction}", "a=rtcp-mux", f"a=extmap:4 {MID}", f"a=rtcp-fb:{codec.split()[0]} nack"]
    return "".join(f"{line}\r\n" for line in lines).encode()


def answer(offer: Offer, accepted: CallAccepted = ACCEPTED) -> SessionDescription:
    return SessionDescription.decode(write_answer(offer, accepted, ADDRESSES, 2**62).encode())


@pytest.mark.parametrize(
    ("name", "ufrag", "payload_type", "extensions", "parameters"),
    [
        (
            "chromium-156",
            "LWxw",
            111,
            {(1, AUDIO_LEVEL), (2, ABSOLUTE_SEND_TIME), (3, TRANSPORT_SEQUENCE), (4, MID)},
            {"minptime": "10", "useinbandfec": "1"},
        ),
        (
            "firefox-esr",
            "7db4594c",
            109,
            {(1, AUDIO_LEVEL), (3, MID), (7, TRANSPORT_SEQUENCE)},
            {"maxplaybackrate": "48000", "stereo": "1", "useinbandfec": "1"},
        ),
        ("aiortc-1.16", None, 96, {(1, MID), (2, AUDIO_LEVEL)}, {}),
        (
            "pion-4",
            "RkXcYqTgWbNzPdLs",
            111,
            {(1, TRANSPORT_SEQUENCE), (2, MID)},
            {"minptime": "10", "useinbandfec": "1"},
        ),
    ],
)
def test_real_offers_say_what_the_transceiver_needs(
    name: str, ufrag: str | None, payload_type: int, extensions: set[tuple[int, str]], parameters: dict[str, str]
) -> None:
    request = read_offer(recorded(name)).call_request("rtc_1", "acme", {"model": "echo"})
    assert ufrag in (None, request.ice.ufrag)
    assert (request.codec.name, request.codec.payload_type, request.codec.clock_rate) == ("opus", payload_type, 48000)
    assert request.codec.channels == 1
    assert request.codec.parameters == parameters
    assert set(request.extensions) == {HeaderExtension(*pair) for pair in extensions}
    assert (request.setup, request.mid, request.tenant, request.session) == ("actpass", "0", "acme", {"model": "echo"})
    assert "sha-256" in {fingerprint.algorithm for fingerprint in request.fingerprints}


def test_every_fingerprint_of_an_offer_counts() -> None:
    fingerprints = read_offer(recorded("aiortc-1.16")).fingerprints
    assert [fingerprint.algorithm for fingerprint in fingerprints] == ["sha-256", "sha-384", "sha-512"]


@pytest.mark.parametrize("name", ["chromium-156", "firefox-esr", "aiortc-1.16", "pion-4"])
def test_an_answer_takes_the_audio_and_rejects_the_rest(name: str) -> None:
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
def test_data_channels_are_taken_on_the_transport_of_the_audio(name: str, longest: int) -> None:
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


def test_a_transceiver_without_data_channels_has_them_rejected() -> None:
    description = answer(read_offer(recorded("chromium-156")), ACCEPTED)
    assert description.values("group") == ["BUNDLE 0"]
    assert description.media[1].port == 0


def with_application(*attributes: str, group: str = "BUNDLE a d", protocol: str = "UDP/DTLS/SCTP") -> bytes:
    application = (f"m=application 9 {protocol} webrtc-datachannel", "a=mid:d", *attributes)
    return audio_only("a=mid:a", f"a=fingerprint:sha-256 {DIGEST}", *application, session=f"a=group:{group}")


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


def test_transport_stands_where_the_offer_bundles_first() -> None:
    offer = read_offer(with_application("a=sctp-port:5000", group="BUNDLE d a"))
    description = answer(offer, WITH_CHANNELS)
    assert description.values("group") == ["BUNDLE d a"]
    assert [section.has("candidate") for section in description.media] == [False, True]


def test_an_offer_of_data_channels_alone_is_told_what_it_lacks() -> None:
    with pytest.raises(OfferError, match="no audio section but only data channels") as caught:
        read_offer(edited("m=audio 45882", "m=audio 0"))
    assert caught.value.code == "no_audio"


@pytest.mark.parametrize(
    ("offered", "answered", "sends"),
    [
        ("sendrecv", "sendrecv", True),
        ("sendonly", "recvonly", False),
        ("recvonly", "sendonly", True),
    ],
)
def test_direction_is_mirrored_wherever_it_stands(offered: str, answered: str, sends: bool) -> None:
    for data in (audio_only(f"a={offered}"), audio_only(session=f"a={offered}")):
        audio = answer(read_offer(data)).media[0]
        assert audio.has(answered)
        assert audio.has("msid") == audio.has("ssrc") == sends
    assert answer(read_offer(audio_only("a=sendrecv", session=f"a={offered}"))).media[0].has("sendrecv")
    assert answer(read_offer(audio_only())).media[0].has("sendrecv")


@pytest.mark.parametrize("setup", ["actpass", "active", "passive"])
def test_setup_of_the_offer_reaches_the_transceiver(setup: str) -> None:
    assert read_offer(edited("setup:actpass", f"setup:{setup}")).setup == setup


def test_a_section_without_bundle_or_mid_is_answered_so() -> None:
    description = answer(read_offer(audio_only()))
    assert not description.has("group")
    assert not description.media[0].has("mid")


def test_offers_without_candidates_are_normal() -> None:
    assert read_offer(without("a=candidate")) is not None


def test_media_level_fingerprints_hide_those_of_the_session() -> None:
    session = f"a=fingerprint:sha-384 {':'.join(['EE'] * 48)}"
    data = audio_only(
        f"a=fingerprint:sha-256 {DIGEST}", f"a=fingerprint:sha-1 {':'.join(['AA'] * 20)}", session=session
    )
    assert [fingerprint.algorithm for fingerprint in read_offer(data).fingerprints] == ["sha-256"]


def test_transport_of_a_bundled_section_may_stand_in_the_first_one_of_its_group() -> None:
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


def test_only_feedback_that_is_spoken_is_answered_once_each() -> None:
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
    ("data", "code"),
    [
        (edited("m=audio", "m=video"), "no_audio"),
        (edited("m=audio 45882", "m=audio 0"), "no_audio"),
        (audio_only(codec="111 opus/16000/2"), "no_codec"),
        (edited("UDP/TLS/RTP/SAVPF", "UDP/RTP"), "no_codec"),
        (edited("ice-ufrag:", "ice-ufrag:a:"), "bad_ice_credentials"),
        (without("a=rtcp-mux"), "no_rtcp_mux"),
        (without("a=ice-ufrag"), "no_ice_credentials"),
        (without("a=ice-pwd"), "no_ice_credentials"),
        (edited("ice-pwd:c", "ice-pwd:!"), "bad_ice_credentials"),
        (edited("a=ice-pwd:", f"a=ice-pwd:{'x' * 21}\r\na=was:"), "bad_ice_credentials"),
        (edited("a=ice-pwd:", f"a=ice-pwd:{'x' * 257}\r\na=was:"), "bad_ice_credentials"),
        (without("a=fingerprint"), "no_fingerprint"),
        (edited("fingerprint:sha-256", "fingerprint:sha-1"), "no_fingerprint"),
        (audio_only(*[f"a=fingerprint:sha-256 {DIGEST}"] * (MAX_FINGERPRINTS + 1)), "bad_fingerprint"),
        (audio_only("a=inactive"), "inactive"),
        (audio_only(session="a=inactive"), "inactive"),
        (sections(("0", "inactive"), ("1", "inactive")), "inactive"),
        (edited("setup:actpass", "setup:holdconn"), "bad_setup"),
        (edited("a=extmap-allow-mixed", "a=ice-lite"), "ice_lite"),
    ],
)
def test_offers_that_cannot_be_answered_say_why_in_one_sentence(data: bytes, code: str) -> None:
    with pytest.raises(OfferError) as caught:
        read_offer(data)
    assert caught.value.code == code
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        edited("a=rtpmap:111 opus", "a=rtpmap:x opus"),
        edited("a=fingerprint:sha-256 84", "a=fingerprint:sha-256 8"),
        edited("a=extmap:1 ", "a=extmap:one "),
        edited("sctp-port:5000", "sctp-port:x"),
        edited("sctp-port:5000", "sctp-port:0"),
        edited("max-message-size:262144", "max-message-size:-1"),
        b"not sdp",
    ],
)
def test_broken_values_raise_decode_error(data: bytes) -> None:
    with pytest.raises(DecodeError):
        read_offer(data)


# Several audio sections


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
def test_the_audio_sections_that_carry_most_of_a_conversation_are_taken(
    offer: bytes, answered: list[tuple[str, str]]
) -> None:
    """A microphone and a loudspeaker in sections of their own are one conversation; a dead section never wins."""
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
def test_sections_of_different_transports_or_codecs_are_no_pair(old: str, new: str) -> None:
    offer = sections(("0", "sendonly"), ("1", "recvonly")).decode().replace(old, new)
    assert [section.port != 0 for section in answer(read_offer(offer.encode())).media] == [True, False]


def test_a_call_on_hold_may_restart_ice() -> None:
    assert read_offer(audio_only("a=inactive"), held=True).direction == "inactive"


def test_the_work_for_an_offer_grows_with_its_length_alone() -> None:
    """Many sections times many groups, or times many attributes of the session: each is looked at once."""

    def count_calls(data: bytes) -> int:
        counted = 0

        def profile(frame: object, event: str, argument: object) -> None:
            nonlocal counted
            counted += event in ("call", "c_call")

        sys.setprofile(profile)
        try:
            read_offer(data)
        except OfferError:
            pass
        finally:
            sys.setprofile(None)
        return counted

    many = sections(*((str(number), "sendonly") for number in range(60)))
    groups = "".join(f"a=group:BUNDLE {' '.join(['z'] * 40)}\r\n" for _ in range(400))
    attributes = "a=x:1\r\n" * 400
    for more in (groups, attributes):
        data = many.replace(b"a=setup", more.encode() + b"a=setup", 1)
        assert count_calls(data) < 2 * len(data)


# Dialects


@pytest.mark.parametrize("codec", ["111 opus/48000/2", "111 opus/48000/1", "111 opus/48000", "111 OPUS/48000/2"])
def test_opus_is_opus_whatever_channels_it_is_written_with(codec: str) -> None:
    """RFC 7587 §7 wants two. The answer repeats what was offered, since offerers compare."""
    negotiated = read_offer(audio_only(codec=codec))
    assert negotiated.codec.name == "opus"
    answered = answer(negotiated).media[0].values("rtpmap")
    assert [RtpMap.decode(value) for value in answered] == [RtpMap.decode(codec)]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("a=setup:actpass", "a=setup:ACTPASS"),
        ("m=audio", "m=Audio"),
        ("UDP/TLS/RTP/SAVPF", "udp/tls/rtp/savpf"),
        ("UDP/TLS/RTP/SAVPF", "RTP/SAVPF"),
        ("UDP/TLS/RTP/SAVPF", "RTP/SAVP"),
        ("UDP/TLS/RTP/SAVPF", "RTP/AVPF"),
        ("UDP/TLS/RTP/SAVPF", "RTP/AVP"),
        ("a=setup:actpass", "a=x-no-setup"),
        ("a=setup:actpass", "a=setup:actpass\r\na=x-flag on\r\na=x/y:1\r\na=:z"),
        ("a=setup:actpass", "a=setup:actpass\r\na=extmap:1  urn:x\r\na=extmap:2\turn:y  z"),
        ("a=rtcp-mux", "a=RTCP-MUX"),
        ("a=rtcp-mux", "a=rtcp-mux-only"),
        ("a=ice-ufrag", "a=ICE-Ufrag"),
        ("fingerprint:sha-256", "fingerprint:SHA-256"),
        ("t=0 0", "a=x-later:1"),
        ("o=- 1 1 IN IP4 127.0.0.1", "i=no origin"),
        ("s=-", "s="),
        ("s=-", "s= "),
        ("a=setup:actpass", "a=setup:actpass\r\na=extmap-allow-mixed\r\na=x:"),
        ("m=audio 9", "m=audio 9/1"),
        ("m=audio 9 ", "m=audio  9\t"),
        ("a=rtpmap:96 ", "a=rtpmap:96  "),
        ("a=rtpmap:96 ", "a=rtpmap: 96\t"),
        ("a=setup:actpass", "a=setup: actpass"),
        ("SAVPF 96", "SAVPF 96 96 8"),
        ("a=rtpmap:96", "a=rtpmap:97 opus/48000/2\r\na=rtpmap:96"),
    ],
)
@pytest.mark.parametrize("end", ["\r\n", "\n", "\r", " \r\n", "\r\n\r\n"])
def test_dialects_are_understood(old: str, new: str, end: str) -> None:
    text = audio_only().decode()
    assert old in text
    negotiated = read_offer(text.replace(old, new).replace("\r\n", end).encode())
    assert (negotiated.setup, negotiated.codec.payload_type, negotiated.direction) == ("actpass", 96, "sendrecv")
    assert negotiated.ice.password == "x" * 22


@pytest.mark.parametrize(
    ("ufrag", "password"),
    [("a+/b", "x+/" * 8), ("YWJj", "eHh4eHh4eHh4eHh4eHh4eA=="), ("a_b-", "x_-" * 8), ("#abc", "#" * 22)],
    ids=["ice-chars", "padded Base64", "URL-safe Base64", "number sign"],
)
def test_ice_credentials_in_any_base64_are_taken(ufrag: str, password: str) -> None:
    """RFC 8839 §5.4 has only + and /. Browsers accept the others, which devices send."""
    text = audio_only().decode().replace("ufrag:abcd", f"ufrag:{ufrag}").replace("x" * 22, password)
    assert read_offer(text.encode()).ice == IceParameters(ufrag, password)


@pytest.mark.parametrize(
    "data",
    [
        without("a=group"),
        edited("a=group:BUNDLE 0 1", "a=group:BUNDLE 1"),
        edited("a=group:BUNDLE 0 1", "a=group:LS 0 1"),
    ],
    ids=["no group", "audio outside the group", "no BUNDLE group"],
)
def test_of_sections_that_are_not_bundled_the_audio_is_taken_and_the_rest_rejected(data: bytes) -> None:
    """RFC 9429 §4.1.1, max-bundle. Offers of webrtcbin are not bundled unless the application asks for it."""
    offer = read_offer(data)
    answered = answer(offer, WITH_CHANNELS)
    assert offer.sctp is None
    assert [section.port for section in answered.media] == [3478, 0]
    assert not answered.has("group")


@pytest.mark.parametrize("size", ["18446744073709551615", "1" + "0" * 5000], ids=["2^64 - 1", "5,001 digits"])
def test_a_maximum_message_size_beyond_any_need_is_no_limit(size: str) -> None:
    """RFC 8841 §6.1 lets it have any number of digits."""
    assert read_offer(edited("max-message-size:262144", f"max-message-size:{size}")).sctp == SctpParameters(5000, 0)
