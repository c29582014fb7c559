"""Control messages: what is no message raises DecodeError and nothing else."""

import msgspec
import pytest

from antiphon_common.control import CallStatus, LinkInfo, decode
from antiphon_common.errors import DecodeError


def test_a_message_comes_back_as_it_was() -> None:
    link = LinkInfo(7, ("192.0.2.7:40000", "[2001:db8::7]:40000"))
    assert decode(msgspec.json.encode(link), LinkInfo) == link


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"{}", b'{"cluster": 0, "addresses": "x"}', b'{"cluster": 0, "addresses": ["\xff"]}'],
    ids=["empty", "cut short", "another shape", "lacks fields", "wrong type", "no text"],
)
def test_what_is_no_message_raises_decode_error(body: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(body, LinkInfo)


def test_a_message_nested_without_end_raises_decode_error() -> None:
    with pytest.raises(DecodeError):
        decode(b'{"call_id": "rtc_1", "state": "new", "statistics": {"a": ' + b"[" * 100_000, CallStatus)
