"""The key schedule of DTLS 1.2: PRF, extended master secret, record keys, verify_data and exporter."""

import hashlib
import hmac

from antiphon_transceiver.dtls.record import RecordProtection
from antiphon_transceiver.dtls.suites import SUITES, CipherSuite

MASTER_SECRET_SIZE = 48
VERIFY_DATA_SIZE = 12


def prf(hash_name: str, secret: bytes, label: bytes, seed: bytes, length: int) -> bytes:
    """Return `length` bytes of the PRF: P_hash over `label` and `seed` (RFC 5246 §5)."""
    seed = label + seed
    block, output = seed, b""
    while len(output) < length:
        block = hmac.digest(secret, block, hash_name)
        output += hmac.digest(secret, block + seed, hash_name)
    return output[:length]


class KeySchedule:
    """The keys derived from the shared secret of one handshake.

    `transcript` is all handshake messages up to and including ClientKeyExchange. It binds the master secret to this
    handshake (RFC 7627 §4).
    """

    def __init__(
        self, suite: CipherSuite, shared_secret: bytes, transcript: bytes, client_random: bytes, server_random: bytes
    ) -> None:
        self._cipher = SUITES[suite].cipher
        self._client_random = client_random
        self._server_random = server_random
        session_hash = self._hash(transcript)
        self._master_secret = self._prf(shared_secret, b"extended master secret", session_hash, MASTER_SECRET_SIZE)

    def protections(self) -> tuple[RecordProtection, RecordProtection]:
        """Return the record protection of what the client writes, and of what the server writes (RFC 5246 §6.3)."""
        keys, salts = self._cipher.key_length, self._cipher.salt_length
        seed = self._server_random + self._client_random
        block = self._prf(self._master_secret, b"key expansion", seed, 2 * (keys + salts))
        client_salt, server_salt = block[2 * keys : 2 * keys + salts], block[2 * keys + salts :]
        protection = self._cipher.protection
        return protection(block[:keys], client_salt), protection(block[keys : 2 * keys], server_salt)

    def verify_data(self, label: bytes, transcript: bytes) -> bytes:
        """Return the verify_data of Finished (RFC 5246 §7.4.9)."""
        return self._prf(self._master_secret, label, self._hash(transcript), VERIFY_DATA_SIZE)

    def export(self, label: bytes, length: int) -> bytes:
        """Return keying material for another protocol, without a context (RFC 5705 §4)."""
        return self._prf(self._master_secret, label, self._client_random + self._server_random, length)

    def _hash(self, data: bytes) -> bytes:
        return hashlib.new(self._cipher.hash_name, data).digest()

    def _prf(self, secret: bytes, label: bytes, seed: bytes, length: int) -> bytes:
        return prf(self._cipher.hash_name, secret, label, seed, length)
