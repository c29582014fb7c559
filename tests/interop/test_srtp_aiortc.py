"""SRTP and SRTCP against aiortc, in each profile that both support."""

from collections.abc import Iterator

import pytest
from aiortc import rtcdtlstransport
from aiortc.rtcdtlstransport import SRTP_PROFILES, SRTPProtectionProfile

from support.audio.correlation import known_speech, measure
from support.peers.aiortc_peer import call_in_thread
from support.processes.services import Deployment, all_in_one

SECONDS = 6.0
"""Long enough for reports in both directions."""

NAMES = {
    b"SRTP_AEAD_AES_256_GCM": "AEAD_AES_256_GCM",
    b"SRTP_AEAD_AES_128_GCM": "AEAD_AES_128_GCM",
    b"SRTP_AES128_CM_SHA1_80": "AES128_CM_HMAC_SHA1_80",
}
"""OpenSSL's names of the profiles of RFC 5764 §4.1.2 and RFC 7714 §14.2."""


@pytest.fixture(scope="module")
def deployment() -> Iterator[Deployment]:
    with all_in_one() as deployment:
        yield deployment


@pytest.mark.parametrize("profile", SRTP_PROFILES, ids=lambda profile: NAMES[profile.openssl_profile])
def test_media_and_reports_are_authenticated_on_both_sides(
    profile: SRTPProtectionProfile, deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Media and reports pass both ways, and no packet fails its authentication."""
    monkeypatch.setattr(rtcdtlstransport, "SRTP_PROFILES", [profile])
    known = known_speech()
    recording = call_in_thread(deployment.url, known, SECONDS, "http")
    statistics = recording.statistics
    assert deployment.services["antiphon"].wait_for_log(f"srtp={NAMES[profile.openssl_profile]}")
    assert measure(recording.received, recording.sent, known).median > 0.5
    assert statistics["dropped"]["srtp_failed"] == 0
    assert statistics["received_packets"] > SECONDS * 45
    assert statistics["round_trip_ms"] is not None
