import random
import struct

import pytest

from antiphon_common.stun import peek_username


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("!HH", kind, len(value)) + value + bytes(-len(value) % 4)


def request(*attributes: bytes, kind: int = 0x0001, cookie: int = 0x2112A442) -> bytes:
    body = b"".join(attributes)
    return struct.pack("!HHI12s", kind, len(body), cookie, b"transaction!") + body


USERNAME = attribute(0x0006, b"ServerUfragOf23IceChars:peer")


def test_the_servers_ufrag_is_found_at_any_position_of_username() -> None:
    assert peek_username(request(USERNAME)) == b"ServerUfragOf23IceChars"
    assert peek_username(request(attribute(0x8022, b"odd"), attribute(0x0024, b"\0\0\0\1"), USERNAME)) == (
        b"ServerUfragOf23IceChars"
    )


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        b"\x00\x01",
        request(),
        request(attribute(0x0006, b"no colon")),
        request(attribute(0x0006, b":empty")),
        request(attribute(0x0006, b"left"), attribute(0x0024, b":abc")),
        request(USERNAME, kind=0x0101),
        request(USERNAME, kind=0x0011),
        request(USERNAME, cookie=0x2112A443),
        request(USERNAME)[:-1],
        request(USERNAME) + b"\0\0\0\0",
        request(struct.pack("!HH", 0x0006, 400) + b"abcd:efg"),
        request(*[attribute(0x8000, b"")] * 16, USERNAME),
    ],
)
def test_nothing_is_found_without_a_valid_binding_request_and_username(datagram: bytes) -> None:
    assert peek_username(datagram) is None


def test_mutated_bytes_raise_no_exception() -> None:
    source = random.Random(1)
    whole = request(attribute(0x8022, b"odd"), USERNAME)
    for _ in range(20_000):
        mutated = bytearray(whole[: source.choice((len(whole), source.randrange(len(whole) + 1)))])
        for _ in range(source.randrange(1, 4)):
            if mutated:
                mutated[source.randrange(len(mutated))] = source.randrange(256)
        peek_username(bytes(mutated))
