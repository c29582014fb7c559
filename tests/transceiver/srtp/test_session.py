import random
import struct

import pytest

from antiphon_common.errors import LocalProtocolError
from antiphon_transceiver.srtp import SrtpError, SrtpProfile, SrtpSession, keying_material_length
from antiphon_transceiver.srtp.gcm import GcmTransform
from antiphon_transceiver.srtp.session import MAX_STREAMS
from support.floods.mutation import mutations
from support.sim.work_counter import work_of

RTCP = struct.pack("!BBHI", 0x80, 201, 1, 77) + struct.pack("!BBHI", 0x81, 203, 1, 77)


def rtp(sequence: int, *, ssrc: int = 77, payload: bytes = b"speech" * 9) -> bytes:
    return struct.pack("!BBHII", 0x80, 111, sequence & 0xFFFF, 960 * sequence & 0xFFFFFFFF, ssrc) + payload


@pytest.fixture(params=list(SrtpProfile), ids=lambda profile: profile.name)
def profile(request: pytest.FixtureRequest) -> SrtpProfile:
    return SrtpProfile(request.param)


@pytest.fixture
def sessions(profile: SrtpProfile) -> tuple[SrtpSession, SrtpSession]:
    """The DTLS client's and the server's."""
    exported = random.Random(profile).randbytes(keying_material_length(profile))
    return SrtpSession(profile, exported, is_client=True), SrtpSession(profile, exported, is_client=False)


Sessions = tuple[SrtpSession, SrtpSession]


def test_each_side_unprotects_the_packets_of_the_other(sessions: Sessions) -> None:
    for sender, receiver in (sessions, sessions[::-1]):
        for sequence in range(3):
            protected = sender.protect_rtp(rtp(sequence))
            assert b"speech" not in protected
            assert receiver.unprotect_rtp(protected) == rtp(sequence)
        assert receiver.unprotect_rtcp(sender.protect_rtcp(RTCP)) == RTCP


def test_a_session_does_not_unprotect_its_own_packets(sessions: Sessions) -> None:
    client, _ = sessions
    with pytest.raises(SrtpError):
        client.unprotect_rtp(client.protect_rtp(rtp(0)))
    with pytest.raises(SrtpError):
        client.unprotect_rtcp(client.protect_rtcp(RTCP))


@pytest.mark.parametrize(
    "header",
    [
        struct.pack("!BBHII3I", 0x83, 111, 5, 0, 77, 1, 2, 3),
        struct.pack("!BBHIIHH4s", 0x90, 111, 5, 0, 77, 0xBEDE, 1, b"\x10\x85\0\0"),
        struct.pack("!BBHIIIHH", 0x91, 111, 5, 0, 77, 9, 0x1000, 0),
    ],
    ids=["csrc", "extension", "both"],
)
@pytest.mark.parametrize("payload", [b"", b"speech"])
def test_the_whole_header_is_not_encrypted(sessions: Sessions, header: bytes, payload: bytes) -> None:
    client, server = sessions
    protected = client.protect_rtp(header + payload)
    assert protected.startswith(header)
    assert server.unprotect_rtp(protected) == header + payload


def test_a_repeated_sequence_number_is_never_protected(sessions: Sessions) -> None:
    client, _ = sessions
    for sequence in (10, 12):
        client.protect_rtp(rtp(sequence))
    for sequence in (10, 12):
        with pytest.raises(LocalProtocolError):
            client.protect_rtp(rtp(sequence, payload=b"other"))
    client.protect_rtp(rtp(11))
    client.protect_rtp(rtp(10, ssrc=78))


def test_a_packet_in_order_is_never_protected_twice(sessions: Sessions) -> None:
    client, _ = sessions
    for sequence in range(10):
        client.protect_rtp(rtp(sequence))
        with pytest.raises(LocalProtocolError):
            client.protect_rtp(rtp(sequence, payload=b"other"))


def test_replays_are_refused(sessions: Sessions) -> None:
    client, server = sessions
    packets = [client.protect_rtp(rtp(sequence)) for sequence in range(300)]
    reports = [client.protect_rtcp(RTCP) for _ in range(3)]
    for packet in packets:
        server.unprotect_rtp(packet)
    for report in reports:
        server.unprotect_rtcp(report)
    for packet in packets:
        with pytest.raises(SrtpError):
            server.unprotect_rtp(packet)
    for report in reports:
        with pytest.raises(SrtpError):
            server.unprotect_rtcp(report)
    assert server.counters.replayed == 303
    assert server.counters.unauthentic == 0


def test_late_packets_are_unprotected_across_the_wrap(sessions: Sessions) -> None:
    client, server = sessions
    order = [65530, 65535, 65536, 65533, 65540, 65534, 65537, 65531]
    packets = {index: client.protect_rtp(rtp(index)) for index in sorted(order)}
    for index in order:
        assert server.unprotect_rtp(packets[index]) == rtp(index)


def test_a_long_stream_with_gaps_keeps_its_rollover_counter(sessions: Sessions) -> None:
    client, server = sessions
    for index in range(1000, 400_000, 15_000):
        assert server.unprotect_rtp(client.protect_rtp(rtp(index))) == rtp(index)


def test_forged_packets_neither_move_the_replay_window_nor_take_a_context(sessions: Sessions) -> None:
    client, server = sessions
    server.unprotect_rtp(client.protect_rtp(rtp(1)))
    for ssrc in range(1000):
        with pytest.raises(SrtpError):
            server.unprotect_rtp(rtp(30_000, ssrc=ssrc) + bytes(16))
    for _ in range(4):  # would move the window past the wrap, if a forged packet moved it
        with pytest.raises(SrtpError):
            server.unprotect_rtp(rtp(30_000) + bytes(16))
    assert server.counters.unauthentic == 1004
    assert server.unprotect_rtp(client.protect_rtp(rtp(2))) == rtp(2)
    assert server.counters.streams_refused == 0


def test_contexts_are_bounded_and_sources_are_not(sessions: Sessions) -> None:
    """Push-to-talk devices, holds and replaced tracks use a new SSRC each time."""
    client, server = sessions
    for ssrc in range(5 * MAX_STREAMS):
        for sequence in range(3):
            packet = rtp(sequence, ssrc=ssrc)
            assert server.unprotect_rtp(client.protect_rtp(packet)) == packet
        report = struct.pack("!BBHI", 0x80, 201, 1, ssrc)
        assert server.unprotect_rtcp(client.protect_rtcp(report)) == report
    assert server.counters.streams_refused == 0


def test_packets_of_an_evicted_source_cannot_be_replayed(sessions: Sessions) -> None:
    """The number of later sources does not matter (RFC 3711 §3.3.2)."""
    client, server = sessions
    packets = [client.protect_rtp(rtp(sequence)) for sequence in range(300)]
    reports = [client.protect_rtcp(RTCP) for _ in range(200)]
    for sequence, packet in enumerate(packets):
        if sequence % 7:  # packets that were lost are refused as well
            server.unprotect_rtp(packet)
    for report in reports:
        server.unprotect_rtcp(report)
    for ssrc in range(1000, 1000 + 2 * MAX_STREAMS):
        server.unprotect_rtp(client.protect_rtp(rtp(0, ssrc=ssrc)))
    for packet in packets:
        with pytest.raises(SrtpError):
            server.unprotect_rtp(packet)
    for report in reports:
        with pytest.raises(SrtpError):
            server.unprotect_rtcp(report)
    assert server.counters.replayed == 500


@pytest.mark.parametrize("reached", [5, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 3 * 0x10000 + 77])
def test_an_evicted_source_that_returns_continues_its_indices(sessions: Sessions, reached: int) -> None:
    """On both sides: no index is used twice, and the rollover counters stay equal."""
    client, server = sessions
    for index in [*range(0, reached, 0x7000), reached]:
        server.unprotect_rtp(client.protect_rtp(rtp(index)))
    old = [client.protect_rtcp(RTCP) for _ in range(3)]
    for report in old:
        server.unprotect_rtcp(report)
    for ssrc in range(1000, 1000 + MAX_STREAMS):
        server.unprotect_rtp(client.protect_rtp(rtp(0, ssrc=ssrc)))
    for index in (reached, reached - 1):
        with pytest.raises(LocalProtocolError):
            client.protect_rtp(rtp(index, payload=b"other"))
    for index in range(reached + 1, reached + 4):
        assert server.unprotect_rtp(client.protect_rtp(rtp(index))) == rtp(index)
    new = [client.protect_rtcp(RTCP) for _ in range(3)]
    assert len({*old, *new}) == 6
    for report in new:
        assert server.unprotect_rtcp(report) == RTCP
    assert server.unprotect_rtp(client.protect_rtp(rtp(reached + 0x7000))) == rtp(reached + 0x7000)


def test_only_an_authentic_packet_evicts_or_restores_a_source(sessions: Sessions) -> None:
    client, server = sessions
    late = {ssrc: client.protect_rtp(rtp(4, ssrc=ssrc)) for ssrc in (0, 1)}
    for ssrc in range(MAX_STREAMS + 1):
        server.unprotect_rtp(client.protect_rtp(rtp(5, ssrc=ssrc)))
    for ssrc in (0, 5000):
        for sequence in (6, 0x9000):
            with pytest.raises(SrtpError):
                server.unprotect_rtp(rtp(sequence, ssrc=ssrc) + bytes(16))
    assert server.unprotect_rtp(late[1]) == rtp(4, ssrc=1), "its context is still there"
    with pytest.raises(SrtpError):
        server.unprotect_rtp(late[0])


@pytest.mark.parametrize("sequence", [0, 0x7FFF, 0x8000, 0xFFFF])
def test_a_forged_packet_is_decrypted_at_most_twice(sessions: Sessions, sequence: int) -> None:
    """Its source may be unknown, known, or evicted."""
    client, server = sessions
    for ssrc in range(2 * MAX_STREAMS):
        server.unprotect_rtp(client.protect_rtp(rtp(sequence, ssrc=ssrc)))

    def refuse(ssrc: int) -> None:
        with pytest.raises(SrtpError):
            server.unprotect_rtp(rtp(sequence + 1, ssrc=ssrc) + bytes(16))

    refuse(0)  # the cipher of sources that return is made once
    for ssrc in (2 * MAX_STREAMS - 1, 0, 5000):
        assert work_of(lambda ssrc=ssrc: refuse(ssrc)).calls <= 100  # type: ignore[misc]


@pytest.mark.parametrize(("sequence", "tries"), [(0, 2), (0x7FFF, 2), (0x8000, 1), (0xFFFF, 1)])
def test_only_a_source_without_a_context_is_tried_with_the_next_rollover_counter(
    sequence: int, tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = SrtpSession(SrtpProfile.AEAD_AES_128_GCM, bytes(56), is_client=False)
    client = SrtpSession(SrtpProfile.AEAD_AES_128_GCM, bytes(56), is_client=True)
    server.unprotect_rtp(client.protect_rtp(rtp(5)))
    unprotect, tried = GcmTransform.unprotect_rtp, list[int]()

    def counted(transform: GcmTransform, packet: bytes, header_length: int, ssrc: int, index: int) -> bytes | None:
        tried.append(index)
        return unprotect(transform, packet, header_length, ssrc, index)

    monkeypatch.setattr(GcmTransform, "unprotect_rtp", counted)
    for ssrc, expected in ((5000, tries), (77, 1)):
        tried.clear()
        with pytest.raises(SrtpError):
            server.unprotect_rtp(rtp(sequence, ssrc=ssrc) + bytes(16))
        assert len(tried) == expected


def test_new_sources_are_refused_when_no_more_evicted_ones_can_be_kept(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("antiphon_transceiver.srtp.evicted.MAX_EVICTED", 10)
    client, server = sessions
    last = MAX_STREAMS + 10
    for ssrc in range(last):
        server.unprotect_rtp(client.protect_rtp(rtp(0, ssrc=ssrc)))
    with pytest.raises(LocalProtocolError):
        client.protect_rtp(rtp(0, ssrc=last))
    with pytest.raises(SrtpError):
        server.unprotect_rtp(rtp(0, ssrc=last) + bytes(16))
    assert server.counters.streams_refused == 1
    for ssrc, sequence in ((0, 1), (last - 1, 1), (0, 2), (11, 1)):
        packet = rtp(sequence, ssrc=ssrc)
        assert server.unprotect_rtp(client.protect_rtp(packet)) == packet, "sources that are kept are still accepted"


@pytest.mark.parametrize(("first", "lost"), [(65500, 50), (65535, 1), (65535, 0x7FFF), (40000, 0x10000 - 40000)])
@pytest.mark.parametrize("report_first", [False, True])
def test_a_source_that_wrapped_before_its_first_packet_arrived_is_unprotected(
    sessions: Sessions, first: int, lost: int, report_first: bool
) -> None:
    """Its first packets have rollover counter 1, and later ones 2 (RFC 3711 §3.3.1)."""
    client, server = sessions
    packets = [client.protect_rtp(rtp(first + number)) for number in range(lost)]
    if report_first:
        server.unprotect_rtcp(client.protect_rtcp(RTCP))
    received = first + lost
    for index in (received, received + 2, *range(received + 0x7000, received + 0x20000, 0x7000)):
        assert server.unprotect_rtp(client.protect_rtp(rtp(index))) == rtp(index)
    assert server.unprotect_rtcp(client.protect_rtcp(RTCP)) == RTCP
    for packet in packets:
        with pytest.raises(SrtpError):
            server.unprotect_rtp(packet)


@pytest.mark.parametrize("back", ["evicted", "wrapped"])
def test_every_bit_of_a_packet_of_a_restored_source_is_authenticated(sessions: Sessions, back: str) -> None:
    client, server = sessions
    if back == "evicted":
        server.unprotect_rtp(client.protect_rtp(rtp(65_534)))
        server.unprotect_rtcp(client.protect_rtcp(RTCP))
        for ssrc in range(1000, 1000 + MAX_STREAMS):
            server.unprotect_rtp(client.protect_rtp(rtp(0, ssrc=ssrc)))
    else:
        client.protect_rtp(rtp(65_535))
        server.unprotect_rtp(client.protect_rtp(rtp(65_537)))
    packet, report = client.protect_rtp(rtp(65_540)), client.protect_rtcp(RTCP)
    for protected, unprotect in ((packet, server.unprotect_rtp), (report, server.unprotect_rtcp)):
        for position in range(len(protected)):
            flipped = bytes((protected[position] ^ 1,))
            with pytest.raises(SrtpError):
                unprotect(protected[:position] + flipped + protected[position + 1 :])
    assert server.unprotect_rtp(packet) == rtp(65_540)
    assert server.unprotect_rtcp(report) == RTCP


def test_late_packets_from_before_a_missed_wrap_are_unprotected(sessions: Sessions) -> None:
    client, server = sessions
    early = [client.protect_rtp(rtp(index)) for index in range(65530, 65536)]
    assert server.unprotect_rtp(client.protect_rtp(rtp(65536))) == rtp(65536)
    assert server.unprotect_rtp(early[-1]) == rtp(65535)
    with pytest.raises(SrtpError):
        server.unprotect_rtp(early[-1])


def test_packets_in_order_are_refused_past_the_last_index(sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    """Like any other (RFC 3711 §9.2)."""
    client, server = sessions
    packets = [client.protect_rtp(rtp(index)) for index in range(8)]
    for module in ("session", "streams"):
        monkeypatch.setattr(f"antiphon_transceiver.srtp.{module}.MAX_RTP_INDEX", 5)
    for index in range(6):
        assert server.unprotect_rtp(packets[index]) == rtp(index)
    for packet in packets[6:]:
        with pytest.raises(SrtpError):
            server.unprotect_rtp(packet)


def test_packets_in_order_are_not_protected_past_the_last_index(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Like any other (RFC 3711 §9.2)."""
    client, _ = sessions
    for module in ("session", "streams"):
        monkeypatch.setattr(f"antiphon_transceiver.srtp.{module}.MAX_RTP_INDEX", 5)
    for index in range(6):
        client.protect_rtp(rtp(index))
    with pytest.raises(LocalProtocolError):
        client.protect_rtp(rtp(6))


@pytest.mark.parametrize("evicting", ["sent", "received"])
def test_an_eviction_in_one_direction_leaves_the_same_ssrc_of_the_other(sessions: Sessions, evicting: str) -> None:
    """Both sides may choose one SSRC. Its rollover counter in the other direction is kept."""
    client, server = sessions
    for index in (0x7000, 0xE000, 0x10005):
        server.unprotect_rtp(client.protect_rtp(rtp(index)))
        client.unprotect_rtp(server.protect_rtp(rtp(index)))
    for ssrc in range(1000, 1000 + MAX_STREAMS):
        if evicting == "sent":
            server.protect_rtp(rtp(0, ssrc=ssrc))
        else:
            server.unprotect_rtp(client.protect_rtp(rtp(0, ssrc=ssrc)))
    if evicting == "sent":
        assert server.unprotect_rtp(client.protect_rtp(rtp(0x10006))) == rtp(0x10006)
    else:
        assert client.unprotect_rtp(server.protect_rtp(rtp(0x10006))) == rtp(0x10006)


def test_a_new_source_starts_at_rollover_counter_zero(sessions: Sessions) -> None:
    client, server = sessions
    for index in range(65_000, 66_000, 100):
        server.unprotect_rtp(client.protect_rtp(rtp(index)))
    assert server.unprotect_rtp(client.protect_rtp(rtp(60_000, ssrc=78))) == rtp(60_000, ssrc=78)
    assert server.unprotect_rtp(client.protect_rtp(rtp(66_000))) == rtp(66_000)


@pytest.mark.parametrize("seed", range(3))
def test_mutated_packets_are_refused_and_change_no_state(sessions: Sessions, seed: int) -> None:
    client, server = sessions
    print("seed", seed)
    rng = random.Random(seed)
    packet, report = client.protect_rtp(rtp(1)), client.protect_rtcp(RTCP)
    for broken in mutations(packet, rng, 1000):
        with pytest.raises(SrtpError):
            server.unprotect_rtp(broken)
    for broken in mutations(report, rng, 1000):
        with pytest.raises(SrtpError):
            server.unprotect_rtcp(broken)
    assert server.unprotect_rtp(packet) == rtp(1)
    assert server.unprotect_rtcp(report) == RTCP


@pytest.mark.parametrize("size", [0, 7, 8, 11, 12, 27, 28, 1600, 2048])
def test_junk_of_any_size_is_refused(sessions: Sessions, size: int) -> None:
    _, server = sessions
    for first in (0x00, 0x80, 0x9F, 0xBF):
        with pytest.raises(SrtpError):
            server.unprotect_rtp(bytes([first] * size))
        with pytest.raises(SrtpError):
            server.unprotect_rtcp(bytes([first] * size))


def test_packets_too_short_for_header_and_tag_count_as_malformed(sessions: Sessions, profile: SrtpProfile) -> None:
    """They are not decrypted."""
    _, server = sessions
    tag = 10 if profile is SrtpProfile.AES128_CM_HMAC_SHA1_80 else 16
    for size in range(12 + tag):
        with pytest.raises(SrtpError):
            server.unprotect_rtp((b"\x80" + bytes(100))[:size])
    assert (server.counters.malformed, server.counters.unauthentic) == (12 + tag, 0)
    for size in range(8 + 4 + tag):
        with pytest.raises(SrtpError):
            server.unprotect_rtcp((b"\x80" + bytes(100))[:size])
    assert (server.counters.malformed, server.counters.unauthentic) == (12 + tag + 8 + 4 + tag, 0)


@pytest.mark.parametrize("packet", [b"", bytes(12), b"\x80" * 11, b"\x9f" + bytes(11)])
def test_only_rtp_is_protected(sessions: Sessions, packet: bytes) -> None:
    with pytest.raises(LocalProtocolError):
        sessions[0].protect_rtp(packet)


def test_keying_material_of_a_wrong_length_is_refused(profile: SrtpProfile) -> None:
    with pytest.raises(LocalProtocolError):
        SrtpSession(profile, bytes(keying_material_length(profile) - 1), is_client=True)
