import json
from pathlib import Path
from typing import Any

import pytest

from antiphon_transceiver.srtp.gcm import GcmTransform
from antiphon_transceiver.srtp.keys import Keys, Label, derive

VECTORS = Path(__file__).parents[2] / "vectors"
RFC3711: dict[str, Any] = json.loads((VECTORS / "srtp_rfc3711.json").read_text())
RFC7714: dict[str, Any] = json.loads((VECTORS / "srtp_rfc7714.json").read_text())


def gcm(key_length: int) -> GcmTransform:
    keys = Keys(bytes(range(key_length)), bytes.fromhex(RFC7714["salt"]))
    return GcmTransform(rtp=keys, rtcp=keys)


@pytest.mark.parametrize("vector", RFC3711["derivation"], ids=lambda vector: vector["name"])
def test_session_keys_are_derived(vector: dict[str, Any]) -> None:
    master = Keys(bytes.fromhex(vector["key"]), bytes.fromhex(vector["salt"]))
    output, offset = bytes.fromhex(vector["output"]), vector.get("offset", 0)
    assert derive(master, Label(vector["label"]), offset + len(output))[offset:] == output


@pytest.mark.parametrize("key_length", [16, 32])
def test_gcm_protects_rtp(key_length: int) -> None:
    vector = RFC7714["rtp"]
    clear = bytes.fromhex(vector["clear"])
    protected = bytes.fromhex(vector["protected"][str(key_length)])
    place = (vector["header_length"], vector["ssrc"], vector["index"])
    assert gcm(key_length).protect_rtp(clear, *place) == protected
    assert gcm(key_length).unprotect_rtp(protected, *place) == clear


@pytest.mark.parametrize("key_length", [16, 32])
def test_gcm_protects_rtcp(key_length: int) -> None:
    vector = RFC7714["rtcp"]
    clear = bytes.fromhex(vector["clear"])
    encrypted = bytes.fromhex(vector["encrypted"][str(key_length)])
    assert gcm(key_length).protect_rtcp(clear, vector["ssrc"], vector["index"]) == encrypted
    assert gcm(key_length).unprotect_rtcp(encrypted, vector["ssrc"], vector["index"]) == clear


@pytest.mark.parametrize("key_length", [16, 32])
def test_gcm_accepts_rtcp_that_is_only_authenticated(key_length: int) -> None:
    vector = RFC7714["rtcp"]
    packet = bytearray.fromhex(vector["authenticated"][str(key_length)])
    clear = gcm(key_length).unprotect_rtcp(bytes(packet), vector["ssrc"], vector["index"])
    assert clear == bytes.fromhex(vector["clear"])
    packet[20] ^= 1
    assert gcm(key_length).unprotect_rtcp(bytes(packet), vector["ssrc"], vector["index"]) is None
