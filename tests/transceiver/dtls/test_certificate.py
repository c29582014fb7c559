import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from antiphon_common.control import Fingerprint
from antiphon_transceiver.dtls.alerts import AlertDescription, CertificateMismatchError, HandshakeError
from antiphon_transceiver.dtls.certificate import check_fingerprint, load_public_key
from support.peers.certificates import certificate
from support.peers.der import certificate_der, rsa_key_info

OURS, OTHER = certificate("client"), certificate("other")


def test_a_generated_certificate_is_self_signed_and_does_not_expire() -> None:
    loaded = x509.load_der_x509_certificate(OURS.der)
    loaded.verify_directly_issued_by(loaded)
    assert loaded.not_valid_after_utc.year == 9999


@pytest.mark.parametrize(("algorithm", "size"), [("sha-256", 32), ("sha-384", 48), ("sha-512", 64)])
def test_fingerprints_have_the_form_of_sdp_and_match(algorithm: str, size: int) -> None:
    fingerprint = OURS.fingerprint(algorithm)
    assert fingerprint.algorithm == algorithm
    assert bytes.fromhex(fingerprint.value.replace(":", " ")).hex(":").upper() == fingerprint.value
    assert len(fingerprint.value) == 3 * size - 1
    check_fingerprint(OURS.der, [fingerprint])
    check_fingerprint(OURS.der, [Fingerprint(algorithm.upper(), fingerprint.value.lower())])


def test_one_fingerprint_of_the_strongest_hash_must_match() -> None:
    strong, weak = OURS.fingerprint("sha-384"), OURS.fingerprint("sha-256")
    other_strong, other_weak = OTHER.fingerprint("sha-384"), OTHER.fingerprint("sha-256")
    check_fingerprint(OURS.der, [other_strong, strong, other_weak])
    check_fingerprint(OURS.der, [Fingerprint("md2", "00"), other_weak, weak])
    with pytest.raises(CertificateMismatchError):
        check_fingerprint(OURS.der, [other_strong, weak])


@pytest.mark.parametrize("algorithm", ["sha-256", "sha-384", "sha-512"])
def test_every_digit_of_a_fingerprint_is_compared(algorithm: str) -> None:
    value = OURS.fingerprint(algorithm).value
    for position, digit in enumerate(value):
        if digit == ":":
            continue
        other = value[:position] + ("0" if digit != "0" else "1") + value[position + 1 :]
        with pytest.raises(CertificateMismatchError):
            check_fingerprint(OURS.der, [Fingerprint(algorithm, other)])
    for cut in ("", value[:-1], value[:-3], value + ":00"):
        with pytest.raises(CertificateMismatchError):
            check_fingerprint(OURS.der, [Fingerprint(algorithm, cut)])


@pytest.mark.parametrize("announced", [(), (Fingerprint("sha-1", "00"),), (OTHER.fingerprint(),)])
def test_a_certificate_without_a_matching_fingerprint_is_refused(announced: tuple[Fingerprint, ...]) -> None:
    with pytest.raises(CertificateMismatchError):
        check_fingerprint(OURS.der, announced)


PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey


def self_signed(key: PrivateKey) -> bytes:
    loaded = x509.load_der_x509_certificate(OURS.der)
    builder = x509.CertificateBuilder(loaded.issuer, loaded.subject, key.public_key(), 1)
    dated = builder.not_valid_before(loaded.not_valid_before_utc).not_valid_after(loaded.not_valid_after_utc)
    hash_function = None if isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey) else SHA256()
    return dated.sign(key, hash_function).public_bytes(Encoding.DER)


def with_rsa_exponent(exponent: int) -> bytes:
    """Return a certificate whose RSA key of 2048 bits has an odd exponent; its signature is another key's."""
    key = rsa.generate_private_key(65537, 2048)
    modulus = key.public_key().public_numbers().n
    info = rsa.RSAPublicNumbers(exponent, modulus).public_key()
    return certificate_der(info.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


@pytest.mark.parametrize(
    ("der", "alert"),
    [
        (b"", AlertDescription.BAD_CERTIFICATE),
        (OURS.der[:-1], AlertDescription.BAD_CERTIFICATE),
        (OURS.der + b"\0", AlertDescription.BAD_CERTIFICATE),
        (certificate_der(b"0\0"), AlertDescription.BAD_CERTIFICATE),
        (self_signed(ec.generate_private_key(ec.SECP256K1())), AlertDescription.UNSUPPORTED_CERTIFICATE),
        (self_signed(ed448.Ed448PrivateKey.generate()), AlertDescription.UNSUPPORTED_CERTIFICATE),
        (with_rsa_exponent((1 << 33) + 1), AlertDescription.UNSUPPORTED_CERTIFICATE),
        (with_rsa_exponent((1 << 2046) + 1), AlertDescription.UNSUPPORTED_CERTIFICATE),
    ],
    ids=[
        "empty",
        "cut short",
        "too long",
        "no key",
        "secp256k1",
        "Ed448",
        "RSA, 34-bit exponent",
        "RSA, long exponent",
    ],
)
def test_a_key_that_cannot_be_used_is_refused(der: bytes, alert: AlertDescription) -> None:
    with pytest.raises(HandshakeError) as raised:
        load_public_key(der)
    assert raised.value.alert is alert


@pytest.mark.parametrize("bits", [512, 1023, 8193])
def test_rsa_keys_that_are_too_short_or_too_long_are_refused(bits: int) -> None:
    """RSA keys have 1024 to 8192 bits. A refused modulus needs no factors."""
    info = rsa_key_info(modulus=(1 << bits - 1) + 1, exponent=65537)
    with pytest.raises(HandshakeError) as raised:
        load_public_key(certificate_der(info))
    assert raised.value.alert in (AlertDescription.UNSUPPORTED_CERTIFICATE, AlertDescription.BAD_CERTIFICATE)


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 1024),
        rsa.generate_private_key(3, 2048),
        rsa.generate_private_key(65537, 4096),
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP521R1()),
        ed25519.Ed25519PrivateKey.generate(),
    ],
    ids=["RSA 1024", "RSA 2048, exponent 3", "RSA 4096", "P-256", "P-384", "P-521", "Ed25519"],
)
def test_the_keys_of_common_clients_are_accepted(key: PrivateKey) -> None:
    assert load_public_key(self_signed(key)) == key.public_key()
