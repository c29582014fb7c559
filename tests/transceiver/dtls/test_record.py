import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from antiphon_common.errors import DecodeError
from antiphon_transceiver.dtls.record import (
    AesGcmRecords,
    ChaCha20Poly1305Records,
    ContentType,
    Record,
    RecordLayer,
    RecordProtection,
    split_records,
)

Layers = tuple[RecordLayer, RecordLayer]


@pytest.fixture(params=["AES-128-GCM", "AES-256-GCM", "ChaCha20-Poly1305"])
def layers(request: pytest.FixtureRequest) -> Layers:
    def protection(byte: bytes) -> RecordProtection:
        if request.param == "ChaCha20-Poly1305":
            return ChaCha20Poly1305Records(byte * 32, byte * 12)
        return AesGcmRecords(byte * (16 if request.param == "AES-128-GCM" else 32), byte * 4)

    left, right = RecordLayer(), RecordLayer()
    left.protect(protection(b"1"), protection(b"2"))
    right.protect(protection(b"2"), protection(b"1"))
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


def test_protected_records_have_the_stated_overhead_and_decrypt_on_the_other_side(layers: Layers) -> None:
    left, right = layers
    for text in (b"", b"first", b"second"):
        datagram = left.encode(ContentType.APPLICATION_DATA, 1, text)
        assert len(datagram) == len(text) + left.overhead(1)
        assert right.open(only_record(datagram)) == text


def test_every_flipped_bit_of_a_protected_record_is_a_decode_error(layers: Layers) -> None:
    left, right = layers
    datagram = left.encode(ContentType.APPLICATION_DATA, 1, b"data")
    for position in [0, 2, *range(5, 11), *range(13, len(datagram))]:
        tampered = bytearray(datagram)
        tampered[position] ^= 1
        with pytest.raises(DecodeError):
            right.open(only_record(bytes(tampered)))


def test_an_authentic_record_is_a_replay_the_second_time_and_a_failed_one_is_not(layers: Layers) -> None:
    left, right = layers
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


def test_a_record_too_short_for_a_tag_is_a_decode_error(layers: Layers) -> None:
    _, right = layers
    with pytest.raises(DecodeError, match="short"):
        right.open(Record(ContentType.APPLICATION_DATA, 0xFEFD, 1, 0, bytes(15)))


def test_chacha20_gives_each_record_the_nonce_of_rfc_7905() -> None:
    key, salt = bytes(range(32)), bytes(range(0x40, 0x4C))
    number = bytes.fromhex("0001 000000000102")
    nonce = salt[:4] + bytes(a ^ b for a, b in zip(salt[4:], number, strict=True))
    additional = number + bytes.fromhex("17 fefd 0004")
    sealed = ChaCha20Poly1305Records(key, salt).seal(ContentType.APPLICATION_DATA, number, b"data")
    assert sealed == ChaCha20Poly1305(key).encrypt(nonce, b"data", additional)
