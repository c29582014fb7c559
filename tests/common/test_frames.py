import json
import random
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from antiphon_common import frames
from antiphon_common.errors import DecodeError
from support.mutation import mutations

REPOSITORY = Path(__file__).parents[2]
VECTORS: list[dict[str, Any]] = json.loads((REPOSITORY / "tests/vectors/frames.json").read_text())["frames"]
PAGE = (REPOSITORY / "docs/reference/backend-protocol.md").read_text()


def made(vector: dict[str, Any]) -> frames.Frame:
    fields = dict(vector["fields"])
    if "data" in fields:
        fields["data"] = bytes.fromhex(fields["data"])
    if "formats" in fields:
        fields["formats"] = tuple(fields["formats"])
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


def test_the_specification_names_every_tag() -> None:
    kinds = {kind.__struct_config__.tag: kind for kind in frames.AnyFrame.__args__}
    listed = {int(tag) for tag in re.findall(r"^### .* \((\d+)\)$", PAGE, re.MULTILINE)}
    assert listed == set(kinds)
    for tag, name in frames.RESERVED_TAGS.items():
        assert f"| {tag} | {name} |" in PAGE


def test_one_bad_frame_or_unknown_tag_leaves_the_others_of_a_message_alone() -> None:
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
def test_a_message_that_is_no_array_of_frames_is_refused(message: bytes) -> None:
    with pytest.raises(DecodeError):
        list(frames.decode(message))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_broken_bytes_raise_nothing_but_decode_error(vector: dict[str, Any]) -> None:
    seed = f"frames {vector['name']}"
    print("seed", seed)
    for broken in mutations(frames.encode([made(vector)] * 2), random.Random(seed), 3000):
        with suppress(DecodeError):
            list(frames.decode(broken))


def test_what_cannot_be_encoded_is_told_before_it_is_in_a_message() -> None:
    with pytest.raises(ValueError, match="encode"):
        frames.encode_frame(frames.Started(1, "rtc_1", "acme", "opus", {"huge": 10**40}))
