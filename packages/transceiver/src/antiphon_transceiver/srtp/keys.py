"""Derives SRTP master keys from DTLS (RFC 5764 §4.2), and session keys from master keys (RFC 3711 §4.3)."""

from enum import IntEnum
from typing import NamedTuple

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from antiphon_common.errors import LocalProtocolError
from antiphon_transceiver.srtp.profiles import SrtpProfile

EXPORTER_LABEL = b"EXTRACTOR-dtls_srtp"
"""The label under which DTLS exports the master keys (RFC 5764 §4.2)."""


class Label(IntEnum):
    """The label of a session key (RFC 3711 §4.3.1, §4.3.2).

    Pass one to `derive`, to select what the key is for.
    """

    RTP_ENCRYPTION = 0
    RTP_AUTHENTICATION = 1
    RTP_SALT = 2
    RTCP_ENCRYPTION = 3
    RTCP_AUTHENTICATION = 4
    RTCP_SALT = 5


class Keys(NamedTuple):
    """A key and its salt: the master pair of a direction, or its session pair for RTP or RTCP.

    `split_keying_material` returns master pairs, `derive_pair` session pairs. The text form shows neither.
    """

    key: bytes
    salt: bytes

    def __repr__(self) -> str:
        return "Keys(…)"


def keying_material_length(profile: SrtpProfile) -> int:
    """Return the number of bytes to export from DTLS under `EXPORTER_LABEL`."""
    return 2 * (profile.key_length + profile.salt_length)


def split_keying_material(profile: SrtpProfile, exported: bytes) -> tuple[Keys, Keys]:
    """Return the master keys for the packets of the DTLS client, then for those of the server (RFC 5764 §4.2).

    Raises:
        LocalProtocolError: `exported` has not `keying_material_length(profile)` bytes.
    """
    if len(exported) != keying_material_length(profile):
        raise LocalProtocolError(f"{len(exported)} bytes of keying material do not fit {profile.name}")
    key, salt = profile.key_length, profile.salt_length
    client_salt = exported[2 * key : 2 * key + salt]
    return Keys(exported[:key], client_salt), Keys(exported[key : 2 * key], exported[2 * key + salt :])


def derive(master: Keys, label: Label, length: int) -> bytes:
    """Return a session key of `length` bytes (RFC 3711 §4.3.1); the key derivation rate is zero.

    A salt of 12 bytes is extended to 14 with zeros (RFC 7714 §11). A master key of 32 bytes selects AES_256_CM_PRF
    (RFC 6188 §3.1).
    """
    salt = int.from_bytes(master.salt.ljust(14, b"\0"), "big")
    counter = (salt ^ label << 48) << 16
    encryptor = Cipher(algorithms.AES(master.key), modes.CTR(counter.to_bytes(16, "big"))).encryptor()
    return encryptor.update(bytes(length))


def derive_pair(master: Keys, key_label: Label, salt_label: Label) -> Keys:
    """Return a session key and a session salt, each as long as the master's."""
    return Keys(derive(master, key_label, len(master.key)), derive(master, salt_label, len(master.salt)))
