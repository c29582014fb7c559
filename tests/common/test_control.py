"""Control messages: malformed ones raise DecodeError only."""

import msgspec
import pytest

from antiphon_common.control import CallStatus, LinkInfo, authorization, decode, is_authorized
from antiphon_common.errors import DecodeError
from antiphon_common.keys import MAX_KEY_ID, Key, KeyRing


def test_decoding_inverts_encoding_of_messages() -> None:
    link = LinkInfo(7, ("192.0.2.7:40000", "[2001:db8::7]:40000"))
    assert decode(msgspec.json.encode(link), LinkInfo) == link


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"{}", b'{"cluster": 0, "addresses": "x"}', b'{"cluster": 0, "addresses": ["\xff"]}'],
    ids=["empty", "cut short", "another shape", "lacks fields", "wrong type", "no text"],
)
def test_malformed_messages_raise_decode_error(body: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(body, LinkInfo)


def test_a_deeply_nested_message_raises_decode_error() -> None:
    with pytest.raises(DecodeError):
        decode(b'{"call_id": "rtc_1", "state": "new", "statistics": {"a": ' + b"[" * 100_000, CallStatus)


@pytest.mark.parametrize("key_id", [0, 1, MAX_KEY_ID])
def test_the_control_key_of_any_id_is_accepted(key_id: int) -> None:
    keys = KeyRing([Key(key_id, bytes(32))]).control
    assert is_authorized(keys, authorization(keys, 0), 0)
