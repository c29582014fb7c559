"""Entries of the registry: the keys that seal them, and their age."""

import json
from contextlib import suppress

import pytest

from antiphon_common.control import LinkInfo, Load
from antiphon_common.errors import DecodeError
from antiphon_common.keys import Key, KeyRing
from antiphon_common.registry import MAX_AGE, MAX_REMEMBERED, TAG_SIZE, Registered, RegistryReader, seal

OLD, NEW = Key(0, bytes(range(32)), retire_after=20_000), Key(1, bytes(range(32, 64)), mint_from=10_000)
KEYS = KeyRing([OLD, NEW]).control
NOW = 1000.0
ONE = Registered("http://127.0.0.1:8090", LinkInfo(0, ("127.0.0.1:4000",)), Load(1, 10))
UNTIMED = (
    b'{"key":0,"tag":"4e642b62ab86053f6a53b6af1b9e234c","transceiver":{"control_url":"http://127.0.0.1:8090",'
    b'"link":{"cluster":0,"addresses":["127.0.0.1:4000"]},"load":{"calls":1,"capacity":10,"draining":false}}}'
)
"""As a transceiver of 0.2.0 writes it."""


def read(value: bytes, now: float = NOW) -> Registered:
    return RegistryReader(KEYS).read(value, now)


def test_a_sealed_entry_can_be_read() -> None:
    assert read(seal(ONE, KEYS, NOW)) == ONE


@pytest.mark.parametrize("size", range(TAG_SIZE))
def test_a_truncated_or_empty_tag_is_refused(size: int) -> None:
    entry = json.loads(seal(ONE, KEYS, NOW))
    entry["tag"] = entry["tag"][: 2 * size]
    with pytest.raises(DecodeError):
        read(json.dumps(entry, separators=(",", ":")).encode())


@pytest.mark.parametrize("tag", ["é" * 32, "\\ud800", "A" * 100_000])
def test_a_tag_may_be_any_text(tag: str) -> None:
    entry = seal(ONE, KEYS, NOW).decode()
    start = entry.index('"tag":"') + 7
    with pytest.raises(DecodeError):
        read((entry[:start] + tag + entry[start + 2 * TAG_SIZE :]).encode())


def test_a_change_of_any_byte_of_an_entry_is_refused() -> None:
    value = seal(ONE, KEYS, NOW)
    for at in range(len(value)):
        changed = bytearray(value)
        changed[at] ^= 1
        with suppress(DecodeError):
            assert read(bytes(changed)) == ONE, f"byte {at}"


@pytest.mark.parametrize("value", [b"", b"{}", b"[]", b"null", b'{"key":0,"tag":"","transceiver":{}}', b"[" * 100_000])
def test_a_malformed_entry_is_refused(value: bytes) -> None:
    with pytest.raises(DecodeError):
        read(value)


def test_an_entry_of_another_installation_or_of_a_retired_key_is_refused() -> None:
    with pytest.raises(DecodeError):
        read(seal(ONE, KeyRing.generate(bytes).control, NOW))
    with pytest.raises(DecodeError):
        RegistryReader(KEYS).read(seal(ONE, KeyRing([OLD]).control, 20_001), 20_001)


@pytest.mark.parametrize("age", [-MAX_AGE - 1, MAX_AGE + 1, 3600.0])
def test_an_entry_older_or_newer_than_the_limit_is_refused(age: float) -> None:
    """The entry is replayed, or the clock of its host is wrong."""
    value = seal(ONE, KEYS, NOW + 5000)
    with pytest.raises(DecodeError):
        read(value, NOW + 5000 + age)


@pytest.mark.parametrize("age", [-MAX_AGE, 0.0, MAX_AGE])
def test_clocks_may_differ_by_a_minute(age: float) -> None:
    assert read(seal(ONE, KEYS, NOW + 5000), NOW + 5000 + age) == ONE


def test_an_entry_without_a_time_is_accepted_until_its_transceiver_writes_one_or_its_key_retires() -> None:
    reader = RegistryReader(KEYS)
    assert reader.read(UNTIMED, NOW) == ONE
    assert reader.read(seal(ONE, KEYS, NOW), NOW) == ONE
    with pytest.raises(DecodeError):
        reader.read(UNTIMED, NOW)
    with pytest.raises(DecodeError):
        read(UNTIMED, 20_001)


def test_the_previous_release_can_read_current_entries() -> None:
    """It ignores unknown fields, such as the time."""
    entry = json.loads(seal(ONE, KEYS, NOW))["transceiver"]
    assert entry.pop("written") == NOW
    assert entry == json.loads(UNTIMED)["transceiver"]


def test_remembered_transceivers_are_bounded() -> None:
    reader = RegistryReader(KEYS)
    reader.read(seal(ONE, KEYS, NOW), NOW)
    for number in range(MAX_REMEMBERED):
        other = Registered(f"http://10.0.0.1:{number}", ONE.link, ONE.load)
        reader.read(seal(other, KEYS, NOW), NOW)
    assert reader.read(UNTIMED, NOW) == ONE
