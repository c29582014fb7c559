"""The record layer of DTLS 1.2 (RFC 6347 §4.1) with AEAD protection (RFC 5246 §6.2.3.3)."""

from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from antiphon_common.errors import DecodeError
from antiphon_common.sequence import ReplayWindow
from antiphon_common.wire import Reader

VERSION_DTLS_1_2 = 0xFEFD
VERSION_MAJOR = 0xFE
HEADER_SIZE = 13
MAX_PLAINTEXT = 1 << 14


class ContentType(IntEnum):
    """The content type of a record (RFC 5246 §6.2.1)."""

    CHANGE_CIPHER_SPEC = 20
    ALERT = 21
    HANDSHAKE = 22
    APPLICATION_DATA = 23


class Record(NamedTuple):
    """A record as it was received. Its payload is still protected if `epoch` is not 0."""

    content_type: int
    version: int
    epoch: int
    sequence: int
    payload: bytes


def split_records(datagram: bytes) -> Iterator[Record]:
    """Yield the records of a datagram.

    Raises:
        DecodeError: A record is cut short or of another major version. Those before it have been yielded.
    """
    reader = Reader(datagram)
    while reader.remaining:
        head = int.from_bytes(reader.pull_bytes(HEADER_SIZE), "big")  # one number is faster than five reads
        content_type, version = head >> 96, head >> 80 & 0xFFFF
        epoch, sequence = head >> 64 & 0xFFFF, head >> 16 & 0xFFFFFFFFFFFF
        payload = reader.pull_bytes(head & 0xFFFF)
        if version >> 8 != VERSION_MAJOR:
            raise DecodeError(f"a record of version {version:#06x}")
        yield Record(content_type, version, epoch, sequence, payload)


class RecordProtection(Protocol):
    """The AEAD of one direction of one epoch. `RecordLayer` seals what it sends and opens what it receives."""

    overhead: int
    """Bytes that protection adds to a record."""

    def seal(self, content_type: int, number: bytes, plaintext: bytes) -> bytes:
        """Return the protected payload; `number` is epoch and sequence number, 8 bytes."""

    def open(self, record: Record) -> bytes:
        """Return the plaintext.

        Raises:
            DecodeError: The record is not authentic.
        """


class AesGcmRecords:
    """AES-GCM for one direction of one epoch (RFC 5288 §3), as a `RecordProtection`.

    The nonce is `salt` and an explicit part, which is epoch and sequence number (RFC 6347 §4.1.2.1). So no nonce
    repeats under one key.
    """

    overhead = 8 + 16

    def __init__(self, key: bytes, salt: bytes) -> None:
        self._aead = AESGCM(key)
        self._salt = salt

    def seal(self, content_type: int, number: bytes, plaintext: bytes) -> bytes:
        additional = _additional_data(number, content_type, VERSION_DTLS_1_2, len(plaintext))
        return number + self._aead.encrypt(self._salt + number, plaintext, additional)

    def open(self, record: Record) -> bytes:
        """Return the plaintext.

        Raises:
            DecodeError: The record is not authentic.
        """
        payload = record.payload
        additional = _opening_data(record, self.overhead)
        try:
            return self._aead.decrypt(self._salt + payload[:8], payload[8:], additional)
        except InvalidTag:
            raise DecodeError("a record that is not authentic") from None


class ChaCha20Poly1305Records:
    """ChaCha20-Poly1305 for one direction of one epoch (RFC 7905 §2), as a `RecordProtection`.

    The nonce is `salt` XOR epoch and sequence number; the record does not contain it.
    """

    overhead = 16

    def __init__(self, key: bytes, salt: bytes) -> None:
        self._aead = ChaCha20Poly1305(key)
        self._salt = int.from_bytes(salt, "big")

    def seal(self, content_type: int, number: bytes, plaintext: bytes) -> bytes:
        additional = _additional_data(number, content_type, VERSION_DTLS_1_2, len(plaintext))
        return self._aead.encrypt(self._nonce(number), plaintext, additional)

    def open(self, record: Record) -> bytes:
        """Return the plaintext.

        Raises:
            DecodeError: The record is not authentic.
        """
        additional = _opening_data(record, self.overhead)
        try:
            return self._aead.decrypt(self._nonce(additional[:8]), record.payload, additional)
        except InvalidTag:
            raise DecodeError("a record that is not authentic") from None

    def _nonce(self, number: bytes) -> bytes:
        return (self._salt ^ int.from_bytes(number, "big")).to_bytes(12, "big")


class RecordLayer:
    """Numbers and protects outgoing records, opens incoming ones and refuses replays.

    Epoch 0 is unprotected. `protect` installs the keys of epoch 1. There is no epoch 2, since nothing is renegotiated.
    """

    def __init__(self) -> None:
        self.next_sequence = [0, 0]
        """The sequence number of the next record, by epoch."""
        self._sealing: RecordProtection | None = None
        self._opening: RecordProtection | None = None
        self._window = ReplayWindow()

    @property
    def protected(self) -> bool:
        """Whether epoch 1 has keys."""
        return self._opening is not None

    def protect(self, sealing: RecordProtection, opening: RecordProtection) -> None:
        """Install the keys of epoch 1, for both directions."""
        self._sealing, self._opening = sealing, opening

    def discard_keys(self) -> None:
        """Discard the keys of epoch 1: they came from messages that were refused. Nothing was sent under them."""
        self._sealing = self._opening = None
        self._window = ReplayWindow()

    def overhead(self, epoch: int) -> int:
        """Return the bytes that a record of `epoch` adds to its payload."""
        return HEADER_SIZE + (self._sealing.overhead if epoch and self._sealing is not None else 0)

    def encode(self, content_type: ContentType, epoch: int, payload: bytes) -> bytes:
        """Return the next record of `epoch`; that of epoch 1 is protected."""
        number = _number(epoch, self.next_sequence[epoch])
        self.next_sequence[epoch] += 1
        if epoch:
            if self._sealing is None:
                raise AssertionError("a protected record before its keys")
            payload = self._sealing.seal(content_type, number, payload)
        version = VERSION_DTLS_1_2.to_bytes(2, "big")
        return bytes((content_type,)) + version + number + len(payload).to_bytes(2, "big") + payload

    def is_replay(self, record: Record) -> bool:
        """Return True if a protected record was received before (RFC 6347 §4.1.2.6).

        Epoch 0 has no replay window, since a spoofed record could move it.
        """
        return record.epoch > 0 and not self._window.check(record.sequence)

    def open(self, record: Record) -> bytes:
        """Return the plaintext of a record, and mark it as received.

        Raises:
            DecodeError: The record is not authentic, or of epoch 1 before its keys.
        """
        if record.epoch == 0:
            return record.payload
        if self._opening is None:
            raise DecodeError("a protected record before its keys")
        plaintext = self._opening.open(record)
        self._window.accept(record.sequence)
        return plaintext


def _number(epoch: int, sequence: int) -> bytes:
    return epoch.to_bytes(2, "big") + sequence.to_bytes(6, "big")


def _additional_data(number: bytes, content_type: int, version: int, length: int) -> bytes:
    return number + bytes((content_type,)) + version.to_bytes(2, "big") + length.to_bytes(2, "big")


def _opening_data(record: Record, overhead: int) -> bytes:
    """Return the additional data of a received record; raise DecodeError if the payload is too short for its tag."""
    length = len(record.payload) - overhead
    if length < 0:
        raise DecodeError("a protected record too short for its tag")
    return _additional_data(_number(record.epoch, record.sequence), record.content_type, record.version, length)
