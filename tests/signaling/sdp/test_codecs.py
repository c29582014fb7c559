import pytest

from antiphon_common.control import Codec
from antiphon_signaling.sdp.codecs import answered_formats, choose_codec, write_codec
from antiphon_signaling.sdp.description import Attribute, MediaDescription

OPUS = "rtpmap:111 opus/48000/2"
RED = "rtpmap:63 red/48000/2"


def section(formats: str, *attributes: str) -> MediaDescription:
    pairs = (attribute.partition(":") for attribute in attributes)
    return MediaDescription(
        kind="audio",
        port=9,
        protocol="UDP/TLS/RTP/SAVPF",
        formats=tuple(formats.split()),
        connection=None,
        attributes=tuple(Attribute(name, value) for name, _, value in pairs),
    )


def test_opus_is_chosen_at_any_position() -> None:
    codec = choose_codec(section("0 8 111", OPUS, "fmtp:111 minptime=10;maxaveragebitrate=20000"))
    assert codec == Codec("opus", 111, 48000, parameters={"minptime": "10", "maxaveragebitrate": "20000"})


@pytest.mark.parametrize(
    ("formats", "attributes", "taken"),
    [
        ("0 8", [], ("pcmu", 0)),
        ("9 8 0", ["rtpmap:9 G722/8000"], ("pcma", 8)),
        ("97", ["rtpmap:97 PCMU/8000/1"], ("pcmu", 97)),
        ("0", ["rtpmap:0 PCMU/16000"], None),
        ("97", ["rtpmap:97 PCMA/8000/2"], None),
        ("13", [], None),
    ],
)
def test_the_first_g711_codec_is_chosen_without_opus(
    formats: str, attributes: list[str], taken: tuple[str, int] | None
) -> None:
    codec = choose_codec(section(formats, *attributes))
    assert (codec and (codec.name, codec.payload_type)) == taken
    assert codec is None or (codec.clock_rate, codec.redundancy) == (8000, None)


@pytest.mark.parametrize(
    ("attributes", "redundancy"),
    [
        ((RED, "fmtp:63 111/111"), 63),
        ((RED, "fmtp:63 111/111/111"), 63),
        ((RED,), 63),
        ((RED, "fmtp:63 111/0"), None),
        (("rtpmap:63 red/8000",), None),
        ((), None),
    ],
)
def test_red_is_chosen_if_it_contains_opus(attributes: tuple[str, ...], redundancy: int | None) -> None:
    codec = choose_codec(section("111 63", OPUS, *attributes))
    assert codec is not None
    assert codec.redundancy == redundancy


def test_the_answer_keeps_the_offered_order() -> None:
    codec = Codec("opus", 111, 48000, redundancy=63)
    assert answered_formats(section("0 63 111 8"), codec) == ("63", "111")
    assert answered_formats(section("111 63"), codec) == ("111", "63")
    assert answered_formats(section("0 63 111"), Codec("opus", 111, 48000)) == ("111",)


def test_the_answer_lists_the_accepted_codecs() -> None:
    def lines(offered: MediaDescription, codec: Codec) -> list[str]:
        return [f"{attribute.name}:{attribute.value}" for attribute in write_codec(offered, codec)]

    assert lines(section("8"), Codec("pcma", 8, 8000)) == ["rtpmap:8 PCMA/8000"]
    opus = section("111 63", "rtpmap:111 opus/48000/2", "rtpmap:63 red/48000/2")
    assert lines(opus, Codec("opus", 111, 48000, redundancy=63)) == [
        "rtpmap:111 opus/48000/2",
        "fmtp:111 minptime=10;useinbandfec=1",
        "rtpmap:63 red/48000/2",
        "fmtp:63 111/111",
    ]
