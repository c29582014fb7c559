"""The STUN codec against aioice's in both directions, on random messages with the attributes of aioice."""

import ipaddress
import random
from collections.abc import Callable
from typing import Any

import pytest
from aioice import stun as oracle

from antiphon_common.core import Path
from antiphon_common.errors import DecodeError
from antiphon_common.stun import (
    Message,
    MessageClass,
    decode_address,
    decode_error_code,
    decode_xor_address,
    encode_address,
    encode_error_code,
    encode_xor_address,
)

MESSAGES = 300
PASSWORD = b"a password of 24 letters"

Value = Any
"""aioice's value of an attribute: an address is (host, port), an error (code, reason)."""


def text(source: random.Random) -> str:
    return "".join(source.choices("abcXYZ019+/ é→", k=source.randrange(30)))


def address(source: random.Random) -> tuple[str, int]:
    host = (
        ipaddress.IPv4Address(source.randbytes(4))
        if source.random() < 0.5
        else ipaddress.IPv6Address(source.randbytes(16))
    )
    return str(host), source.randrange(65536)


def error(source: random.Random) -> tuple[int, str]:
    return source.randrange(300, 700), text(source)


def number(bits: int) -> Callable[[random.Random], int]:
    return lambda source: source.getrandbits(bits)


def to_bytes(size: int) -> Callable[[int, bytes], bytes]:
    return lambda value, _: value.to_bytes(size, "big")


def from_bytes(value: bytes, _: bytes) -> int:
    return int.from_bytes(value, "big")


def host_and_port(found: tuple[bytes, int]) -> tuple[str, int]:
    return Path(0, 17, *found).host, found[1]


def packed(value: tuple[str, int]) -> tuple[bytes, int]:
    return Path.of(*value).address, value[1]


PLAIN_ADDRESS = (
    address,
    lambda value, _: encode_address(*packed(value)),
    lambda value, _: host_and_port(decode_address(value)),
)
XOR_ADDRESS = (
    address,
    lambda value, transaction: encode_xor_address(*packed(value), transaction),
    lambda value, transaction: host_and_port(decode_xor_address(value, transaction)),
)
TEXT = (text, lambda value, _: value.encode(), lambda value, _: value.decode())
BINARY = (lambda source: source.randbytes(source.randrange(40)), lambda value, _: value, lambda value, _: value)
UINT32 = (number(32), to_bytes(4), from_bytes)
UINT64 = (number(64), to_bytes(8), from_bytes)

KINDS: dict[str, tuple[Callable[[random.Random], Value], Callable[[Value, bytes], bytes], Callable[..., Value]]] = {
    "MAPPED-ADDRESS": PLAIN_ADDRESS,
    "CHANGE-REQUEST": UINT32,
    "SOURCE-ADDRESS": PLAIN_ADDRESS,
    "CHANGED-ADDRESS": PLAIN_ADDRESS,
    "USERNAME": TEXT,
    "ERROR-CODE": (error, lambda value, _: encode_error_code(*value), lambda value, _: decode_error_code(value)),
    "CHANNEL-NUMBER": (number(16), lambda value, _: value.to_bytes(2, "big") + b"\0\0", lambda v, _: v[0] << 8 | v[1]),
    "LIFETIME": UINT32,
    "XOR-PEER-ADDRESS": XOR_ADDRESS,
    "DATA": BINARY,
    "REALM": TEXT,
    "NONCE": BINARY,
    "XOR-RELAYED-ADDRESS": XOR_ADDRESS,
    "REQUESTED-TRANSPORT": UINT32,
    "XOR-MAPPED-ADDRESS": XOR_ADDRESS,
    "PRIORITY": UINT32,
    "USE-CANDIDATE": (lambda source: None, lambda value, _: b"", lambda value, _: None),
    "SOFTWARE": TEXT,
    "ICE-CONTROLLED": UINT64,
    "ICE-CONTROLLING": UINT64,
    "RESPONSE-ORIGIN": PLAIN_ADDRESS,
    "OTHER-ADDRESS": PLAIN_ADDRESS,
}
TYPES = {name: kind for kind, name, _, _ in oracle.ATTRIBUTES}


def random_message(source: random.Random) -> tuple[oracle.Message, Message]:
    """Return the same message as an object of aioice and as one of ours."""
    transaction = source.randbytes(12)
    method = source.choice(list(oracle.Method))
    message_class = source.choice(list(oracle.Class))
    names = source.sample(sorted(KINDS), source.randrange(8))
    values = {name: KINDS[name][0](source) for name in names}
    ours = {TYPES[name]: KINDS[name][1](value, transaction) for name, value in values.items()}
    return (
        oracle.Message(method, message_class, transaction, values),
        Message(MessageClass(message_class), transaction, ours, int(method)),
    )


@pytest.mark.parametrize("seed", range(10))
def test_encodings_equal_those_of_aioice_and_decode_in_both_directions(seed: int) -> None:
    print(f"seed {seed}")
    source = random.Random(seed)
    for _ in range(MESSAGES):
        theirs, ours = random_message(source)
        assert ours.encode(fingerprint=False) == bytes(theirs)

        theirs.add_message_integrity(PASSWORD)
        signed = ours.encode(PASSWORD)
        assert signed == bytes(theirs)

        read_by_us = Message.decode(bytes(theirs))
        assert read_by_us == ours
        assert read_by_us.fingerprinted
        assert read_by_us.verify(PASSWORD)
        assert not read_by_us.verify(PASSWORD + b"!")
        for name, value in theirs.attributes.items():
            if name in KINDS:
                raw = read_by_us.attributes[TYPES[name]]
                assert KINDS[name][2](raw, ours.transaction_id) == value

        read_by_them = oracle.parse_message(signed)
        assert read_by_them.check_message_integrity(PASSWORD)
        assert read_by_them.attributes == theirs.attributes


def test_a_message_modified_in_transit_is_refused() -> None:
    seed = 99
    print(f"seed {seed}")
    source = random.Random(seed)
    for _ in range(2000):
        theirs, _ = random_message(source)
        theirs.add_message_integrity(PASSWORD)
        datagram = bytearray(bytes(theirs))
        datagram[source.randrange(len(datagram))] ^= 1 << source.randrange(8)
        try:
            message = Message.decode(bytes(datagram))
        except DecodeError:
            continue
        assert not (message.fingerprinted and message.verify(PASSWORD))
