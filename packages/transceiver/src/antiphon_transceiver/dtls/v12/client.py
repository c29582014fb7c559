"""The client of a DTLS 1.2 handshake."""

from collections.abc import Callable, Mapping

from antiphon_common.errors import DecodeError
from antiphon_transceiver.dtls.alerts import AlertDescription, HandshakeError
from antiphon_transceiver.dtls.extensions import (
    POINT_FORMAT_UNCOMPRESSED,
    ExtensionType,
    decode_use_srtp,
    encode_block,
    encode_uint16_list,
    encode_use_srtp,
)
from antiphon_transceiver.dtls.flights import Flight
from antiphon_transceiver.dtls.groups import generate_key_share
from antiphon_transceiver.dtls.messages import (
    CERTIFICATE_TYPE_ECDSA,
    COMPRESSION_NULL,
    RANDOM_SIZE,
    CertificateRequest,
    CertificateVerify,
    ClientHello,
    ClientKeyExchange,
    HandshakeType,
    HelloVerifyRequest,
    ServerHello,
    ServerKeyExchange,
)
from antiphon_transceiver.dtls.record import VERSION_DTLS_1_2, RecordProtection
from antiphon_transceiver.dtls.suites import (
    GROUPS,
    SIGNATURE_SCHEMES,
    SUITES,
    CipherSuite,
    SignatureScheme,
    choose_scheme,
    sign,
)
from antiphon_transceiver.dtls.v12 import states
from antiphon_transceiver.dtls.v12.handshake import Handshake
from antiphon_transceiver.dtls.v12.states import HandshakeState
from antiphon_transceiver.srtp.profiles import SrtpProfile


class ClientHandshake(Handshake):
    """The client's handshake. `start` returns its first flight; see `Handshake` for the rest."""

    initial = HandshakeState.WAIT_SERVER_HELLO
    transitions = states.CLIENT
    _offered_extensions: frozenset[int]
    _exchange: ServerKeyExchange
    _scheme: SignatureScheme

    def _make_handlers(self) -> Mapping[int, Callable[[bytes], None]]:
        return {
            HandshakeType.HELLO_VERIFY_REQUEST: self._receive_hello_verify_request,
            HandshakeType.SERVER_HELLO: self._receive_server_hello,
            HandshakeType.CERTIFICATE: self._receive_certificate,
            HandshakeType.SERVER_KEY_EXCHANGE: self._receive_server_key_exchange,
            HandshakeType.CERTIFICATE_REQUEST: self._receive_certificate_request,
            HandshakeType.SERVER_HELLO_DONE: self._receive_server_hello_done,
            HandshakeType.FINISHED: self._receive_finished,
        }

    def protections(self) -> tuple[RecordProtection, RecordProtection]:
        """Return the record protection that we write with and the one that we read with."""
        return self._agreed_schedule.protections()

    def start(self) -> Flight:
        """Return the first flight, a ClientHello."""
        self.client_random = self.config.random(RANDOM_SIZE)
        self._send_client_hello(cookie=b"")
        return self._take_flight()

    def _send_client_hello(self, cookie: bytes) -> None:
        extensions: dict[int, bytes] = {
            ExtensionType.RENEGOTIATION_INFO: encode_block(b""),
            ExtensionType.EXTENDED_MASTER_SECRET: b"",
            ExtensionType.SUPPORTED_GROUPS: encode_uint16_list(GROUPS),
            ExtensionType.EC_POINT_FORMATS: encode_block(bytes((POINT_FORMAT_UNCOMPRESSED,))),
            ExtensionType.SIGNATURE_ALGORITHMS: encode_uint16_list(SIGNATURE_SCHEMES),
        }
        if self.config.srtp_profiles:
            extensions[ExtensionType.USE_SRTP] = encode_use_srtp(self.config.srtp_profiles)
        self._offered_extensions = frozenset(extensions)
        hello = ClientHello(
            version=VERSION_DTLS_1_2,
            random=self.client_random,
            session_id=b"",
            cookie=cookie,
            cipher_suites=tuple(SUITES),
            compression_methods=COMPRESSION_NULL,
            extensions=extensions,
        )
        self._send(HandshakeType.CLIENT_HELLO, hello.encode())

    def _receive_hello_verify_request(self, body: bytes) -> None:
        # The first ClientHello and this message are not in the transcript (RFC 6347 §4.2.1).
        self._transcript.clear()
        self._send_client_hello(HelloVerifyRequest.decode(body).cookie)

    def _receive_server_hello(self, body: bytes) -> None:
        hello = ServerHello.decode(body)
        if hello.version != VERSION_DTLS_1_2:
            raise HandshakeError(AlertDescription.PROTOCOL_VERSION, f"the server wants version {hello.version:#06x}")
        if hello.cipher_suite not in SUITES or hello.compression_method != COMPRESSION_NULL[0]:
            raise HandshakeError(
                AlertDescription.ILLEGAL_PARAMETER, "the server chose a suite or compression that was not offered"
            )
        if not hello.extensions.keys() <= self._offered_extensions:
            raise HandshakeError(
                AlertDescription.UNSUPPORTED_EXTENSION, "the server sent an extension that was not offered"
            )
        self._check_common_extensions(hello.extensions)
        self.srtp_profile = self._chosen_profile(hello.extensions.get(ExtensionType.USE_SRTP))
        self.cipher_suite = CipherSuite(hello.cipher_suite)
        self.server_random = hello.random

    def _chosen_profile(self, use_srtp: bytes | None) -> SrtpProfile | None:
        if use_srtp is None:
            if self.config.srtp_profiles:
                raise HandshakeError(AlertDescription.HANDSHAKE_FAILURE, "the server chose no SRTP profile")
            return None
        profiles, mki = decode_use_srtp(use_srtp)
        if len(profiles) != 1 or profiles[0] not in self.config.srtp_profiles or mki:
            raise HandshakeError(AlertDescription.ILLEGAL_PARAMETER, "the server's use_srtp does not fit the offer")
        return SrtpProfile(profiles[0])

    def _receive_certificate(self, body: bytes) -> None:
        super()._receive_certificate(body)
        if self.cipher_suite is None or not isinstance(self._peer_key, SUITES[self.cipher_suite].key_types):
            raise HandshakeError(AlertDescription.ILLEGAL_PARAMETER, "the server's key does not fit the cipher suite")

    def _receive_server_key_exchange(self, body: bytes) -> None:
        exchange = ServerKeyExchange.decode(body)
        if exchange.group not in GROUPS:
            raise HandshakeError(AlertDescription.ILLEGAL_PARAMETER, f"group {exchange.group} was not offered")
        signed = CertificateVerify(exchange.scheme, exchange.signature)
        self._check_signature(signed, self.client_random + self.server_random + exchange.parameters)
        self._exchange = exchange

    def _receive_certificate_request(self, body: bytes) -> None:
        request = CertificateRequest.decode(body)
        scheme = choose_scheme(request.signature_schemes)
        if scheme is None or CERTIFICATE_TYPE_ECDSA not in request.certificate_types:
            raise HandshakeError(AlertDescription.HANDSHAKE_FAILURE, "the server accepts no ECDSA P-256 certificate")
        self._scheme = scheme

    def _receive_server_hello_done(self, body: bytes) -> None:
        if body:
            raise DecodeError("ServerHelloDone is not empty")
        share = generate_key_share(self._exchange.group, self.config.random)
        shared_secret = share.exchange(self._exchange.public)
        self._send_certificate()
        self._send(HandshakeType.CLIENT_KEY_EXCHANGE, ClientKeyExchange(share.public).encode())
        self._agree(shared_secret)
        signature = sign(self.config.certificate.private_key, self._scheme, self.transcript)
        verification = CertificateVerify(self._scheme, signature)
        self._send(HandshakeType.CERTIFICATE_VERIFY, verification.encode())
        self._send_finished(b"client finished")

    def _receive_finished(self, body: bytes) -> None:
        self._check_finished(b"server finished", body)
