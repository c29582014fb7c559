"""Authentication tags of other processes are compared completely and in constant time."""

import pytest

from antiphon_common.control import LinkInfo, Load, authorization, is_authorized
from antiphon_common.core import Path
from antiphon_common.errors import DecodeError
from antiphon_common.keys import KeyRing
from antiphon_common.link import HEADER_SIZE, TAG_SIZE, LinkKeys
from antiphon_common.registry import Registered, RegistryReader, seal
from antiphon_common.stun import Message, MessageClass
from support.fakes.comparisons import record_comparisons

KEYS = KeyRing.generate(lambda size: bytes(range(size)))


def test_message_integrity_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    message = Message.decode(Message(MessageClass.REQUEST, b"transaction!").encode(b"one password"))
    compared = record_comparisons(monkeypatch)
    assert not message.verify(b"another password")
    assert [(len(a), len(b)) for a, b in compared] == [(20, 20)]


def test_the_tag_of_a_link_header_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = LinkKeys(KEYS.link)
    header = keys.header(Path.of("192.0.2.1", 1), 0, 0)
    compared = record_comparisons(monkeypatch)
    assert not keys.verify(header[: HEADER_SIZE - TAG_SIZE] + bytes(TAG_SIZE), 0)
    assert [(len(a), len(b)) for a, b in compared] == [(TAG_SIZE, TAG_SIZE)]


def test_the_token_of_the_control_api_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    right = authorization(KEYS.control, 0)
    compared = record_comparisons(monkeypatch)
    assert not is_authorized(KEYS.control, right[:-4] + "AAAA", 0)
    assert right.encode() in [pair[0] for pair in compared]


def test_the_tag_of_a_registry_entry_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    registered = Registered("http://10.0.0.1:1", LinkInfo(0, ("10.0.0.1:2",)), Load(0, 1))
    value = seal(registered, KEYS.control, 0)
    compared = record_comparisons(monkeypatch)
    reader = RegistryReader(KEYS.control)
    assert reader.read(value, 0) == registered
    with pytest.raises(DecodeError):
        reader.read(value.replace(b"10.0.0.1:2", b"10.0.0.1:3"), 0)
    assert len(compared) == 2
