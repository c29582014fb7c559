"""DER encoding of certificates, with any field as a test needs it."""

OID_EC_SHA256 = bytes.fromhex("06082a8648ce3d040302")
OID_RSA_SHA1 = bytes.fromhex("06092a864886f70d010105")
OID_RSA = bytes.fromhex("06092a864886f70d010101")
NULL = b"\x05\0"


def element(tag: int, content: bytes) -> bytes:
    """Encode one DER element."""
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


def sequence(*elements: bytes) -> bytes:
    return element(0x30, b"".join(elements))


def integer(value: int) -> bytes:
    return element(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def time(text: str) -> bytes:
    """Encode a UTCTime, or a GeneralizedTime if the year has four digits."""
    return element(0x18 if len(text) == 15 else 0x17, text.encode())


def rsa_key_info(modulus: int, exponent: int, *, null: bool = True) -> bytes:
    """Return a SubjectPublicKeyInfo with or without the NULL parameters of RFC 3279 §2.3.1."""
    key = sequence(integer(modulus), integer(exponent))
    return sequence(sequence(OID_RSA, NULL if null else b""), element(0x03, b"\0" + key))


ALGORITHM = sequence(OID_EC_SHA256)
NAME = sequence(element(0x31, sequence(bytes.fromhex("0603550403"), element(0x0C, b"peer"))))
VALIDITY = sequence(time("180101000000Z"), time("280101000000Z"))
VERSION_3 = element(0xA0, integer(2))


def certificate_der(
    key_info: bytes,
    *,
    version: bytes = VERSION_3,
    serial: bytes = b"\x02\1\1",
    algorithm: bytes = ALGORITHM,
    name: bytes = NAME,
    validity: bytes = VALIDITY,
    extensions: bytes = b"",
) -> bytes:
    """Return a certificate for `key_info`; its signature is 64 zeros."""
    signed = sequence(version, serial, algorithm, name, validity, name, key_info, extensions)
    return sequence(signed, algorithm, element(0x03, b"\0" * 65))
