"""Certificates that strict parsers refuse. Only their key matters."""

from random import Random

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from antiphon_common.errors import DecodeError
from antiphon_transceiver.dtls import Certificate, DtlsClosed, DtlsEndpoint, DtlsRole, HandshakeCompleted
from antiphon_transceiver.dtls.x509 import find_public_key_info
from antiphon_transceiver.srtp.profiles import SrtpProfile
from support.peers.certificates import certificate
from support.peers.der import (
    NULL,
    OID_EC_SHA256,
    OID_RSA_SHA1,
    certificate_der,
    element,
    integer,
    rsa_key_info,
    sequence,
    time,
)
from support.sim.memory_network import MemoryNetwork

KEY = certificate("peer").private_key
KEY_INFO = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
CONTENT = certificate_der(KEY_INFO)[2 + (certificate_der(KEY_INFO)[1] & 0x7F) :]

UNUSUAL = {
    "ECDSA with NULL parameters": certificate_der(KEY_INFO, algorithm=sequence(OID_EC_SHA256, NULL)),
    "version 1": certificate_der(KEY_INFO, version=b""),
    "version 2 (RFC 5280)": certificate_der(KEY_INFO, version=element(0xA0, integer(1))),
    "negative serial number": certificate_der(KEY_INFO, serial=integer(-77)),
    "serial number 0": certificate_der(KEY_INFO, serial=integer(0)),
    "serial number of 64 bytes": certificate_der(KEY_INFO, serial=integer(1 << 500)),
    "serial number without bytes": certificate_der(KEY_INFO, serial=b"\2\0"),
    "no names": certificate_der(KEY_INFO, name=sequence()),
    "names that are no names": certificate_der(KEY_INFO, name=element(0x0C, b"peer")),
    "expired": certificate_der(KEY_INFO, validity=sequence(time("700101000000Z"), time("700102000000Z"))),
    "not valid yet": certificate_der(KEY_INFO, validity=sequence(time("20990101000000Z"), time("99991231235959Z"))),
    "dates that are none": certificate_der(KEY_INFO, validity=sequence(time("soon"), time("later"))),
    "no end": certificate_der(KEY_INFO, validity=sequence(time("180101000000Z"))),
    "signed with SHA-1": certificate_der(KEY_INFO, algorithm=sequence(OID_RSA_SHA1, NULL)),
    "extensions that are none": certificate_der(KEY_INFO, extensions=element(0xA3, b"junk")),
    "lengths longer than needed": b"\x30\x84" + len(CONTENT).to_bytes(4, "big") + CONTENT,
}


@pytest.mark.parametrize("kind", UNUSUAL)
@pytest.mark.parametrize("role", DtlsRole)
def test_a_peer_with_an_unusual_certificate_is_authenticated_by_its_fingerprint(kind: str, role: DtlsRole) -> None:
    shown, ours = Certificate(UNUSUAL[kind], KEY), certificate("server")
    other = DtlsRole.SERVER if role is DtlsRole.CLIENT else DtlsRole.CLIENT
    random = Random(1).randbytes
    peer = DtlsEndpoint(role, shown, [ours.fingerprint()], list(SrtpProfile), random)
    victim = DtlsEndpoint(other, ours, [shown.fingerprint()], list(SrtpProfile), random)
    network = MemoryNetwork(peer, victim)
    (peer if role is DtlsRole.CLIENT else victim).start(0.0)
    network.run(lambda: bool(network.left.events and network.right.events), limit=2.0)
    assert [type(event) for event in network.right.events] == [HandshakeCompleted]
    assert not any(isinstance(event, DtlsClosed) for event in network.left.events)


def test_rsa_keys_without_null_parameters_are_found() -> None:
    info = rsa_key_info((1 << 2047) + 1, 65537, null=False)
    assert find_public_key_info(certificate_der(info)) == info


@pytest.mark.parametrize(
    "der",
    [
        b"",
        b"\x30",
        b"\x30\x80\0\0",
        b"\x30\x85\0\0\0\0\0",
        b"\x30\x84\xff\xff\xff\xff",
        certificate_der(KEY_INFO, serial=b"\x02\x80"),  # an indefinite length, which DER does not have
        sequence(),
        sequence(sequence()),
        sequence(sequence(*[integer(1)] * 6)),
        sequence(sequence(*[integer(1)] * 7)),
        element(0x31, CONTENT),
        certificate_der(KEY_INFO)[:-1],
        certificate_der(KEY_INFO) + b"\0",
    ],
)
def test_certificates_without_a_public_key_are_a_decode_error(der: bytes) -> None:
    with pytest.raises(DecodeError):
        find_public_key_info(der)


@pytest.mark.parametrize("seed", range(3))
def test_mutated_certificates_raise_only_decode_errors(seed: int) -> None:
    print("seed", seed)
    random = Random(seed)
    for _ in range(5000):
        der = bytearray(random.choice(list(UNUSUAL.values())))
        for _ in range(random.randrange(1, 6)):
            der[random.randrange(len(der))] = random.randrange(256)
        if random.random() < 0.2:
            del der[random.randrange(len(der)) :]
        try:
            find_public_key_info(bytes(der))
        except DecodeError:
            continue
