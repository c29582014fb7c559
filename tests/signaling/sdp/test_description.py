import random
from pathlib import Path

import pytest

from antiphon_common.errors import DecodeError
from antiphon_signaling.sdp import Attribute, MediaDescription, SessionDescription
from antiphon_signaling.sdp.attributes import ExtMap, FormatParameters, Group, RtpMap, decode_fingerprint
from antiphon_signaling.sdp.description import MAX_ATTRIBUTES, MAX_LINES, MAX_MEDIA, MAX_SIZE

OFFERS = sorted((Path(__file__).parent.parent / "offers").glob("*.sdp"))
HEAD = b"v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n"


@pytest.mark.parametrize("file", OFFERS, ids=lambda file: file.stem)
def test_encoding_inverts_decoding_of_recorded_offers(file: Path) -> None:
    description = SessionDescription.decode(file.read_bytes())
    assert description.media[0].kind == "audio"
    assert SessionDescription.decode(description.encode()) == description


def test_line_ends_may_be_lf_or_missing_at_the_end() -> None:
    text = HEAD + b"m=audio 9/2 UDP/TLS/RTP/SAVPF 111 0\r\nc=IN IP4 0.0.0.0\r\na=rtcp-mux\r\na=mid:0\r\n"
    description = SessionDescription.decode(text)
    assert description.media == (
        MediaDescription(
            kind="audio",
            port=9,
            protocol="UDP/TLS/RTP/SAVPF",
            formats=("111", "0"),
            connection="IN IP4 0.0.0.0",
            attributes=(Attribute("rtcp-mux"), Attribute("mid", "0")),
        ),
    )
    assert SessionDescription.decode(text.replace(b"\r\n", b"\n")) == description
    assert SessionDescription.decode(text.rstrip()) == description


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"{}",
        b"v=1\r\no=- 1 1 IN IP4 127.0.0.1\r\n",
        HEAD + b" \xc2\xa0\r\n",
        HEAD + b"a=x\0y\r\n",
        HEAD + b"m=audio\r\n",
        HEAD + b"m=audio 65536 RTP/AVP 0\r\n",
        HEAD + "m=audio ٣ RTP/AVP 0\r\n".encode(),
        HEAD + b"m=audio 9 RTP/AVP 0\r\n" * (MAX_MEDIA + 1),
        HEAD + b"a=x\r\n" * (MAX_ATTRIBUTES + 1),
        HEAD + b"b=x\r\n" * MAX_LINES,
        HEAD + b"m=audio 9 RTP/AVP" + b" 0" * 300 + b"\r\n",
        HEAD + b"a=x:" + b"y" * MAX_SIZE,
    ],
)
def test_bad_or_oversized_bytes_raise_decode_error(data: bytes) -> None:
    with pytest.raises(DecodeError):
        SessionDescription.decode(data)


@pytest.mark.parametrize(
    "data",
    [
        HEAD + b"a=mid:0",
        HEAD.replace(b"\r\n", b"\n") + b"a=mid:0\n",
        HEAD.replace(b"\r\n", b"\r") + b"a=mid:0\r",
        b"\xef\xbb\xbf" + HEAD + b"a=mid:0\r\n",
        b"\r\n\n" + HEAD + b"\r\n \t\r\na=\r\na=mid:0\r\n\r\n\n\n",
        HEAD.replace(b"\r\n", b" \t\r\n") + b"a=mid:0 \r\n",
        HEAD + b"a=Mid:0\r\n",
        HEAD + b"a=bad name:1\r\na=mid:0\r\na=a/b\r\na=:c\r\n",
        b"v=0\r\na=mid:0\r\n",
    ],
    ids=[
        *("no end", "LF", "CR", "byte order mark", "blank lines", "trailing blanks", "name in capitals"),
        *("names that are no tokens", "no o= and t="),
    ],
)
def test_other_line_ends_blanks_and_missing_lines_are_accepted(data: bytes) -> None:
    """RFC 8866 §5 requires CRLF and a fixed order of lines, but clients are less strict. Unknown attributes are ignored
    (§5.13)."""
    assert SessionDescription.decode(data).value("mid") == "0"


def test_mutated_offers_raise_only_decode_error() -> None:
    seed = 20260801
    source = random.Random(seed)
    for file in OFFERS:
        original = file.read_bytes()
        for _ in range(300):
            data = bytearray(original)
            for _ in range(source.randrange(1, 8)):
                data[source.randrange(len(data))] = source.randrange(256)
            try:
                SessionDescription.decode(bytes(data))
            except DecodeError:
                continue


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (RtpMap, "111 opus/48000/2"),
        (RtpMap, "0 PCMU/8000"),
        (FormatParameters, "111 minptime=10;useinbandfec=1"),
        (FormatParameters, "101 0-15"),
        (ExtMap, "1 urn:ietf:params:rtp-hdrext:ssrc-audio-level"),
        (ExtMap, "2/recvonly urn:ietf:params:rtp-hdrext:csrc-audio-level"),
        (Group, "BUNDLE 0 1"),
    ],
)
def test_encoding_inverts_decoding_of_attribute_values(
    kind: type[RtpMap] | type[FormatParameters] | type[ExtMap] | type[Group], text: str
) -> None:
    assert kind.decode(text).encode() == text


@pytest.mark.parametrize(
    ("kind", "text"),
    [(RtpMap, "128 opus/48000"), (RtpMap, "opus"), (FormatParameters, ""), (ExtMap, "one urn:x"), (Group, "")],
)
def test_bad_attribute_values_raise_decode_error(
    kind: type[RtpMap] | type[FormatParameters] | type[ExtMap] | type[Group], text: str
) -> None:
    with pytest.raises(DecodeError):
        kind.decode(text)


def test_fingerprints_are_normalised_and_weak_ones_ignored() -> None:
    found = decode_fingerprint("SHA-256 " + ":".join(["ab"] * 32))
    assert found is not None
    assert (found.algorithm, found.value) == ("sha-256", ":".join(["AB"] * 32))
    assert decode_fingerprint("sha-1 " + ":".join(["AB"] * 20)) is None
    with pytest.raises(DecodeError):
        decode_fingerprint("sha-384 " + ":".join(["AB"] * 32))
