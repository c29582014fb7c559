import pytest

from antiphon_common.errors import DecodeError
from antiphon_transceiver.dtls.record import AesGcm, ContentType, Record, RecordLayer, split_records


def protected_pair() -> tuple[RecordLayer, RecordLayer]:
    one, other = AesGcm(b"k" * 16, b"salt"), AesGcm(b"K" * 32, b"SALT")
    left, right = RecordLayer(), RecordLayer()
    left.protect(one, other)
    right.protect(other, one)
    return left, right


def only_record(datagram: bytes) -> Record:
    (record,) = split_records(datagram)
    return record


def test_a_datagram_holds_several_records() -> None:
    layer = RecordLayer()
    datagram = layer.encode(ContentType.HANDSHAKE, 0, b"one") + layer.encode(ContentType.ALERT, 0, b"")
    assert list(split_records(datagram)) == [
        Record(ContentType.HANDSHAKE, 0xFEFD, 0, 0, b"one"),
        Record(ContentType.ALERT, 0xFEFD, 0, 1, b""),
    ]


@pytest.mark.parametrize("cut", range(1, 16))
def test_a_record_cut_short_is_a_decode_error(cut: int) -> None:
    datagram = RecordLayer().encode(ContentType.HANDSHAKE, 0, b"abc")
    with pytest.raises(DecodeError):
        list(split_records(datagram[:cut]))


def test_another_major_version_is_a_decode_error() -> None:
    datagram = bytearray(RecordLayer().encode(ContentType.HANDSHAKE, 0, b"abc"))
    datagram[1] = 3
    with pytest.raises(DecodeError, match="version"):
        list(split_records(bytes(datagram)))


def test_protected_records_are_longer_by_the_stated_overhead_and_open_on_the_other_side() -> None:
    left, right = protected_pair()
    for text in (b"", b"first", b"second"):
        datagram = left.encode(ContentType.APPLICATION_DATA, 1, text)
        assert len(datagram) == len(text) + left.overhead(1)
        assert right.open(only_record(datagram)) == text


def test_every_flipped_bit_of_a_protected_record_is_noticed() -> None:
    left, right = protected_pair()
    datagram = left.encode(ContentType.APPLICATION_DATA, 1, b"data")
    for position in [0, 2, *range(5, 11), *range(13, len(datagram))]:
        tampered = bytearray(datagram)
        tampered[position] ^= 1
        with pytest.raises(DecodeError):
            right.open(only_record(bytes(tampered)))


def test_a_record_that_came_is_a_replay_and_one_that_failed_is_not() -> None:
    left, right = protected_pair()
    records = [only_record(left.encode(ContentType.APPLICATION_DATA, 1, b"data")) for _ in range(70)]
    forged = records[3]._replace(payload=records[2].payload)
    with pytest.raises(DecodeError):
        right.open(forged)
    assert not right.is_replay(records[3])
    right.open(records[3])
    assert right.is_replay(records[3])
    right.open(records[69])
    assert right.is_replay(records[4]), "too old to know"
    assert not right.is_replay(records[68])


def test_a_record_too_short_for_a_tag_is_a_decode_error() -> None:
    _, right = protected_pair()
    with pytest.raises(DecodeError, match="short"):
        right.open(Record(ContentType.APPLICATION_DATA, 0xFEFD, 1, 0, bytes(23)))
