import itertools
from random import Random

import pytest

from antiphon_common.wire import Reader
from antiphon_transceiver.dtls.flights import (
    MAX_AHEAD,
    MAX_HELD,
    MAX_MESSAGE,
    MAX_PIECES,
    ChangeCipherSpec,
    HandshakeReassembler,
    RetransmissionTimer,
    pack_flight,
)
from antiphon_transceiver.dtls.messages import Fragment, HandshakeMessage, HandshakeType
from antiphon_transceiver.dtls.record import AesGcmRecords, ContentType, RecordLayer, split_records

MESSAGES = [
    HandshakeMessage(HandshakeType.SERVER_HELLO, 0, bytes(range(90))),
    HandshakeMessage(HandshakeType.CERTIFICATE, 1, bytes(range(256)) * 5),
    HandshakeMessage(HandshakeType.SERVER_HELLO_DONE, 2, b""),
]


def pop_all(reassembler: HandshakeReassembler) -> list[HandshakeMessage]:
    return list(iter(reassembler.pop, None))


@pytest.mark.parametrize("mtu", [256, 300, 500, 1200])
def test_a_packed_flight_fits_the_mtu_and_is_reassembled(mtu: int) -> None:
    datagrams = pack_flight(MESSAGES, RecordLayer(), mtu)
    assert all(len(datagram) <= mtu for datagram in datagrams)
    assert all(len(datagram) > mtu / 2 for datagram in datagrams[:-1]), "datagrams are filled"
    reassembler = HandshakeReassembler()
    for record in itertools.chain.from_iterable(map(split_records, datagrams)):
        assert reassembler.push(Fragment.pull(Reader(record.payload)))
    assert pop_all(reassembler) == MESSAGES


def test_finished_follows_change_cipher_spec_in_the_next_epoch() -> None:
    layer = RecordLayer()
    layer.protect(AesGcmRecords(bytes(16), bytes(4)), AesGcmRecords(bytes(16), bytes(4)))
    (datagram,) = pack_flight([ChangeCipherSpec(), HandshakeMessage(HandshakeType.FINISHED, 5, bytes(12))], layer, 1200)
    kinds = [(record.content_type, record.epoch) for record in split_records(datagram)]
    assert kinds == [(ContentType.CHANGE_CIPHER_SPEC, 0), (ContentType.HANDSHAKE, 1)]


def test_a_retransmitted_flight_has_new_record_numbers() -> None:
    layer = RecordLayer()
    numbers = [r.sequence for _ in range(2) for d in pack_flight(MESSAGES, layer, 1200) for r in split_records(d)]
    assert numbers == list(range(len(numbers)))


@pytest.mark.parametrize("seed", range(20))
def test_fragments_are_accepted_in_any_order_overlapping_and_repeated(seed: int) -> None:
    random = Random(seed)
    fragments = []
    for message in MESSAGES:
        size = len(message.body)
        cuts = sorted({0, size, *(random.randrange(size + 1) for _ in range(8))})
        for start, stop in itertools.pairwise(cuts):
            overlap = random.randrange(40)
            fragments.append(message.fragment(max(0, start - overlap), stop - start + 2 * overlap))
        fragments.append(message.fragment(0, 0 if size else 1))
    fragments += random.sample(fragments, 5)
    random.shuffle(fragments)
    reassembler = HandshakeReassembler()
    messages = []
    for fragment in fragments:
        reassembler.push(fragment)
        messages += pop_all(reassembler)
    assert messages == MESSAGES, f"seed {seed}"


def test_a_message_waits_for_those_before_it() -> None:
    reassembler = HandshakeReassembler()
    for message in reversed(MESSAGES):
        assert reassembler.pop() is None
        reassembler.push(message.fragment(0, 5000))
    assert pop_all(reassembler) == MESSAGES


@pytest.mark.parametrize("stray", [(11, 12, 0, 0, b"a"), (14, 10, 0, 5, b"a"), (11, 10, 0, 5, b"abcde")])
def test_a_fragment_replaces_earlier_contradicting_ones(stray: tuple[int, int, int, int, bytes]) -> None:
    reassembler = HandshakeReassembler()
    assert reassembler.push(Fragment(*stray))
    assert reassembler.pop() is None
    assert reassembler.push(Fragment(11, 10, 0, 0, b"01234"))
    assert reassembler.push(Fragment(11, 10, 0, 5, b"56789"))
    assert reassembler.pop() == HandshakeMessage(11, 0, b"0123456789")


def test_messages_are_accepted_again_after_restoring() -> None:
    reassembler = HandshakeReassembler()
    reassembler.push(MESSAGES[2].fragment(0, 0))
    for _ in range(2):
        for message in MESSAGES[:2]:
            reassembler.push(message.fragment(0, 5000))
        reassembler.pop()
        assert reassembler.next_sequence == 1
        reassembler.restore(0)
        assert reassembler.pop() is None
    for message in MESSAGES:
        reassembler.push(message.fragment(0, 5000))
    assert pop_all(reassembler) == MESSAGES


def test_held_fragments_are_bounded() -> None:
    reassembler = HandshakeReassembler()
    assert not reassembler.push(Fragment(11, 10, MAX_AHEAD, 0, b"far ahead"[:9]))
    assert not reassembler.push(Fragment(11, MAX_MESSAGE + 1, 0, 0, b"too long"))
    pieces, held = [], []
    for i in range(500):
        reassembler.push(Fragment(11, 1000, 0, 2 * i, b"a"))
        pieces.append(reassembler.held)
    for i in range(64):
        reassembler.push(Fragment(11, MAX_MESSAGE, 1 + i // 16, i % 16 * 1000, bytes(1000)))
        held.append(reassembler.held)
    assert max(pieces) == MAX_PIECES
    assert MAX_HELD - 2000 <= max(held) <= MAX_HELD
    for message in MESSAGES:
        reassembler.push(message.fragment(0, 5000))
    assert pop_all(reassembler) == MESSAGES, "the peer gets through all the same"


def test_timeouts_double_up_to_a_second() -> None:
    timer = RetransmissionTimer()
    timer.sent(10.0)
    waits = []
    now = 10.0
    for _ in range(6):
        assert timer.deadline is not None
        waits.append(round(timer.deadline - now, 3))
        now = timer.deadline
        timer.retransmitted(now)
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


@pytest.mark.parametrize(("round_trip", "timeout"), [(0.002, 0.05), (0.06, 0.12), (0.9, 1.0)])
def test_a_measured_round_trip_sets_the_next_flights_timeout(round_trip: float, timeout: float) -> None:
    timer = RetransmissionTimer()
    timer.sent(0.0)
    timer.answer_received(round_trip)
    timer.sent(5.0)
    assert timer.round_trip == pytest.approx(round_trip)
    assert timer.deadline == pytest.approx(5.0 + timeout)


def test_a_retransmitted_flight_measures_no_round_trip() -> None:
    timer = RetransmissionTimer()
    timer.sent(0.0)
    timer.retransmitted(0.1)
    timer.answer_received(0.11)
    assert timer.round_trip is None
