"""JSON objects that stay encoded: the same limits in JSON and in msgpack, checked before anything is built."""

import json
import random
from contextlib import suppress
from typing import Any

import msgspec
import pytest

from antiphon_common.errors import DecodeError
from antiphon_common.json_objects import (
    MAX_ELEMENTS,
    MAX_NESTING,
    LimitError,
    UnsupportedError,
    check_json,
    from_json,
    pack,
    to_json,
    unpack,
    validate,
    walk,
)
from support.floods.mutation import mutations

TEXTS = ["", "plain", 'quo"te', "back\\slash", '\\"', "[{,:}]", "\\\\", "ü€😀", "\x1f\n", '":"', "]" * 20]
SCALARS: list[Any] = [None, True, False, 0, -1, 127, -33, 2**32, 2**64 - 1, -(2**63), 1.5, -1e300, *TEXTS]


def random_value(chosen: random.Random, depth: int) -> Any:
    kind = chosen.random()
    if depth and kind < 0.25:
        return [random_value(chosen, depth - 1) for _ in range(chosen.randrange(5))]
    if depth and kind < 0.5:
        return random_object(chosen, depth - 1)
    return chosen.choice(SCALARS)


def random_object(chosen: random.Random, depth: int) -> dict[str, Any]:
    names = {f"{chosen.choice(TEXTS)}{number}" for number in range(chosen.randrange(6))}
    return {name: random_value(chosen, depth) for name in names}


def elements(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + sum(1 + elements(inner) for inner in value.values())
    return 1 + (sum(map(elements, value)) if isinstance(value, list) else 0)


def whole(data: bytes, pause: int = 1 << 30) -> tuple[int, int]:
    """Return the end of the first value of `data`, and the number of pauses of the walk."""
    steps, pauses = walk(memoryview(data), pause), 0
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value, pauses
        pauses += 1


def test_objects_are_unchanged_by_both_conversions() -> None:
    seed = 8
    print("seed", seed)
    chosen = random.Random(seed)
    for _ in range(500):
        members = random_object(chosen, 4)
        text = json.dumps(members, ensure_ascii=chosen.random() < 0.5, indent=chosen.choice([None, 2]))
        packed = from_json(text)
        assert unpack(packed) == members
        assert json.loads(to_json(packed)) == members
        assert unpack(pack(members)) == members


def test_the_limit_of_elements_is_exact_in_json_and_in_msgpack() -> None:
    seed = 9
    print("seed", seed)
    chosen = random.Random(seed)
    for _ in range(20):
        inner = random_object(chosen, 4)
        most = {"object": inner, "": [chosen.choice(SCALARS)] * (MAX_ELEMENTS - elements(inner) - 4)}
        more = {**most, "": [*most[""], 0]}
        indent = chosen.choice([None, 1])
        assert elements(most) == MAX_ELEMENTS
        validate(from_json(json.dumps(most, indent=indent)))
        with pytest.raises(LimitError, match=f"more than {MAX_ELEMENTS} keys and values"):
            from_json(json.dumps(more, indent=indent))
        with pytest.raises(LimitError, match=f"more than {MAX_ELEMENTS} keys and values"):
            validate(encoded(more))


def encoded(members: dict[str, Any]) -> msgspec.Raw:
    return msgspec.Raw(msgspec.msgpack.encode(members))


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_the_limit_of_nesting_is_exact_in_json_and_in_msgpack(opening: str, closing: str) -> None:
    def nested(levels: int) -> str:
        return '{"a":' + opening * (levels - 1) + "0" + closing * (levels - 1) + "}"

    validate(from_json(nested(MAX_NESTING)))
    with pytest.raises(LimitError, match=f"more than {MAX_NESTING} levels"):
        from_json(nested(MAX_NESTING + 1))
    with pytest.raises(LimitError, match=f"more than {MAX_NESTING} levels"):
        validate(encoded(json.loads(nested(MAX_NESTING + 1))))
    with pytest.raises(ValueError, match=f"more than {MAX_NESTING} levels"):
        pack(json.loads(nested(MAX_NESTING + 1)))


@pytest.mark.parametrize(
    "text",
    [
        '{"a":' + "[" * 100_000,
        '{"a":' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"a":[' + "1," * 130_000 + "1]}",
        '"' * 262_144,
        '{"a":[' + "{}," * 80_000 + "1]}",
        "]" * 262_144,
        "{" + ",".join(f'"{number}":0' for number in range(20_000)) + "}",
    ],
    ids=["unclosed arrays", "nested arrays", "integers", "quotes", "empty objects", "closing brackets", "keys"],
)
def test_input_that_is_expensive_to_decode_is_refused_first(text: str) -> None:
    with pytest.raises(DecodeError):
        check_json(text.encode())
    with pytest.raises(DecodeError):
        from_json(text)


@pytest.mark.parametrize(
    "packed",
    [
        b"\x81\xa1a" + b"\x91" * 200_000 + b"\xc0",
        b"\x81\xa1a\xdd\x00\x03\x00\x00" + b"\xc0" * 0x30000,
        b"\x81\xa1a\xdd\xff\xff\xff\xff" + b"\xc0" * 20_000,
        b"\x81\xa1a\xdf\xff\xff\xff\xff" + b"\xc0" * 20_000,
        b"\x81\xa1a\xc9\x00\x00\x80\x00\x05" + bytes(0x8000),
        b"\xdf\x00\x00\x80\x00" + b"".join(b"\xce" + number.to_bytes(4, "big") + b"\xc0" for number in range(0x8000)),
    ],
    ids=["nested arrays", "nils", "a promise of an array", "a promise of a map", "an extension", "integer keys"],
)
def test_msgpack_that_is_not_a_json_object_or_exceeds_the_limits_is_refused(packed: bytes) -> None:
    with pytest.raises(DecodeError):
        validate(msgspec.Raw(packed))


NO_OBJECTS = ["", "[]", "3", "{", "{}x", "\ufeff{}", '{"a":"\\ud800"}', '{"a":1e400}', "{'a':1}"]


@pytest.mark.parametrize("text", NO_OBJECTS)
def test_text_that_is_not_a_json_object_is_refused(text: str) -> None:
    with pytest.raises(DecodeError, match="not a JSON object"):
        from_json(text)


def test_an_integer_beyond_64_bits_raises_another_error_than_invalid_json() -> None:
    with pytest.raises(UnsupportedError) as raised:
        from_json('{"event_id": "mine", "number": 1180591620717411303424}')
    assert raised.value.members["event_id"] == "mine"


def test_a_walk_ends_where_the_value_ends_for_every_kind_of_header() -> None:
    lengths = (0, 1, 31, 32, 255, 256, 65_535, 65_536)
    values: list[Any] = [*SCALARS, msgspec.msgpack.Ext(5, b"x")]
    values += [made for length in lengths for made in ("x" * length, bytes(length), [None] * length)]
    values += [{str(number): number for number in range(length)} for length in lengths[:6]]
    values += [msgspec.msgpack.Ext(5, bytes(length)) for length in (1, 2, 4, 8, 16, 17, 300, 70_000)]
    for value in values:
        data = msgspec.msgpack.encode(value)
        assert whole(data + b"\xc0\xc0") == (len(data), 0)
        for cut in {0, 1, len(data) - 1} - {len(data)}:
            with pytest.raises(DecodeError):
                whole(data[:cut])
    assert whole(b"\x91" * 10_000 + b"\xca\x00\x00\x00\x00", 1000) == (10_005, 10)


@pytest.mark.parametrize("header", [b"\xdd", b"\xdf"], ids=["array", "map"])
def test_a_length_beyond_the_remaining_bytes_is_refused_at_once(header: bytes) -> None:
    steps = walk(memoryview(header + b"\xff\xff\xff\xff" + b"\xc0" * 20_000), 1)
    assert next(steps) is None
    with pytest.raises(DecodeError):
        next(steps)


def test_invalid_msgpack_raises_only_decode_error() -> None:
    seed = "json objects"
    print("seed", seed)
    chosen = random.Random(seed)
    for _ in range(20):
        for broken in mutations(msgspec.msgpack.encode(random_object(chosen, 4)), chosen, 200):
            with suppress(DecodeError):
                validate(msgspec.Raw(broken))
                to_json(msgspec.Raw(broken))


def test_invalid_json_raises_only_decode_error() -> None:
    seed = "json text"
    print("seed", seed)
    chosen = random.Random(seed)
    for _ in range(20):
        for broken in mutations(json.dumps(random_object(chosen, 4)).encode(), chosen, 200):
            with suppress(DecodeError):
                validate(from_json(broken.decode("utf-8", "replace")))
