"""SRTP and SRTCP against libsrtp. Each side unprotects the other's packets, also of wrapped and evicted sources."""

import random
import struct

import pytest
from pylibsrtp import Policy, Session

from antiphon_transceiver.srtp import SrtpProfile, SrtpSession, keying_material_length
from antiphon_transceiver.srtp.session import MAX_STREAMS

PROFILES = {
    SrtpProfile.AES128_CM_HMAC_SHA1_80: Policy.SRTP_PROFILE_AES128_CM_SHA1_80,
    SrtpProfile.AEAD_AES_128_GCM: Policy.SRTP_PROFILE_AEAD_AES_128_GCM,
    SrtpProfile.AEAD_AES_256_GCM: Policy.SRTP_PROFILE_AEAD_AES_256_GCM,
}


class LibsrtpPeers:
    """Our session as the DTLS server, and libsrtp sessions as the client."""

    def __init__(self, profile: SrtpProfile) -> None:
        exported = random.Random(profile).randbytes(keying_material_length(profile))
        self.ours = SrtpSession(profile, exported, is_client=False)
        key, salt = profile.key_length, profile.salt_length
        client = exported[:key] + exported[2 * key : 2 * key + salt]
        server = exported[key : 2 * key] + exported[2 * key + salt :]
        self.sender = self._session(profile, client, Policy.SSRC_ANY_OUTBOUND)
        self.reader = self._session(profile, server, Policy.SSRC_ANY_INBOUND)

    @staticmethod
    def _session(profile: SrtpProfile, key: bytes, direction: int) -> Session:
        policy = Policy(key=key, ssrc_type=direction, srtp_profile=PROFILES[profile])
        policy.window_size = 1024
        return Session(policy)


@pytest.fixture(params=list(PROFILES), ids=lambda profile: profile.name)
def peers(request: pytest.FixtureRequest) -> LibsrtpPeers:
    return LibsrtpPeers(request.param)


def rtp(index: int, ssrc: int) -> bytes:
    return struct.pack("!BBHII", 0x80, 111, index & 0xFFFF, index, ssrc) + bytes(range(50))


def rtcp(ssrc: int) -> bytes:
    return struct.pack("!BBHI", 0x80, 201, 1, ssrc) + struct.pack("!BBHI", 0x81, 203, 1, ssrc)


@pytest.mark.parametrize("ssrc", [0, 1, 0x80000000, 0xFFFFFFFF])
def test_rtcp_has_other_keys_than_rtp(peers: LibsrtpPeers, ssrc: int) -> None:
    """RFC 3711 §4.3.2: other keys and, with GCM, another salt (RFC 7714 §9.1)."""
    for index in range(3):
        assert peers.reader.unprotect_rtcp(peers.ours.protect_rtcp(rtcp(ssrc))) == rtcp(ssrc)
        assert peers.ours.unprotect_rtcp(peers.sender.protect_rtcp(rtcp(ssrc))) == rtcp(ssrc)
        assert peers.reader.unprotect(peers.ours.protect_rtp(rtp(index, ssrc))) == rtp(index, ssrc)
        assert peers.ours.unprotect_rtp(peers.sender.protect(rtp(index, ssrc))) == rtp(index, ssrc)


def test_a_source_that_wrapped_before_its_first_packet_was_received(peers: LibsrtpPeers) -> None:
    for index in range(65500, 65600):
        packet = peers.sender.protect(rtp(index, 7))
        if index >= 65550:
            assert peers.ours.unprotect_rtp(packet) == rtp(index, 7)
    assert peers.ours.unprotect_rtcp(peers.sender.protect_rtcp(rtcp(7))) == rtcp(7)


def test_sources_that_were_evicted_on_our_side_continue(peers: LibsrtpPeers) -> None:
    last = 0x10000 + 5
    for index in (30_000, 60_000, last):
        assert peers.ours.unprotect_rtp(peers.sender.protect(rtp(index, 7))) == rtp(index, 7)
        assert peers.reader.unprotect(peers.ours.protect_rtp(rtp(index, 7))) == rtp(index, 7)
    for round_ in range(1, 4):
        assert peers.ours.unprotect_rtcp(peers.sender.protect_rtcp(rtcp(7))) == rtcp(7)
        assert peers.reader.unprotect_rtcp(peers.ours.protect_rtcp(rtcp(7))) == rtcp(7)
        for ssrc in range(1000 * round_, 1000 * round_ + MAX_STREAMS):
            assert peers.ours.unprotect_rtp(peers.sender.protect(rtp(0, ssrc))) == rtp(0, ssrc)
            assert peers.reader.unprotect(peers.ours.protect_rtp(rtp(0, ssrc))) == rtp(0, ssrc)
        index = last + 0x6000 * round_
        assert peers.ours.unprotect_rtp(peers.sender.protect(rtp(index, 7))) == rtp(index, 7)
        assert peers.reader.unprotect(peers.ours.protect_rtp(rtp(index, 7))) == rtp(index, 7)
