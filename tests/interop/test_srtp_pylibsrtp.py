"""SRTP and libsrtp on the same streams: equal packets sent, and equal results for packets of an impaired network."""

import random
import struct
from collections.abc import Callable, Iterator

import pytest
from pylibsrtp import Error, Policy, Session

from antiphon_transceiver.srtp import SrtpError, SrtpProfile, SrtpSession, keying_material_length

PROFILES = {
    SrtpProfile.AES128_CM_HMAC_SHA1_80: Policy.SRTP_PROFILE_AES128_CM_SHA1_80,
    SrtpProfile.AEAD_AES_128_GCM: Policy.SRTP_PROFILE_AEAD_AES_128_GCM,
    SrtpProfile.AEAD_AES_256_GCM: Policy.SRTP_PROFILE_AEAD_AES_256_GCM,
}
SEEDS = range(4)
PACKETS = 1500


class SrtpPair:
    """Our session as the DTLS client, and libsrtp at both ends."""

    def __init__(self, profile: SrtpProfile, rng: random.Random) -> None:
        exported = rng.randbytes(keying_material_length(profile))
        self.ours = SrtpSession(profile, exported, is_client=True)
        self.our_peer = SrtpSession(profile, exported, is_client=False)
        key, salt = profile.key_length, profile.salt_length
        client = exported[:key] + exported[2 * key : 2 * key + salt]
        server = exported[key : 2 * key] + exported[2 * key + salt :]
        self.client_sender = self._session(profile, client, Policy.SSRC_ANY_OUTBOUND)
        self.client_reader = self._session(profile, client, Policy.SSRC_ANY_INBOUND)
        self.server_sender = self._session(profile, server, Policy.SSRC_ANY_OUTBOUND)
        self.server_reader = self._session(profile, server, Policy.SSRC_ANY_INBOUND)

    @staticmethod
    def _session(profile: SrtpProfile, key: bytes, direction: int) -> Session:
        return Session(Policy(key=key, ssrc_type=direction, srtp_profile=PROFILES[profile]))


@pytest.fixture(params=[(profile, seed) for profile in PROFILES for seed in SEEDS], ids=str)
def case(request: pytest.FixtureRequest) -> tuple[SrtpPair, random.Random]:
    profile, seed = request.param
    print("profile", profile.name, "seed", seed)
    rng = random.Random(seed)
    return SrtpPair(profile, rng), rng


Case = tuple[SrtpPair, random.Random]


def rtp_stream(rng: random.Random) -> Iterator[bytes]:
    """Return packets of two sources with gaps of up to 2^15, so that the sequence numbers wrap many times."""
    indices = {ssrc: rng.randrange(0x8000) for ssrc in (1, 0xFFFFFFFF)}
    for _ in range(PACKETS):
        ssrc = rng.choice(list(indices))
        indices[ssrc] += rng.randrange(0x7000) if rng.random() < 0.02 else 1
        header = struct.pack("!BBHII", 0x80, 111, indices[ssrc] & 0xFFFF, rng.getrandbits(32), ssrc)
        if rng.random() < 0.3:
            header = b"\x91" + header[1:] + struct.pack("!IHH4s", 5, 0xBEDE, 1, rng.randbytes(4))
        yield header + rng.randbytes(rng.randrange(200))


def rtcp_stream(rng: random.Random) -> Iterator[bytes]:
    for _ in range(PACKETS):
        words = rng.randrange(1, 40)
        yield struct.pack("!BBHI", 0x80, 201, words, rng.choice((1, 2))) + rng.randbytes(4 * words - 4)


def unkind(packets: list[bytes], rng: random.Random) -> Iterator[bytes]:
    """Drop, delay (some beyond the replay window), duplicate and corrupt packets."""
    delivered = [
        (position + rng.choice((0, 0, 0, 3, 40, 300)) * rng.random(), packet)
        for position, packet in enumerate(packets)
        for _ in range(rng.choice((0, 1, 1, 1, 1, 1, 1, 2)))
    ]
    for _, packet in sorted(delivered):
        if rng.random() < 0.05:
            position = rng.randrange(len(packet))
            yield packet[:position] + bytes((packet[position] ^ 1 << rng.randrange(8),)) + packet[position + 1 :]
        yield packet


def verdict(unprotect: Callable[[bytes], bytes], packet: bytes) -> bytes | None:
    try:
        return unprotect(packet)
    except (SrtpError, Error):
        return None


def assert_equal_verdicts(
    ours: Callable[[bytes], bytes], theirs: Callable[[bytes], bytes], packets: list[bytes], rng: random.Random
) -> None:
    taken = 0
    for packet in unkind(packets, rng):
        expected = verdict(theirs, packet)
        assert verdict(ours, packet) == expected
        taken += expected is not None
    assert taken > PACKETS * 0.7


def test_protected_rtp_is_equal(case: Case) -> None:
    pair, rng = case
    for packet in rtp_stream(rng):
        assert pair.ours.protect_rtp(packet) == pair.client_sender.protect(packet)


def test_we_accept_the_same_rtp_of_libsrtp_as_libsrtp(case: Case) -> None:
    pair, rng = case
    packets = [pair.server_sender.protect(packet) for packet in rtp_stream(rng)]
    assert_equal_verdicts(pair.ours.unprotect_rtp, pair.server_reader.unprotect, packets, rng)


def test_libsrtp_accepts_the_same_rtp_of_ours_as_we_do(case: Case) -> None:
    pair, rng = case
    packets = [pair.ours.protect_rtp(packet) for packet in rtp_stream(rng)]
    assert_equal_verdicts(pair.our_peer.unprotect_rtp, pair.client_reader.unprotect, packets, rng)


def test_we_accept_the_same_rtcp_of_libsrtp_as_libsrtp(case: Case) -> None:
    pair, rng = case
    packets = [pair.server_sender.protect_rtcp(packet) for packet in rtcp_stream(rng)]
    assert_equal_verdicts(pair.ours.unprotect_rtcp, pair.server_reader.unprotect_rtcp, packets, rng)


def test_libsrtp_accepts_the_same_rtcp_of_ours_as_we_do(case: Case) -> None:
    pair, rng = case
    packets = [pair.ours.protect_rtcp(packet) for packet in rtcp_stream(rng)]
    assert_equal_verdicts(pair.our_peer.unprotect_rtcp, pair.client_reader.unprotect_rtcp, packets, rng)
