import json
import random
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from antiphon_common import frames, json_objects
from antiphon_common.errors import DecodeError
from support.floods.mutation import mutations

REPOSITORY = Path(__file__).parents[2]
VECTORS: list[dict[str, Any]] = json.loads((REPOSITORY / "tests/vectors/frames.json").read_text())["frames"]
PAGE = (REPOSITORY / "docs/reference/backend-protocol.md").read_text()


def made(vector: dict[str, Any]) -> frames.Frame:
    fields = dict(vector["fields"])
    if "data" in fields:
        fields["data"] = bytes.fromhex(fields["data"])
    if "formats" in fields:
        fields["formats"] = tuple(fields["formats"])
    for name in fields.keys() & {"session", "metadata", "event"}:
        fields[name] = json_objects.pack(fields[name])
    frame: frames.Frame = getattr(frames, vector["frame"])(**fields)
    return frame


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_a_frame_is_encoded_as_its_vector_and_back(vector: dict[str, Any]) -> None:
    message = b"\x91" + bytes.fromhex(vector["hex"])
    assert frames.encode([made(vector)]) == message
    assert list(frames.decode(message)) == [made(vector)]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_the_specification_shows_the_bytes_of_each_vector(vector: dict[str, Any]) -> None:
    assert bytes.fromhex(vector["hex"]).hex(" ") in " ".join(PAGE.split())


def test_the_specification_lists_every_tag() -> None:
    kinds = {kind.__struct_config__.tag: kind for kind in frames.AnyFrame.__args__}
    listed = {int(tag) for tag in re.findall(r"^### .* \((\d+)\)$", PAGE, re.MULTILINE)}
    assert listed == set(kinds)
    for tag, name in frames.RESERVED_TAGS.items():
        assert f"| {tag} | {name} |" in PAGE


def test_a_bad_frame_or_unknown_tag_does_not_affect_other_frames_of_a_message() -> None:
    message = msgspec.msgpack.encode(
        [
            [6, 4, "text where bytes belong"],
            [99, 4, "from the future"],
            [14, "seven"],
            [6, -1, b""],
            "no array",
            [7, 4, 200, "a field appended later"],
        ]
    )
    bad_audio, unknown, bad_ping, bad_call, no_array, credit = frames.decode(message)
    assert isinstance(bad_audio, frames.BadFrame)
    assert bad_audio.call == 4
    assert unknown is None
    assert isinstance(bad_ping, frames.BadFrame)
    assert bad_ping.call is None, "a number is not a call"
    assert isinstance(bad_call, frames.BadFrame)
    assert isinstance(no_array, frames.BadFrame)
    assert credit == frames.Credit(4, 200)


@pytest.mark.parametrize("message", [b"", b"\xc1", b"\x92\x91\x0d", b"\x91" * 5000, msgspec.msgpack.encode({"a": 1})])
def test_a_message_that_is_not_an_array_of_frames_is_refused(message: bytes) -> None:
    with pytest.raises(DecodeError):
        list(frames.decode(message))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_corrupted_bytes_raise_only_decode_error(vector: dict[str, Any]) -> None:
    seed = f"frames {vector['name']}"
    print("seed", seed)
    for broken in mutations(frames.encode([made(vector)] * 2), random.Random(seed), 3000):
        with suppress(DecodeError):
            list(frames.decode(broken))


def test_a_value_that_cannot_be_encoded_raises_value_error() -> None:
    with pytest.raises(ValueError, match="encode"):
        json_objects.pack({"huge": 10**40})
    with pytest.raises(ValueError, match="encode"):
        frames.encode_frame(frames.Credit(1, 10**40))


def nested(levels: int, call: int = 5) -> bytes:
    """Return a `ServerEvent` nested too deeply for msgspec to skip."""
    return b"\x93\x11" + bytes([call]) + b"\x81\xa1a" + b"\x91" * levels + b"\xc0"


@pytest.mark.parametrize("levels", [70, 1500, 200_000])
def test_deep_nesting_in_one_frame_ends_only_its_call(levels: int) -> None:
    good = msgspec.msgpack.encode([7, 4, 200])
    before, bad, after = frames.decode(b"\x93" + good + nested(levels) + good)
    assert before == after == frames.Credit(4, 200)
    assert isinstance(bad, frames.BadFrame)
    assert bad.call == 5


def test_deep_nesting_is_skipped_in_steps() -> None:
    message = b"\x92" + nested(20 * frames.MAX_STEP_ELEMENTS) + b"\x91\x0d"
    pieces = list(frames.split(message))
    assert pieces.count(None) >= 20
    assert [bytes(piece) for piece in pieces if piece is not None] == [message[1:-2], message[-2:]]


@pytest.mark.parametrize("broken", [nested(5000)[:-1], nested(5000) + b"\x91\x0d\x00", nested(5000) + b"\x94\x06"])
def test_a_truncated_or_extended_deeply_nested_message_is_refused(broken: bytes) -> None:
    with pytest.raises(DecodeError):
        list(frames.decode(b"\x92" + broken))


@pytest.mark.parametrize(
    "message",
    [
        b"\xdc\x10\x01" + b"\xc0" * 4097,
        b"\xdd\x00\x0f\x00\x00" + b"\xc0" * 0xF0000,
        b"\xdd\x00\x04\x00\x00" + b"\x91\x0d" * 0x40000,
        b"\xdd\xff\xff\xff\xff",
    ],
)
def test_a_message_of_too_many_frames_is_refused_by_its_header(message: bytes) -> None:
    with pytest.raises(frames.TooManyFrames, match="4096 is the most"):
        frames.split(message)


def test_a_message_may_have_the_maximum_number_of_frames() -> None:
    assert len(list(frames.decode(frames.encode([frames.BackendDrain()] * frames.MAX_FRAMES)))) == frames.MAX_FRAMES


@pytest.mark.parametrize(
    ("frame", "call"),
    [
        (frames.BackendHello(1, 1, ("opus",) * 100_000), None),
        (frames.Refused(3, "full", "x" * frames.MAX_CONTROL_SIZE), 3),
        (frames.Ended(3, "x" * frames.MAX_CONTROL_SIZE), 3),
        (frames.HangUp(3, "x" * frames.MAX_CONTROL_SIZE), 3),
        (frames.Started(3, "x" * frames.MAX_STARTED_SIZE, "acme", "opus"), 3),
        (frames.ClientEvent(3, json_objects.pack({"text": "x" * frames.MAX_EVENT_SIZE})), 3),
        (frames.ServerEvent(3, json_objects.pack({"text": "x" * frames.MAX_EVENT_SIZE})), 3),
    ],
)
def test_a_frame_that_is_too_long_is_a_bad_frame_of_its_call(frame: frames.Frame, call: int | None) -> None:
    [bad] = frames.decode(frames.encode([frame]))
    assert isinstance(bad, frames.BadFrame)
    assert bad.call == call
    assert "is the most" in bad.detail


@pytest.mark.parametrize(
    "event",
    [
        [1, 2],
        "text",
        {1: 2},
        {"extension": msgspec.msgpack.Ext(5, b"x" * 1000)},
        {"many": [None] * json_objects.MAX_ELEMENTS},
        {str(number): None for number in range(json_objects.MAX_ELEMENTS)},
    ],
    ids=["array", "text", "integer key", "extension", "elements", "keys"],
)
@pytest.mark.parametrize("tag", [16, 17])
def test_an_event_that_is_not_a_json_object_within_the_limits_is_a_bad_frame(event: Any, tag: int) -> None:
    [bad] = frames.decode(msgspec.msgpack.encode([[tag, 70_000, event]]))
    assert isinstance(bad, frames.BadFrame)
    assert bad.call == 70_000


@pytest.mark.parametrize("fields", [[[], {}], [{"a": {1: 1}}, {"user": 7}], [{}, {"user": {}}]])
def test_a_start_whose_session_or_metadata_is_not_an_object_is_a_bad_frame(fields: list[Any]) -> None:
    [bad] = frames.decode(msgspec.msgpack.encode([[2, 9, "rtc_1", "acme", "opus", *fields]]))
    assert isinstance(bad, frames.BadFrame)
    assert bad.call == 9


@pytest.mark.parametrize("call", [0, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1])
def test_the_call_of_a_bad_frame_is_read_in_every_encoding(call: int) -> None:
    bad, _ = frames.decode(msgspec.msgpack.encode([[6, call, "no bytes"], [14, 1]]))
    assert isinstance(bad, frames.BadFrame)
    assert bad.call == call
