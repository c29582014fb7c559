"""Peers that alter one message (certificate, signature or Finished) or omit one."""

from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from antiphon_common.errors import LocalProtocolError
from antiphon_transceiver.dtls import (
    AlertDescription,
    Certificate,
    DtlsClosed,
    DtlsCloseReason,
    DtlsRole,
    HandshakeCompleted,
)
from antiphon_transceiver.dtls.messages import (
    MAX_CERTIFICATES,
    CertificateChain,
    CertificateVerify,
    HandshakeMessage,
    HandshakeType,
    ServerKeyExchange,
    encode_ecdh_parameters,
)
from antiphon_transceiver.dtls.record import ContentType, RecordLayer
from antiphon_transceiver.dtls.suites import SignatureScheme, sign
from support.peers.altered_dtls import HONEST, OWN, Alteration, AlteredHandshake, HandshakeView

SCHEME = SignatureScheme.ECDSA_SECP256R1_SHA256
LABELS = {DtlsRole.CLIENT: b"client finished", DtlsRole.SERVER: b"server finished"}


def omit(body: bytes, view: HandshakeView) -> None:
    return None


def sent_as(change: Callable[[bytes], bytes]) -> Alteration:
    return lambda body, view: change(body)


def refusal(handshake: AlteredHandshake) -> tuple[DtlsCloseReason, int | None]:
    """Run until both sides are closed, and return the victim's reason and alert."""
    end = handshake.run()
    assert not handshake.victim.connected
    assert not any(isinstance(event, HandshakeCompleted) for event in handshake.victim_end.events)
    assert end is not None, "the handshake goes on"
    (seen,) = (event for event in handshake.attacker_end.events if isinstance(event, DtlsClosed))
    assert (seen.reason, seen.alert) == (DtlsCloseReason.ALERT_RECEIVED, end.alert), "the peer was sent the same alert"
    return end.reason, end.alert


@pytest.mark.parametrize("role", DtlsRole)
def test_an_unaltered_handshake_is_accepted(role: DtlsRole) -> None:
    """So the other tests refuse the alteration, not the test peer."""
    handshake = AlteredHandshake(role)
    handshake.run()
    assert handshake.victim.connected
    assert handshake.attacker.connected


# Certificate


@pytest.mark.parametrize("role", DtlsRole)
def test_a_certificate_without_a_matching_fingerprint_is_refused(role: DtlsRole) -> None:
    assert refusal(AlteredHandshake(role, shown=OWN)) == (
        DtlsCloseReason.CERTIFICATE_MISMATCH,
        AlertDescription.BAD_CERTIFICATE,
    )


@pytest.mark.parametrize("role", DtlsRole)
def test_an_empty_certificate_list_is_refused(role: DtlsRole) -> None:
    handshake = AlteredHandshake(
        role, alterations={HandshakeType.CERTIFICATE: sent_as(lambda body: CertificateChain(()).encode())}
    )
    assert refusal(handshake) == (DtlsCloseReason.CERTIFICATE_MISMATCH, AlertDescription.BAD_CERTIFICATE)


@pytest.mark.parametrize("role", DtlsRole)
@pytest.mark.parametrize("between", [0, 1, 3])
def test_only_the_first_certificate_is_checked_against_the_fingerprint(role: DtlsRole, between: int) -> None:
    """The key is that of the first certificate, so the fingerprint must be too."""
    chain = CertificateChain((OWN.der, *[OWN.der] * between, HONEST.der)).encode()
    handshake = AlteredHandshake(role, shown=OWN, alterations={HandshakeType.CERTIFICATE: sent_as(lambda body: chain)})
    assert refusal(handshake) == (DtlsCloseReason.CERTIFICATE_MISMATCH, AlertDescription.BAD_CERTIFICATE)


@pytest.mark.parametrize("role", DtlsRole)
def test_a_signature_by_the_key_of_a_later_certificate_is_refused(role: DtlsRole) -> None:
    chain = CertificateChain((HONEST.der, OWN.der)).encode()
    handshake = AlteredHandshake(role, shown=OWN, alterations={HandshakeType.CERTIFICATE: sent_as(lambda body: chain)})
    assert refusal(handshake) == (DtlsCloseReason.ALERT_SENT, AlertDescription.DECRYPT_ERROR)


@pytest.mark.parametrize("role", DtlsRole)
@pytest.mark.parametrize("behind", [1, MAX_CERTIFICATES - 1, MAX_CERTIFICATES])
def test_a_chain_after_the_announced_certificate_is_ignored_up_to_a_limit(role: DtlsRole, behind: int) -> None:
    chain = CertificateChain((HONEST.der, *[OWN.der] * behind)).encode()
    handshake = AlteredHandshake(role, alterations={HandshakeType.CERTIFICATE: sent_as(lambda body: chain)})
    if behind < MAX_CERTIFICATES:
        handshake.run()
        assert handshake.victim.connected
    else:
        assert refusal(handshake) == (DtlsCloseReason.ALERT_SENT, AlertDescription.DECODE_ERROR)


@pytest.mark.parametrize("role", DtlsRole)
@pytest.mark.parametrize("weak_first", [True, False])
@pytest.mark.parametrize("strong", ["sha-384", "sha-512"])
def test_a_matching_weaker_fingerprint_does_not_override_the_strongest(
    role: DtlsRole, weak_first: bool, strong: str
) -> None:
    announced = [OWN.fingerprint("sha-256"), HONEST.fingerprint(strong)]
    handshake = AlteredHandshake(role, shown=OWN, announced=announced if weak_first else announced[::-1])
    assert refusal(handshake) == (DtlsCloseReason.CERTIFICATE_MISMATCH, AlertDescription.BAD_CERTIFICATE)


# Signatures: ServerKeyExchange and CertificateVerify


@pytest.mark.parametrize("role", DtlsRole)
def test_the_announced_certificate_without_its_key_is_refused(role: DtlsRole) -> None:
    """An attacker that recorded a handshake has the certificate."""
    assert refusal(AlteredHandshake(role, shown=Certificate(HONEST.der, OWN.private_key))) == (
        DtlsCloseReason.ALERT_SENT,
        AlertDescription.DECRYPT_ERROR,
    )


def forged_verify(
    data: Callable[[HandshakeView], bytes], key: ec.EllipticCurvePrivateKey = HONEST.private_key
) -> Alteration:
    return lambda body, view: CertificateVerify(SCHEME, sign(key, SCHEME, data(view))).encode()


@pytest.mark.parametrize(
    "alter",
    [
        forged_verify(lambda view: b""),
        forged_verify(lambda view: view.transcript[:-1]),
        forged_verify(lambda view: view.client_random + view.server_random),
        sent_as(lambda body: CertificateVerify(SCHEME, b"").encode()),
        sent_as(lambda body: body[:-1] + bytes((body[-1] ^ 1,))),
    ],
    ids=["of nothing", "of less", "of the randoms", "empty", "one bit"],
)
def test_a_certificate_verify_over_other_data_is_refused(alter: Alteration) -> None:
    handshake = AlteredHandshake(DtlsRole.CLIENT, alterations={HandshakeType.CERTIFICATE_VERIFY: alter})
    assert refusal(handshake) == (DtlsCloseReason.ALERT_SENT, AlertDescription.DECRYPT_ERROR)


@pytest.mark.parametrize("scheme", [0x0401, 0x0804, 0x0203, 0x0503, 0x0000])
def test_a_signature_in_a_scheme_that_fits_neither_offer_nor_key_is_refused(scheme: int) -> None:
    def alter(body: bytes, view: HandshakeView) -> bytes:
        return CertificateVerify(scheme, CertificateVerify.decode(body).signature).encode()

    reason, alert = refusal(AlteredHandshake(DtlsRole.CLIENT, alterations={HandshakeType.CERTIFICATE_VERIFY: alter}))
    assert reason is DtlsCloseReason.ALERT_SENT
    assert alert in (AlertDescription.ILLEGAL_PARAMETER, AlertDescription.DECRYPT_ERROR)


def forged_exchange(data: Callable[[ServerKeyExchange, HandshakeView], bytes]) -> Alteration:
    def alter(body: bytes, view: HandshakeView) -> bytes:
        true = ServerKeyExchange.decode(body)
        signature = sign(HONEST.private_key, SCHEME, data(true, view))
        return ServerKeyExchange(true.group, true.public, SCHEME, signature).encode()

    return alter


@pytest.mark.parametrize(
    "alter",
    [
        forged_exchange(lambda true, known: true.parameters),
        forged_exchange(lambda true, known: known.client_random + known.server_random),
        forged_exchange(lambda true, known: bytes(32) + known.server_random + true.parameters),
        forged_exchange(lambda true, known: known.client_random + bytes(32) + true.parameters),
        forged_exchange(lambda true, known: known.server_random + known.client_random + true.parameters),
        forged_exchange(
            lambda true, known: (
                known.client_random + known.server_random + encode_ecdh_parameters(true.group, b"\x09" + bytes(31))
            )
        ),
    ],
    ids=["no randoms", "no key", "another client", "another server", "randoms swapped", "another key"],
)
def test_a_server_key_exchange_signed_over_other_data_is_refused(alter: Alteration) -> None:
    handshake = AlteredHandshake(DtlsRole.SERVER, alterations={HandshakeType.SERVER_KEY_EXCHANGE: alter})
    assert refusal(handshake) == (DtlsCloseReason.ALERT_SENT, AlertDescription.DECRYPT_ERROR)


@pytest.mark.parametrize("group", [0, 22, 30, 0x11EC])
def test_a_group_that_was_not_offered_is_refused(group: int) -> None:
    """The signature of its parameters is valid."""

    def alter(body: bytes, view: HandshakeView) -> bytes:
        public = ServerKeyExchange.decode(body).public
        parameters = encode_ecdh_parameters(group, public)
        signature = sign(HONEST.private_key, SCHEME, view.client_random + view.server_random + parameters)
        return ServerKeyExchange(group, public, SCHEME, signature).encode()

    handshake = AlteredHandshake(DtlsRole.SERVER, alterations={HandshakeType.SERVER_KEY_EXCHANGE: alter})
    assert refusal(handshake) == (DtlsCloseReason.ALERT_SENT, AlertDescription.ILLEGAL_PARAMETER)


# Finished


def verify_data(
    label: bytes, transcript: Callable[[HandshakeView], bytes] = lambda known: known.transcript
) -> Alteration:
    def alter(body: bytes, view: HandshakeView) -> bytes:
        assert view.schedule is not None
        return view.schedule.verify_data(label, transcript(view))

    return alter


@pytest.mark.parametrize("role", DtlsRole)
@pytest.mark.parametrize(
    "alter",
    [
        sent_as(lambda body: bytes(12)),
        sent_as(lambda body: bytes((body[0] ^ 1,)) + body[1:]),
        sent_as(lambda body: body[:4] + bytes(byte ^ 1 for byte in body[4:])),
        sent_as(lambda body: body[:-1] + bytes((body[-1] ^ 1,))),
        sent_as(lambda body: b""),
        sent_as(lambda body: body[:1]),
        sent_as(lambda body: body[:4]),
        sent_as(lambda body: body[:-1]),
        sent_as(lambda body: body + b"\0"),
        sent_as(lambda body: body * 2),
    ],
    ids=["zeros", "first bit", "4 of 12", "last bit", "empty", "1 byte", "4 bytes", "11 bytes", "13 bytes", "twice"],
)
def test_finished_with_wrong_verify_data_is_refused(role: DtlsRole, alter: Alteration) -> None:
    handshake = AlteredHandshake(role, alterations={HandshakeType.FINISHED: alter})
    assert refusal(handshake) == (DtlsCloseReason.ALERT_SENT, AlertDescription.DECRYPT_ERROR)


@pytest.mark.parametrize("role", DtlsRole)
def test_finished_with_the_label_of_the_other_role_is_refused(role: DtlsRole) -> None:
    """A Finished of ours that is reflected has the other label."""
    other = next(label for of, label in LABELS.items() if of is not role)
    handshake = AlteredHandshake(role, alterations={HandshakeType.FINISHED: verify_data(other)})
    assert refusal(handshake) == (DtlsCloseReason.ALERT_SENT, AlertDescription.DECRYPT_ERROR)


@pytest.mark.parametrize("role", DtlsRole)
def test_finished_over_another_transcript_is_refused(role: DtlsRole) -> None:
    """One bit of the transcript differs: an attacker changed a hello in flight."""

    def changed(known: HandshakeView) -> bytes:
        middle = len(known.transcript) // 2
        bit = bytes((known.transcript[middle] ^ 1,))
        return known.transcript[:middle] + bit + known.transcript[middle + 1 :]

    handshake = AlteredHandshake(role, alterations={HandshakeType.FINISHED: verify_data(LABELS[role], changed)})
    assert refusal(handshake) == (DtlsCloseReason.ALERT_SENT, AlertDescription.DECRYPT_ERROR)


@pytest.mark.parametrize("role", DtlsRole)
def test_without_finished_there_is_no_connection(role: DtlsRole) -> None:
    handshake = AlteredHandshake(role, alterations={HandshakeType.FINISHED: omit})
    assert handshake.run() is None
    assert not handshake.victim.connected
    with pytest.raises(LocalProtocolError):
        handshake.victim.export_keying_material(b"EXTRACTOR-dtls_srtp", 60)
    with pytest.raises(LocalProtocolError):
        handshake.victim.send_application_data(b"data")
    end = handshake.run(limit=40.0)
    assert end is not None
    assert end.reason is DtlsCloseReason.TIMEOUT


@pytest.mark.parametrize("role", DtlsRole)
def test_finished_in_an_unprotected_record_is_dropped(role: DtlsRole) -> None:
    """Its verify_data is right, but in epoch 0 it is not protected by the keys."""
    seen: list[bytes] = []

    def alter(body: bytes, view: HandshakeView) -> None:
        seen.append(body)

    handshake = AlteredHandshake(role, alterations={HandshakeType.FINISHED: alter})
    handshake.run(limit=0.05)
    assert seen
    before = handshake.victim.counters.unexpected
    for sequence in range(8):
        message = HandshakeMessage(HandshakeType.FINISHED, sequence, seen[0])
        datagram = RecordLayer().encode(ContentType.HANDSHAKE, 0, message.encode())
        handshake.victim.receive_datagram(datagram, None, handshake.network.now)
    handshake.network.drain()
    assert not handshake.victim.connected
    assert handshake.victim.counters.unexpected == before + 8


@pytest.mark.parametrize("role", DtlsRole)
def test_application_data_in_an_unprotected_record_is_dropped(role: DtlsRole) -> None:
    handshake = AlteredHandshake(role)
    plain = RecordLayer().encode(ContentType.APPLICATION_DATA, 0, b"data")
    for _ in range(3):
        handshake.network.drain()
        handshake.victim.receive_datagram(plain, None, handshake.network.now)
        handshake.run(limit=handshake.network.now + 0.01)
    handshake.victim.receive_datagram(plain, None, handshake.network.now)
    handshake.network.drain()
    assert handshake.victim.connected
    assert [type(event) for event in handshake.victim_end.events] == [HandshakeCompleted]


# Omitted messages


@pytest.mark.parametrize(
    ("role", "left_out"),
    [
        (DtlsRole.CLIENT, HandshakeType.CERTIFICATE),
        (DtlsRole.CLIENT, HandshakeType.CERTIFICATE_VERIFY),
        (DtlsRole.SERVER, HandshakeType.SERVER_HELLO),
        (DtlsRole.SERVER, HandshakeType.CERTIFICATE),
        (DtlsRole.SERVER, HandshakeType.SERVER_KEY_EXCHANGE),
        (DtlsRole.SERVER, HandshakeType.CERTIFICATE_REQUEST),
    ],
)
def test_a_handshake_with_an_omitted_message_ends_with_unexpected_message(
    role: DtlsRole, left_out: HandshakeType
) -> None:
    """Sequence numbers and transcript continue without it. Without CertificateRequest, no client is authenticated."""
    handshake = AlteredHandshake(role, alterations={left_out: omit})
    assert refusal(handshake) == (DtlsCloseReason.ALERT_SENT, AlertDescription.UNEXPECTED_MESSAGE)


def test_omitting_certificate_and_certificate_verify_is_refused() -> None:
    handshake = AlteredHandshake(
        DtlsRole.CLIENT, alterations={HandshakeType.CERTIFICATE: omit, HandshakeType.CERTIFICATE_VERIFY: omit}
    )
    assert refusal(handshake) == (DtlsCloseReason.ALERT_SENT, AlertDescription.UNEXPECTED_MESSAGE)


def test_an_empty_certificate_list_without_certificate_verify_is_refused() -> None:
    """A client without a certificate answers so (RFC 5246 §7.4.6), but there is no fingerprint to match."""
    handshake = AlteredHandshake(
        DtlsRole.CLIENT,
        alterations={
            HandshakeType.CERTIFICATE: sent_as(lambda body: CertificateChain(()).encode()),
            HandshakeType.CERTIFICATE_VERIFY: omit,
        },
    )
    assert refusal(handshake) == (DtlsCloseReason.CERTIFICATE_MISMATCH, AlertDescription.BAD_CERTIFICATE)
