import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA1, SHA256, SHA384, SHA512

from antiphon_transceiver.dtls.alerts import AlertDescription, HandshakeError
from antiphon_transceiver.dtls.suites import OWN_SUITES, SUITES, CipherSuite, SignatureScheme, sign, verify

EC_KEY = ec.generate_private_key(ec.SECP256R1())
P384_KEY, P521_KEY = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP521R1())
ED25519_KEY = ed25519.Ed25519PrivateKey.generate()
RSA_KEY, SHORT_RSA_KEY = rsa.generate_private_key(65537, 2048), rsa.generate_private_key(65537, 1024)
PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
ECDSA_SCHEMES = {
    SignatureScheme.ECDSA_SECP256R1_SHA256: SHA256(),
    SignatureScheme.ECDSA_SECP384R1_SHA384: SHA384(),
    SignatureScheme.ECDSA_SECP521R1_SHA512: SHA512(),
}
PSS = padding.PSS(padding.MGF1(SHA256()), 32)
DATA = b"both randoms and the parameters"


def test_the_server_chooses_suites_that_fit_its_certificate() -> None:
    assert all("ECDSA" in suite.name for suite in OWN_SUITES)
    assert OWN_SUITES[0] is CipherSuite.ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
    assert {suite.name.replace("RSA", "ECDSA") for suite in SUITES if "_RSA_" in suite.name} == {
        suite.name for suite in OWN_SUITES
    }


@pytest.mark.parametrize(
    ("scheme", "key", "signature"),
    [
        *((scheme, EC_KEY, sign(EC_KEY, scheme, DATA)) for scheme in ECDSA_SCHEMES),
        *(
            (scheme, key, key.sign(DATA, ec.ECDSA(digest)))
            for scheme, digest in ECDSA_SCHEMES.items()
            for key in (EC_KEY, P384_KEY, P521_KEY)
        ),
        (SignatureScheme.ED25519, ED25519_KEY, ED25519_KEY.sign(DATA)),
        (SignatureScheme.RSA_PKCS1_SHA256, SHORT_RSA_KEY, SHORT_RSA_KEY.sign(DATA, padding.PKCS1v15(), SHA256())),
        (SignatureScheme.RSA_PSS_RSAE_SHA256, SHORT_RSA_KEY, SHORT_RSA_KEY.sign(DATA, PSS, SHA256())),
        (SignatureScheme.RSA_PKCS1_SHA256, RSA_KEY, RSA_KEY.sign(DATA, padding.PKCS1v15(), SHA256())),
        (SignatureScheme.RSA_PSS_RSAE_SHA256, RSA_KEY, RSA_KEY.sign(DATA, PSS, SHA256())),
    ],
)
def test_valid_signatures_are_accepted_and_altered_ones_refused(
    scheme: SignatureScheme, key: PrivateKey, signature: bytes
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
        (SignatureScheme.ECDSA_SECP384R1_SHA384, RSA_KEY),
        (SignatureScheme.ED25519, EC_KEY),
        (SignatureScheme.ECDSA_SECP256R1_SHA256, ED25519_KEY),
        (SignatureScheme.RSA_PSS_RSAE_SHA256, ED25519_KEY),
        (0x0203, EC_KEY),  # ecdsa_sha1
    ],
)
def test_a_signature_scheme_not_offered_or_of_another_key_type_is_refused(scheme: int, key: PrivateKey) -> None:
    with pytest.raises(HandshakeError) as raised:
        verify(scheme, key.public_key(), RSA_KEY.sign(DATA, padding.PKCS1v15(), SHA1()), DATA)
    assert raised.value.alert is AlertDescription.ILLEGAL_PARAMETER
