import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from antiphon_common.control import Fingerprint
from antiphon_transceiver.dtls.alerts import AlertDescription, CertificateMismatchError, HandshakeError
from antiphon_transceiver.dtls.certificate import check_fingerprint, load_public_key
from support.certificates import certificate

OURS, OTHER = certificate("client"), certificate("other")


def test_a_certificate_is_self_signed_and_has_no_end() -> None:
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


def test_of_several_fingerprints_one_of_the_strongest_hash_must_match() -> None:
    strong, weak = OURS.fingerprint("sha-384"), OURS.fingerprint("sha-256")
    other_strong, other_weak = OTHER.fingerprint("sha-384"), OTHER.fingerprint("sha-256")
    check_fingerprint(OURS.der, [other_strong, strong, other_weak])
    check_fingerprint(OURS.der, [Fingerprint("md2", "00"), other_weak, weak])
    with pytest.raises(CertificateMismatchError):
        check_fingerprint(OURS.der, [other_strong, weak])


@pytest.mark.parametrize("announced", [(), (Fingerprint("sha-1", "00"),), (OTHER.fingerprint(),)])
def test_a_certificate_that_was_not_announced_is_refused(announced: tuple[Fingerprint, ...]) -> None:
    with pytest.raises(CertificateMismatchError):
        check_fingerprint(OURS.der, announced)


def self_signed(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    loaded = x509.load_der_x509_certificate(OURS.der)
    builder = x509.CertificateBuilder(loaded.issuer, loaded.subject, key.public_key(), 1)
    dated = builder.not_valid_before(loaded.not_valid_before_utc).not_valid_after(loaded.not_valid_after_utc)
    hash_function = None if isinstance(key, ed25519.Ed25519PrivateKey) else SHA256()
    return dated.sign(key, hash_function).public_bytes(Encoding.DER)


@pytest.mark.parametrize(
    ("der", "alert"),
    [
        (b"", AlertDescription.BAD_CERTIFICATE),
        (OURS.der[:-1], AlertDescription.BAD_CERTIFICATE),
        (self_signed(ec.generate_private_key(ec.SECP384R1())), AlertDescription.UNSUPPORTED_CERTIFICATE),
        (self_signed(rsa.generate_private_key(65537, 1024)), AlertDescription.UNSUPPORTED_CERTIFICATE),
        (self_signed(ed25519.Ed25519PrivateKey.generate()), AlertDescription.UNSUPPORTED_CERTIFICATE),
    ],
    ids=["empty", "cut short", "P-384", "RSA of 1024 bits", "Ed25519"],
)
def test_a_key_that_cannot_be_used_is_refused(der: bytes, alert: AlertDescription) -> None:
    with pytest.raises(HandshakeError) as raised:
        load_public_key(der)
    assert raised.value.alert is alert


def test_an_rsa_key_as_browsers_make_it_is_taken() -> None:
    key = rsa.generate_private_key(65537, 2048)
    assert load_public_key(self_signed(key)) == key.public_key()
