"""The encoding of the link's header and messages, and datagrams that are refused."""

import json
import pathlib
import random
import tracemalloc
from hashlib import blake2b
from typing import Any

import pytest

from antiphon_common.core import Path
from antiphon_common.errors import DecodeError
from antiphon_common.keys import Key, KeyRing
from antiphon_common.link import (
    DOWNLINK,
    HEADER_SIZE,
    MAX_ANNOUNCED_PATHS,
    MAX_INGRESSES,
    PATH_START,
    PATH_STOP,
    TAG_SIZE,
    VERIFIED_HEADERS,
    VERIFIED_SECONDS,
    VERSION,
    Announce,
    Confirm,
    Disown,
    LinkKeys,
    LinkMessage,
    Moved,
    RelayHello,
    Release,
    decode_message,
    encode_message,
)
from antiphon_common.routing import Owner

VECTORS = json.loads((pathlib.Path(__file__).parent.parent / "vectors" / "link.json").read_text())
SECRET = bytes.fromhex(VECTORS["secret"])
PATH = Path.of("192.0.2.1", 50000, ingress=7)
REMEMBERED_BYTES = 256
"""Memory that one remembered header may take: 32 bytes, an object around them, and its share of a hash table."""
MESSAGES: list[LinkMessage] = [
    RelayHello((1, 65535), 2**64 - 1),
    RelayHello((), 0),
    Confirm(PATH),
    Release(Path.of("2001:db8::1", 1)),
    Announce(()),
    Announce((PATH,) * MAX_ANNOUNCED_PATHS),
    Moved(Owner(0, 1, 2), Owner(65535, 2**32 - 1, 65535)),
    Disown(b"K0z9KlcAh4wdlFkRCCW47HQ"),
]


def link_keys(*keys: Key) -> LinkKeys:
    return LinkKeys(KeyRing(keys or [Key(VECTORS["key_id"], SECRET)]).link)


@pytest.mark.parametrize("vector", VECTORS["headers"], ids=lambda vector: vector["header"][:12])
def test_headers_equal_their_vectors(vector: dict[str, Any]) -> None:
    path = Path.of(vector["host"], vector["port"], ingress=vector["ingress"])
    header = link_keys().header(path, vector["flags"], 0)
    assert header.hex() == vector["header"]
    assert Path.decode(header[PATH_START:PATH_STOP]) == path


@pytest.mark.parametrize("vector", VECTORS["messages"], ids=lambda vector: vector["message"])
def test_messages_equal_their_vectors(vector: dict[str, Any]) -> None:
    paths = tuple(Path.of(host, port, ingress=ingress) for ingress, host, port in vector.get("paths", ()))
    message: LinkMessage
    match vector["message"]:
        case "hello":
            message = RelayHello(tuple(vector["ingresses"]), vector["boot_id"])
        case "confirm":
            message = Confirm(paths[0])
        case "release":
            message = Release(paths[0])
        case "announce":
            message = Announce(paths)
        case "disown":
            message = Disown(vector["ufrag"].encode())
        case _:
            message = Moved(Owner(*vector["origin"]), Owner(*vector["successor"]))
    assert link_keys().encode(message, 0).hex() == vector["datagram"]
    assert link_keys().verify(bytes.fromhex(vector["datagram"]), 0)
    assert decode_message(bytes.fromhex(vector["datagram"])[HEADER_SIZE:]) == message


@pytest.mark.parametrize(
    "datagram", [link_keys().header(PATH, DOWNLINK, 0) + b"rtp", link_keys().encode(Confirm(PATH), 0)]
)
def test_a_change_of_any_bit_that_the_tag_covers_is_refused(datagram: bytes) -> None:
    covered = len(datagram) if datagram[0] & 1 else HEADER_SIZE
    keys = link_keys()
    assert keys.verify(datagram, 0)
    for bit in range(covered * 8):
        changed = bytearray(datagram)
        changed[bit // 8] ^= 1 << bit % 8
        assert not keys.verify(bytes(changed), 0)


def test_a_hello_lists_the_ingresses_without_their_address() -> None:
    hello = RelayHello((7, 8), 1, away=(8,))
    assert decode_message(encode_message(hello)) == hello


def test_short_datagrams_are_refused() -> None:
    keys = link_keys()
    header = keys.header(PATH, 0, 0)
    assert keys.verify(header, 0)
    assert not any(keys.verify(header[:size], 0) for size in range(HEADER_SIZE))


def test_a_cached_header_is_refused_after_its_key_retires() -> None:
    keys = link_keys(Key(1, SECRET, retire_after=100), Key(2, SECRET[::-1], mint_from=100))
    header = keys.header(PATH, 0, 0)
    assert keys.verify(header, 100)
    assert not keys.verify(header, 101 + VERIFIED_SECONDS)


def test_a_key_stays_retired_when_the_clock_is_set_back() -> None:
    keys = link_keys(Key(1, SECRET, retire_after=100), Key(2, SECRET[::-1], accept_from=50, mint_from=100))
    early, late = keys.header(PATH, 0, 99), keys.header(PATH, 0, 100)
    assert keys.verify(late, 3700)
    assert not keys.verify(late, 49)
    assert keys.verify(early, 49)


def test_cached_headers_are_bounded() -> None:
    keys = link_keys()
    headers = [keys.header(Path.of("192.0.2.1", port % 65536, ingress=port >> 16), 0, 0) for port in range(70000)]
    assert len(headers) > VERIFIED_HEADERS
    tracemalloc.start()
    try:
        assert all(keys.verify(header + b"rtp", 0) for header in headers)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < VERIFIED_HEADERS * REMEMBERED_BYTES


def test_a_header_of_another_version_is_refused() -> None:
    """The tag is valid under the shared key. Only the version differs."""
    _, key = KeyRing([Key(VECTORS["key_id"], SECRET)]).link.minting(0)
    for version in range(16):
        head = bytes((version << 4, VECTORS["key_id"])) + PATH.encode()
        header = head + blake2b(head, digest_size=TAG_SIZE, key=key).digest()
        assert link_keys().verify(header, 0) is (version == VERSION)


@pytest.mark.parametrize("reserved", [1, 0x80, 0xFF])
def test_a_header_whose_reserved_byte_is_set_is_refused(reserved: int) -> None:
    """The tag is valid, so only decoding refuses the header."""
    _, key = KeyRing([Key(VECTORS["key_id"], SECRET)]).link.minting(0)
    head = bytearray(link_keys().header(PATH, 0, 0)[:-TAG_SIZE])
    head[PATH_START + 1] = reserved
    header = bytes(head) + blake2b(head, digest_size=TAG_SIZE, key=key).digest()
    with pytest.raises(DecodeError):
        Path.decode(header[PATH_START:PATH_STOP])
    assert not link_keys().verify(header, 0)


@pytest.mark.parametrize(
    ("kind", "before", "entry", "at_most"),
    [(1, bytes(8), bytes(2), MAX_INGRESSES), (4, b"", PATH.encode(), MAX_ANNOUNCED_PATHS)],
    ids=["HELLO", "ANNOUNCE"],
)
def test_a_message_of_more_entries_than_allowed_is_refused(
    kind: int, before: bytes, entry: bytes, at_most: int
) -> None:
    def body(entries: int) -> bytes:
        payload = before + (len(entry) * entries).to_bytes(2, "big") + entry * entries
        return bytes((kind, 1)) + len(payload).to_bytes(2, "big") + payload

    assert decode_message(body(at_most)) is not None
    with pytest.raises(DecodeError):
        decode_message(body(at_most + 1))


@pytest.mark.parametrize("message", MESSAGES, ids=repr)
def test_decoding_inverts_encoding_of_link_messages(message: LinkMessage) -> None:
    assert decode_message(encode_message(message)) == message


def test_a_later_version_may_append_fields() -> None:
    body = encode_message(Confirm(PATH))
    longer = body[:2] + (len(body) - 4 + 3).to_bytes(2, "big") + body[4:] + b"new"
    assert decode_message(longer) == Confirm(PATH)


@pytest.mark.parametrize("body", [b"\x09\x01\x00\x00", b"\x02\x02\x00\x03abc"])
def test_unknown_types_and_versions_are_skipped(body: bytes) -> None:
    assert decode_message(body) is None


@pytest.mark.parametrize("message", MESSAGES, ids=repr)
def test_invalid_bytes_raise_only_decode_error(message: LinkMessage) -> None:
    body = encode_message(message)
    for size in range(len(body)):
        with pytest.raises(DecodeError):
            decode_message(body[:size])
    noise = random.Random(7)
    for _ in range(300):
        changed = bytearray(body)
        changed[noise.randrange(len(changed))] = noise.randrange(256)
        try:
            decode_message(bytes(changed))
        except DecodeError:
            continue
