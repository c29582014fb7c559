"""Negotiation, and hellos that are refused."""

from collections.abc import Callable, Sequence

import msgspec
import pytest

from antiphon_common.errors import LocalProtocolError
from antiphon_common.wire import Reader
from antiphon_transceiver.dtls import (
    AlertDescription,
    ApplicationDataReceived,
    CipherSuite,
    DtlsClosed,
    DtlsCloseReason,
    DtlsEndpoint,
    DtlsRole,
    DtlsVersion,
    HandshakeCompleted,
)
from antiphon_transceiver.dtls.extensions import ExtensionType, decode_use_srtp, encode_use_srtp
from antiphon_transceiver.dtls.messages import (
    CertificateChain,
    CertificateRequest,
    ClientHello,
    Fragment,
    HandshakeMessage,
    HandshakeType,
    HelloVerifyRequest,
    ServerHello,
    ServerKeyExchange,
)
from antiphon_transceiver.dtls.record import ContentType, RecordLayer, split_records
from antiphon_transceiver.dtls.suites import SignatureScheme, verify
from antiphon_transceiver.srtp.profiles import SrtpProfile
from support.peers.altered_dtls import AlteredHandshake
from support.peers.certificates import certificate
from support.peers.dtls_pair import end_of, make_peers

CM, GCM_128, GCM_256 = SrtpProfile.AES128_CM_HMAC_SHA1_80, SrtpProfile.AEAD_AES_128_GCM, SrtpProfile.AEAD_AES_256_GCM


def in_record(message: HandshakeMessage) -> bytes:
    return RecordLayer().encode(ContentType.HANDSHAKE, 0, message.encode())


def sent_messages(endpoint: DtlsEndpoint) -> list[Fragment]:
    """Return the unprotected handshake messages an endpoint has to send, each in one fragment."""
    fragments = []
    while (transmit := endpoint.poll_transmit()) is not None:
        for record in split_records(transmit.data):
            if record.content_type == ContentType.HANDSHAKE:
                fragments.append(Fragment.pull(Reader(record.payload)))
    return fragments


def client_hello(endpoint: DtlsEndpoint) -> ClientHello:
    (fragment,) = sent_messages(endpoint)
    return ClientHello.decode(fragment.data)


def test_both_sides_agree_and_exchange_data() -> None:
    client, server, network = make_peers().shake_hands()
    agreed = HandshakeCompleted(DtlsVersion.DTLS_1_2, CipherSuite.ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, GCM_128)
    assert network.left.events == network.right.events == [agreed]
    assert client.export_keying_material(b"label", 60) == server.export_keying_material(b"label", 60)
    assert client.export_keying_material(b"label", 20) != client.export_keying_material(b"other", 20)
    client.send_application_data(b"call")
    server.send_application_data(b"answer")
    network.run(limit=40.0)
    assert network.left.events[1:] == [ApplicationDataReceived(b"answer")]
    assert network.right.events[1:] == [ApplicationDataReceived(b"call")]


def test_the_same_seed_gives_the_same_bytes() -> None:
    def conversation(seed: int) -> list[bytes]:
        network = make_peers(seed).shake_hands().network
        return network.left.sent + network.right.sent

    assert conversation(1) == conversation(1)
    assert conversation(1) != conversation(2)


def test_a_handshake_takes_four_datagrams_and_two_round_trips() -> None:
    network = make_peers().shake_hands().network
    assert (len(network.left.sent), len(network.right.sent)) == (2, 2)


@pytest.mark.parametrize(
    ("client", "server", "agreed"),
    [
        ([CM, GCM_256, GCM_128], [CM, GCM_128, GCM_256], GCM_128),
        ([CM, GCM_256], [CM, GCM_128, GCM_256], GCM_256),
        ([CM], [CM, GCM_128, GCM_256], CM),
        ([], [], None),
        ([GCM_128], [], "client"),
        ([], [GCM_128], "server"),
        ([CM], [GCM_128], "server"),
    ],
)
def test_gcm_is_chosen_whenever_it_is_offered(
    client: Sequence[SrtpProfile], server: Sequence[SrtpProfile], agreed: SrtpProfile | str | None
) -> None:
    peers = make_peers(client_profiles=client, server_profiles=server)
    peers.client.start(0.0)
    peers.network.run(limit=1.0)
    event = peers.network.left.events[0]
    if isinstance(agreed, str):
        reason = DtlsCloseReason.ALERT_SENT if agreed == "client" else DtlsCloseReason.ALERT_RECEIVED
        assert isinstance(event, DtlsClosed)
        assert (event.reason, event.alert) == (reason, AlertDescription.HANDSHAKE_FAILURE)
    else:
        assert isinstance(event, HandshakeCompleted)
        assert event.srtp_profile is agreed


def without(extension: ExtensionType) -> Callable[[ClientHello], ClientHello]:
    def change(hello: ClientHello) -> ClientHello:
        extensions = {number: data for number, data in hello.extensions.items() if number != extension}
        return msgspec.structs.replace(hello, extensions=extensions)

    return change


def with_extension(extension: ExtensionType, data: bytes) -> Callable[[ClientHello], ClientHello]:
    return lambda hello: msgspec.structs.replace(hello, extensions={**hello.extensions, extension: data})


@pytest.mark.parametrize(
    ("change", "alert"),
    [
        (lambda hello: msgspec.structs.replace(hello, version=0xFEFF), AlertDescription.PROTOCOL_VERSION),
        (lambda hello: msgspec.structs.replace(hello, cipher_suites=(0xC02F,)), AlertDescription.HANDSHAKE_FAILURE),
        (lambda hello: msgspec.structs.replace(hello, compression_methods=b"\1"), AlertDescription.ILLEGAL_PARAMETER),
        (without(ExtensionType.EXTENDED_MASTER_SECRET), AlertDescription.HANDSHAKE_FAILURE),
        (without(ExtensionType.SIGNATURE_ALGORITHMS), AlertDescription.HANDSHAKE_FAILURE),
        (with_extension(ExtensionType.SIGNATURE_ALGORITHMS, b"\0\2\4\1"), AlertDescription.HANDSHAKE_FAILURE),
        (with_extension(ExtensionType.SUPPORTED_GROUPS, b"\0\2\0\x1a"), AlertDescription.HANDSHAKE_FAILURE),
        (with_extension(ExtensionType.SUPPORTED_GROUPS, b"\0\3\0\x18\0"), AlertDescription.DECODE_ERROR),
        (with_extension(ExtensionType.EC_POINT_FORMATS, b"\1\1"), AlertDescription.ILLEGAL_PARAMETER),
        (with_extension(ExtensionType.RENEGOTIATION_INFO, b"\1a"), AlertDescription.HANDSHAKE_FAILURE),
        (with_extension(ExtensionType.EXTENDED_MASTER_SECRET, b"a"), AlertDescription.DECODE_ERROR),
    ],
)
def test_a_client_hello_without_common_parameters_is_refused(
    change: Callable[[ClientHello], ClientHello], alert: AlertDescription
) -> None:
    peers = make_peers()
    peers.client.start(0.0)
    hello = change(client_hello(peers.client))
    peers.server.receive_datagram(in_record(HandshakeMessage(HandshakeType.CLIENT_HELLO, 0, hello.encode())), None, 0.0)
    end = end_of(peers.server)
    assert (end.reason, end.alert) == (DtlsCloseReason.ALERT_SENT, alert)
    transmit = peers.server.poll_transmit()
    assert transmit is not None
    assert transmit.data[-2:] == bytes((2, alert))


@pytest.mark.parametrize(
    ("offered", "scheme"),
    [
        (b"\0\4\5\3\4\3", SignatureScheme.ECDSA_SECP256R1_SHA256),
        (b"\0\4\6\3\5\3", SignatureScheme.ECDSA_SECP384R1_SHA384),
        (b"\0\4\6\3\4\1", SignatureScheme.ECDSA_SECP521R1_SHA512),
    ],
)
def test_a_server_signs_with_a_scheme_that_the_client_named(offered: bytes, scheme: SignatureScheme) -> None:
    """RFC 5246 §7.4.3."""
    peers = make_peers()
    peers.client.start(0.0)
    hello = with_extension(ExtensionType.SIGNATURE_ALGORITHMS, offered)(client_hello(peers.client))
    peers.server.receive_datagram(in_record(HandshakeMessage(HandshakeType.CLIENT_HELLO, 0, hello.encode())), None, 0.0)
    answers = {message.type: message.data for message in sent_messages(peers.server)}
    chosen = ServerKeyExchange.decode(answers[HandshakeType.SERVER_KEY_EXCHANGE])
    assert chosen.scheme == scheme
    signed = hello.random + ServerHello.decode(answers[HandshakeType.SERVER_HELLO]).random + chosen.parameters
    verify(scheme, certificate("server").private_key.public_key(), chosen.signature, signed)


def requesting(*schemes: int) -> AlteredHandshake:
    """Make a server that requests a certificate for these signature schemes, and a client."""

    def request(body: bytes) -> bytes:
        return msgspec.structs.replace(CertificateRequest.decode(body), signature_schemes=schemes).encode()

    return AlteredHandshake(
        DtlsRole.SERVER, alterations={HandshakeType.CERTIFICATE_REQUEST: lambda body, view: request(body)}
    )


@pytest.mark.parametrize("schemes", [(0x0503,), (0x0601, 0x0603), (0x0503, 0x0403)])
def test_a_client_signs_with_a_scheme_that_the_server_requested(schemes: tuple[int, ...]) -> None:
    """RFC 5246 §7.4.8. Some servers of mbedTLS request the hash of the cipher suite alone."""
    handshake = requesting(*schemes)
    assert handshake.run() is None
    assert handshake.victim.connected
    assert handshake.attacker.connected


def test_a_server_that_requests_no_scheme_of_ours_is_refused() -> None:
    """RSA with SHA-256, and ECDSA with SHA-1."""
    end = requesting(0x0401, 0x0203).run()
    assert end is not None
    assert (end.reason, end.alert) == (DtlsCloseReason.ALERT_SENT, AlertDescription.HANDSHAKE_FAILURE)


@pytest.mark.parametrize(
    "change",
    [
        with_extension(ExtensionType.SUPPORTED_GROUPS, b"\0\4\0\x17\0\x18"),
        without(ExtensionType.SUPPORTED_GROUPS),
        without(ExtensionType.EC_POINT_FORMATS),
        without(ExtensionType.RENEGOTIATION_INFO),
        lambda hello: msgspec.structs.replace(hello, version=0xFEFC),
        lambda hello: msgspec.structs.replace(hello, extensions={**hello.extensions, 0x0A0A: b"grease"}),
        with_extension(ExtensionType.USE_SRTP, encode_use_srtp((0xFFFF, GCM_128), b"mki")),
    ],
)
def test_unusual_but_valid_client_hellos_are_accepted(change: Callable[[ClientHello], ClientHello]) -> None:
    peers = make_peers()
    peers.client.start(0.0)
    hello = change(client_hello(peers.client))
    peers.server.receive_datagram(in_record(HandshakeMessage(HandshakeType.CLIENT_HELLO, 0, hello.encode())), None, 0.0)
    answer = ServerHello.decode(sent_messages(peers.server)[0].data)
    assert answer.extensions.keys() <= hello.extensions.keys()
    assert decode_use_srtp(answer.extensions[ExtensionType.USE_SRTP]) == ((GCM_128,), b"")


def test_the_renegotiation_scsv_is_answered_like_the_extension() -> None:
    peers = make_peers()
    peers.client.start(0.0)
    hello = without(ExtensionType.RENEGOTIATION_INFO)(client_hello(peers.client))
    hello = msgspec.structs.replace(hello, cipher_suites=(*hello.cipher_suites, 0x00FF))
    peers.server.receive_datagram(in_record(HandshakeMessage(HandshakeType.CLIENT_HELLO, 0, hello.encode())), None, 0.0)
    answer = ServerHello.decode(sent_messages(peers.server)[0].data)
    assert answer.extensions[ExtensionType.RENEGOTIATION_INFO] == b"\0"


GOOD_EXTENSIONS: dict[int, bytes] = {
    ExtensionType.EXTENDED_MASTER_SECRET: b"",
    ExtensionType.USE_SRTP: encode_use_srtp((GCM_128,)),
}


@pytest.mark.parametrize(
    ("hello", "alert"),
    [
        (ServerHello(0xFEFF, bytes(32), b"", 0xC02B, 0, GOOD_EXTENSIONS), AlertDescription.PROTOCOL_VERSION),
        (ServerHello(0xFEFD, bytes(32), b"", 0xC013, 0, GOOD_EXTENSIONS), AlertDescription.ILLEGAL_PARAMETER),
        (ServerHello(0xFEFD, bytes(32), b"", 0xC02B, 1, GOOD_EXTENSIONS), AlertDescription.ILLEGAL_PARAMETER),
        (
            ServerHello(0xFEFD, bytes(32), b"", 0xC02B, 0, {**GOOD_EXTENSIONS, 16: b""}),
            AlertDescription.UNSUPPORTED_EXTENSION,
        ),
        (
            ServerHello(0xFEFD, bytes(32), b"", 0xC02B, 0, {ExtensionType.USE_SRTP: encode_use_srtp((GCM_128,))}),
            AlertDescription.HANDSHAKE_FAILURE,
        ),
        *(
            (
                ServerHello(0xFEFD, bytes(32), b"", 0xC02B, 0, {**GOOD_EXTENSIONS, ExtensionType.USE_SRTP: use_srtp}),
                AlertDescription.ILLEGAL_PARAMETER,
            )
            for use_srtp in (
                encode_use_srtp((GCM_128, CM)),
                encode_use_srtp(()),
                encode_use_srtp((2,)),
                encode_use_srtp((GCM_128,), b"mki"),
            )
        ),
    ],
)
def test_a_server_hello_that_does_not_match_the_client_hello_is_refused(
    hello: ServerHello, alert: AlertDescription
) -> None:
    client = make_peers().client
    client.start(0.0)
    client.receive_datagram(in_record(HandshakeMessage(HandshakeType.SERVER_HELLO, 0, hello.encode())), None, 0.0)
    end = end_of(client)
    assert (end.reason, end.alert) == (DtlsCloseReason.ALERT_SENT, alert)


def test_a_server_certificate_with_a_key_of_another_type_than_the_suite_is_refused() -> None:
    client = make_peers().client
    client.start(0.0)
    suite = CipherSuite.ECDHE_RSA_WITH_AES_128_GCM_SHA256
    hello = ServerHello(0xFEFD, bytes(32), b"", suite, 0, GOOD_EXTENSIONS).encode()
    chain = CertificateChain((certificate("server").der,)).encode()
    client.receive_datagram(in_record(HandshakeMessage(HandshakeType.SERVER_HELLO, 0, hello)), None, 0.0)
    client.receive_datagram(in_record(HandshakeMessage(HandshakeType.CERTIFICATE, 1, chain)), None, 0.0)
    end = end_of(client)
    assert (end.reason, end.alert) == (DtlsCloseReason.ALERT_SENT, AlertDescription.ILLEGAL_PARAMETER)


def test_a_hello_verify_request_is_answered_once_with_its_cookie() -> None:
    client = make_peers().client
    client.start(0.0)
    first = client_hello(client)
    request = HelloVerifyRequest(0xFEFF, b"cookie").encode()
    for sequence in (0, 0):
        message = HandshakeMessage(HandshakeType.HELLO_VERIFY_REQUEST, sequence, request)
        client.receive_datagram(in_record(message), None, 0.03)
    (second,) = sent_messages(client)
    assert second.sequence == 1
    assert ClientHello.decode(second.data) == msgspec.structs.replace(first, cookie=b"cookie")
    client.receive_datagram(in_record(HandshakeMessage(HandshakeType.HELLO_VERIFY_REQUEST, 1, request)), None, 0.06)
    assert end_of(client).alert == AlertDescription.UNEXPECTED_MESSAGE


def test_methods_called_out_of_order_raise_a_local_protocol_error() -> None:
    peers = make_peers()
    with pytest.raises(LocalProtocolError):
        peers.client.send_application_data(b"early")
    with pytest.raises(LocalProtocolError):
        peers.client.export_keying_material(b"label", 10)
    peers.shake_hands()
    with pytest.raises(LocalProtocolError):
        peers.client.start(1.0)
    with pytest.raises(LocalProtocolError):
        peers.client.send_application_data(bytes(1 << 14 | 1))
