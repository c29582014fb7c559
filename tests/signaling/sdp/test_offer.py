"""Offers: the call requests that they become, and offers that are refused."""

import sys

import pytest

from antiphon_common.control import HeaderExtension, IceParameters, SctpParameters
from antiphon_common.errors import DecodeError
from antiphon_common.rtp_extensions import ABSOLUTE_SEND_TIME, AUDIO_LEVEL, MID, TRANSPORT_SEQUENCE
from antiphon_signaling.sdp import OfferError, read_offer
from antiphon_signaling.sdp.offer import MAX_FINGERPRINTS
from support.peers.sdp_offers import (
    DIGEST,
    audio_only,
    edited,
    recorded,
    sections,
    without,
)


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
def test_recorded_offers_give_the_call_request(
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


def test_every_fingerprint_of_an_offer_is_passed_on() -> None:
    fingerprints = read_offer(recorded("aiortc-1.16")).fingerprints
    assert [fingerprint.algorithm for fingerprint in fingerprints] == ["sha-256", "sha-384", "sha-512"]


def test_an_offer_without_audio_but_with_data_channels_is_refused_with_its_reason() -> None:
    with pytest.raises(OfferError, match="no audio section but only data channels") as caught:
        read_offer(edited("m=audio 45882", "m=audio 0"))
    assert caught.value.code == "no_audio"


@pytest.mark.parametrize("setup", ["actpass", "active", "passive"])
def test_setup_of_the_offer_reaches_the_transceiver(setup: str) -> None:
    assert read_offer(edited("setup:actpass", f"setup:{setup}")).setup == setup


def test_offers_without_candidates_are_accepted() -> None:
    assert read_offer(without("a=candidate")) is not None


def test_media_level_fingerprints_replace_those_of_the_session() -> None:
    session = f"a=fingerprint:sha-384 {':'.join(['EE'] * 48)}"
    data = audio_only(
        f"a=fingerprint:sha-256 {DIGEST}", f"a=fingerprint:sha-1 {':'.join(['AA'] * 20)}", session=session
    )
    assert [fingerprint.algorithm for fingerprint in read_offer(data).fingerprints] == ["sha-256"]


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
def test_offers_that_cannot_be_answered_are_refused_with_a_reason(data: bytes, code: str) -> None:
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
def test_malformed_values_raise_decode_error(data: bytes) -> None:
    with pytest.raises(DecodeError):
        read_offer(data)


def test_a_call_on_hold_may_restart_ice() -> None:
    assert read_offer(audio_only("a=inactive"), held=True).direction == "inactive"


def test_the_cost_of_an_offer_is_linear_in_its_length() -> None:
    """Many sections with many groups or session attributes. Each is read once."""

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
def test_variants_of_attributes_are_accepted(old: str, new: str, end: str) -> None:
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
def test_ice_credentials_in_any_base64_are_accepted(ufrag: str, password: str) -> None:
    """RFC 8839 §5.4 allows only + and /. Browsers also accept other characters, which devices send."""
    text = audio_only().decode().replace("ufrag:abcd", f"ufrag:{ufrag}").replace("x" * 22, password)
    assert read_offer(text.encode()).ice == IceParameters(ufrag, password)


@pytest.mark.parametrize("size", ["18446744073709551615", "1" + "0" * 5000], ids=["2^64 - 1", "5,001 digits"])
def test_a_huge_maximum_message_size_is_accepted_as_unlimited(size: str) -> None:
    """RFC 8841 §6.1 allows any number of digits."""
    assert read_offer(edited("max-message-size:262144", f"max-message-size:{size}")).sctp == SctpParameters(5000, 0)
