import pytest
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA1, SHA256

from antiphon_transceiver.dtls.alerts import AlertDescription, HandshakeError
from antiphon_transceiver.dtls.suites import OWN_SUITES, SUITES, CipherSuite, SignatureScheme, sign, verify

EC_KEY = ec.generate_private_key(ec.SECP256R1())
RSA_KEY = rsa.generate_private_key(65537, 2048)
PSS = padding.PSS(padding.MGF1(SHA256()), 32)
DATA = b"both randoms and the parameters"


def test_a_server_of_ours_chooses_by_its_certificate() -> None:
    assert all("ECDSA" in suite.name for suite in OWN_SUITES)
    assert OWN_SUITES[0] is CipherSuite.ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
    assert {suite.name.replace("RSA", "ECDSA") for suite in SUITES if "_RSA_" in suite.name} == {
        suite.name for suite in OWN_SUITES
    }


@pytest.mark.parametrize(
    ("scheme", "key", "signature"),
    [
        (SignatureScheme.ECDSA_SECP256R1_SHA256, EC_KEY, sign(EC_KEY, DATA)),
        (SignatureScheme.RSA_PKCS1_SHA256, RSA_KEY, RSA_KEY.sign(DATA, padding.PKCS1v15(), SHA256())),
        (SignatureScheme.RSA_PSS_RSAE_SHA256, RSA_KEY, RSA_KEY.sign(DATA, PSS, SHA256())),
    ],
)
def test_signatures_of_peers(
    scheme: SignatureScheme, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, signature: bytes
) -> None:
    verify(scheme, key.public_key(), signature, DATA)
    for wrong in (signature[:-1], signature[:-1] + bytes((signature[-1] ^ 1,)), b""):
        with pytest.raises(HandshakeError) as raised:
            verify(scheme, key.public_key(), wrong, DATA)
        assert raised.value.alert is AlertDescription.DECRYPT_ERROR
    with pytest.raises(HandshakeError):
        verify(scheme, key.public_key(), signature, DATA + b"!")


@pytest.mark.parametrize(
    ("scheme", "key"),
    [
        (0x0201, RSA_KEY),  # rsa_pkcs1_sha1
        (SignatureScheme.RSA_PKCS1_SHA256, EC_KEY),
        (SignatureScheme.ECDSA_SECP256R1_SHA256, RSA_KEY),
    ],
)
def test_a_scheme_that_was_not_offered_or_is_for_another_key(
    scheme: int, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
) -> None:
    with pytest.raises(HandshakeError) as raised:
        verify(scheme, key.public_key(), RSA_KEY.sign(DATA, padding.PKCS1v15(), SHA1()), DATA)
    assert raised.value.alert is AlertDescription.ILLEGAL_PARAMETER
