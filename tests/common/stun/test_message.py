import json
import random
import struct
from collections.abc import Callable, Sequence
from hashlib import md5
from pathlib import Path as FilePath
from typing import Any

import pytest

from antiphon_common.core import Path
from antiphon_common.errors import DecodeError
from antiphon_common.stun import (
    AttributeType,
    ErrorCode,
    Message,
    MessageClass,
    decode_address,
    decode_xor_address,
    encode_address,
    encode_error_code,
    encode_xor_address,
    error_response,
    success_response,
)
from support.sim.work_counter import work_of

VECTORS: dict[str, Any] = json.loads((FilePath(__file__).parents[2] / "vectors" / "stun_rfc5769.json").read_text())
PASSWORD = VECTORS["password"].encode()
TRANSACTION = b"transaction!"


def check(**extra: bytes) -> Message:
    attributes = {
        AttributeType.USERNAME: b"server:client",
        AttributeType.NETWORK_INFO: b"\0\1\0\x0a",
        AttributeType.ICE_CONTROLLING: bytes(range(8)),
        AttributeType.USE_CANDIDATE: b"",
        AttributeType.PRIORITY: b"\x6e\0\1\xff",
    }
    return Message(MessageClass.REQUEST, TRANSACTION, attributes | {int(k, 16): v for k, v in extra.items()})


def test_rfc5769_request() -> None:
    vector = VECTORS["request"]
    message = Message.decode(bytes.fromhex(vector["datagram"]))
    assert message.message_class is MessageClass.REQUEST
    assert message.transaction_id.hex() == VECTORS["transaction_id"]
    assert message.software == vector["software"]
    assert message.priority == vector["priority"]
    assert message.ice_controlled == vector["ice_controlled"]
    assert message.username == vector["username"].encode()
    assert message.fingerprinted
    assert message.verify(PASSWORD)
    assert not message.verify(PASSWORD + b"x")


def test_rfc5769_long_term_request() -> None:
    """ICE has no realms, but the long-term key verifies MESSAGE-INTEGRITY too (RFC 8489 §9.2.2)."""
    vector = VECTORS["long_term_request"]
    message = Message.decode(bytes.fromhex(vector["datagram"]))
    assert message.transaction_id.hex() == vector["transaction_id"]
    assert message.username == vector["username"].encode()
    assert not message.fingerprinted
    key = md5(":".join((vector["username"], vector["realm"], vector["password"])).encode()).digest()
    assert message.verify(key)


@pytest.mark.parametrize("name", ["ipv4_response", "ipv6_response"])
def test_rfc5769_responses(name: str) -> None:
    vector = VECTORS[name]
    message = Message.decode(bytes.fromhex(vector["datagram"]))
    path = Path.of(vector["host"], vector["port"])
    assert message.message_class is MessageClass.SUCCESS
    assert message.software == vector["software"]
    assert message.xor_mapped_address == (path.address, path.port)
    assert (
        encode_xor_address(path.address, path.port, message.transaction_id)
        == (message.attributes[AttributeType.XOR_MAPPED_ADDRESS])
    )
    assert message.fingerprinted
    assert message.verify(PASSWORD)


@pytest.mark.parametrize("key", [None, b"a password of 24 letters"])
@pytest.mark.parametrize("fingerprint", [True, False])
def test_decode_inverts_encode_and_keeps_unknown_attributes(key: bytes | None, fingerprint: bool) -> None:
    message = check(**{"7ABC": b"required", "FABC": b"optional, odd"})
    decoded = Message.decode(message.encode(key, fingerprint=fingerprint))
    assert decoded == message
    assert decoded.fingerprinted is fingerprint
    assert decoded.signed is (key is not None)
    assert decoded.verify(key or b"") is (key is not None)
    assert decoded.unknown_required == [0x7ABC]
    assert decoded.encode(key, fingerprint=fingerprint) == message.encode(key, fingerprint=fingerprint)


@pytest.mark.parametrize("message_class", list(MessageClass))
@pytest.mark.parametrize("method", [1, 3, 0x80, 0xABC, 0xFFF])
def test_encoding_inverts_decoding_of_every_class_and_method(message_class: MessageClass, method: int) -> None:
    message = Message(message_class, TRANSACTION, {}, method)
    assert Message.decode(message.encode()) == message


@pytest.mark.parametrize("host", ["192.0.2.1", "0.0.0.0", "255.255.255.255", "2001:db8::1", "::", "fe80::1%eth0"])
@pytest.mark.parametrize("port", [0, 3478, 65535])
def test_encoding_inverts_decoding_of_addresses(host: str, port: int) -> None:
    path = Path.of(host, port)
    assert decode_address(encode_address(path.address, port)) == (path.address, port)
    assert decode_xor_address(encode_xor_address(path.address, port, TRANSACTION), TRANSACTION) == (path.address, port)


def test_responses_have_the_transaction_id_of_their_request() -> None:
    path = Path.of("2001:db8::7", 4711)
    success = Message.decode(success_response(check(), path.address, path.port).encode(PASSWORD))
    assert (success.message_class, success.transaction_id) == (MessageClass.SUCCESS, TRANSACTION)
    assert success.xor_mapped_address == (path.address, path.port)
    refusal = Message.decode(error_response(check(), ErrorCode.UNKNOWN_ATTRIBUTE, [0x7ABC, 0x7ABD]).encode(PASSWORD))
    assert refusal.message_class is MessageClass.ERROR
    assert refusal.error_code == (420, "Unknown AttributeType")
    assert refusal.unknown_attributes == [0x7ABC, 0x7ABD]
    assert refusal.verify(PASSWORD)


@pytest.mark.parametrize("position", range(20))
def test_every_byte_of_message_integrity_is_compared(position: int) -> None:
    """All 20 bytes of the HMAC are compared, not a prefix or suffix (RFC 8489 §14.5)."""
    signed = check().encode(PASSWORD, fingerprint=False)
    at = len(signed) - 20 + position
    assert not Message.decode(signed[:at] + bytes((signed[at] ^ 1,)) + signed[at + 1 :]).verify(PASSWORD)


@pytest.mark.parametrize("key", [b"", PASSWORD[:-1], PASSWORD + b"\1", PASSWORD.swapcase()])
def test_message_integrity_under_another_key_is_refused(key: bytes) -> None:
    assert not Message.decode(check().encode(key)).verify(PASSWORD)


@pytest.mark.parametrize("size", [0, 4, 16, 19, 21, 24])
def test_message_integrity_has_20_bytes(size: int) -> None:
    signed = check().encode(PASSWORD, fingerprint=False)
    tag = (signed[-20:] + bytes(4))[:size]
    body = signed[20:-24] + b"\0\x08" + size.to_bytes(2, "big") + tag + bytes(-size % 4)
    with pytest.raises(DecodeError):
        Message.decode(signed[:2] + len(body).to_bytes(2, "big") + signed[4:20] + body)


def test_attributes_after_message_integrity_are_ignored() -> None:
    signed = check().encode(PASSWORD, fingerprint=False)
    late = Message(MessageClass.REQUEST, TRANSACTION, {0x8ABC: b"late", AttributeType.USERNAME: b"forged:one"}).encode(
        fingerprint=False
    )
    body = signed[20:] + late[20:]
    decoded = Message.decode(signed[:2] + len(body).to_bytes(2, "big") + signed[4:20] + body)
    assert decoded == check()
    assert decoded.verify(PASSWORD)


def test_the_first_of_repeated_attributes_is_used() -> None:
    first = Message(MessageClass.REQUEST, TRANSACTION, {AttributeType.USERNAME: b"a:b"}).encode(fingerprint=False)
    body = first[20:] + first[20:].replace(b"a:b", b"c:d")
    decoded = Message.decode(first[:2] + len(body).to_bytes(2, "big") + first[4:20] + body)
    assert decoded.username == b"a:b"


@pytest.mark.parametrize("kinds", [[0x8000], [AttributeType.USERNAME], range(0x7000, 0x7200), range(0x9000, 0x9200)])
def test_attributes_beyond_what_a_message_needs_are_a_decode_error(kinds: Sequence[int]) -> None:
    """A datagram of empty attributes, of one type or many, costs about as much as a real check."""
    body = b"".join(struct.pack("!HH", kinds[number % len(kinds)], 0) for number in range(365))
    junk = b"\0\1" + struct.pack("!H", len(body)) + b"\x21\x12\xa4\x42" + TRANSACTION + body

    def decode() -> None:
        with pytest.raises(DecodeError):
            Message.decode(junk)

    real = check().encode(PASSWORD)
    assert work_of(decode).calls <= 2 * work_of(lambda: Message.decode(real).verify(PASSWORD)).calls + 20


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:19],
        lambda data: data[:-4],
        lambda data: data + bytes(4),
        lambda data: b"\x40" + data[1:],
        lambda data: data[:4] + b"\0\0\0\0" + data[8:],
        lambda data: data[:-1] + bytes((data[-1] ^ 1,)),
        lambda data: data[:22] + b"\xff\xff" + data[24:],
    ],
    ids=["short", "truncated", "trailing", "first bits", "cookie", "fingerprint", "attribute too long"],
)
def test_corrupted_messages_are_decode_errors(damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(DecodeError):
        Message.decode(damage(check().encode(PASSWORD)))


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-8],
        lambda data: data + bytes(4),
        lambda data: b"\x40" + data[1:],
        lambda data: data[:4] + b"\0\0\0\0" + data[8:],
        lambda data: data[:22] + b"\xff\xff" + data[24:],
    ],
    ids=["truncated", "trailing", "first bits", "cookie", "attribute too long"],
)
def test_corrupted_messages_are_decode_errors_without_fingerprint(damage: Callable[[bytes], bytes]) -> None:
    """The structure is checked without FINGERPRINT, whose checksum would detect any damage."""
    plain = check().encode(fingerprint=False)
    assert Message.decode(plain) == check()
    with pytest.raises(DecodeError):
        Message.decode(damage(plain))


def read_everything(message: Message) -> None:
    _ = (message.username, message.use_candidate, message.unknown_required, message.verify(PASSWORD))
    for name in (
        "priority",
        "ice_controlled",
        "ice_controlling",
        "xor_mapped_address",
        "error_code",
        "unknown_attributes",
        "software",
    ):
        try:
            getattr(message, name)
        except DecodeError:
            continue


def test_mutated_bytes_raise_only_decode_error() -> None:
    seed = 20
    print(f"seed {seed}")
    source = random.Random(seed)
    path = Path.of("192.0.2.1", 1)
    samples = [
        check(**{"8022": "naïve".encode()}).encode(PASSWORD),
        check().encode(fingerprint=False),
        success_response(check(), path.address, 1).encode(fingerprint=False),
        error_response(check(), ErrorCode.UNKNOWN_ATTRIBUTE, [0x7ABC]).encode(fingerprint=False),
        Message(MessageClass.ERROR, TRANSACTION, {AttributeType.ERROR_CODE: encode_error_code(487, "é")}).encode(
            fingerprint=False
        ),
    ]
    for _ in range(30_000):
        data = bytearray(source.choice(samples))
        for _ in range(source.randrange(1, 5)):
            data[source.randrange(len(data))] = source.randrange(256)
        if source.random() < 0.2:
            del data[source.randrange(len(data)) :]
            if len(data) >= 4:
                data[2:4] = max(len(data) - 20, 0).to_bytes(2, "big")
        try:
            message = Message.decode(bytes(data))
        except DecodeError:
            continue
        read_everything(message)
