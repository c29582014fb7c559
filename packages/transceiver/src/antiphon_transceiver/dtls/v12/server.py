"""The server of a DTLS 1.2 handshake. It sends no HelloVerifyRequest, since ICE has checked the address."""

from collections.abc import Callable, Mapping

from antiphon_transceiver.dtls.alerts import AlertDescription, HandshakeError
from antiphon_transceiver.dtls.extensions import (
    POINT_FORMAT_UNCOMPRESSED,
    ExtensionType,
    decode_uint16_list,
    decode_use_srtp,
    encode_block,
    encode_use_srtp,
)
from antiphon_transceiver.dtls.groups import KeyShare, generate_key_share
from antiphon_transceiver.dtls.messages import (
    CERTIFICATE_TYPES,
    COMPRESSION_NULL,
    RANDOM_SIZE,
    CertificateRequest,
    CertificateVerify,
    ClientHello,
    ClientKeyExchange,
    HandshakeType,
    ServerHello,
    ServerKeyExchange,
    encode_ecdh_parameters,
)
from antiphon_transceiver.dtls.record import VERSION_DTLS_1_2, RecordProtection
from antiphon_transceiver.dtls.suites import (
    EMPTY_RENEGOTIATION_INFO_SCSV,
    GROUPS,
    OWN_SUITES,
    SIGNATURE_SCHEMES,
    CipherSuite,
    NamedGroup,
    SignatureScheme,
    choose_scheme,
    sign,
)
from antiphon_transceiver.dtls.v12 import states
from antiphon_transceiver.dtls.v12.handshake import Handshake
from antiphon_transceiver.dtls.v12.states import HandshakeState
from antiphon_transceiver.srtp.profiles import SrtpProfile


class ServerHandshake(Handshake):
    """The server's handshake. It begins with a ClientHello of the peer; see `Handshake` for the rest."""

    initial = HandshakeState.WAIT_CLIENT_HELLO
    transitions = states.SERVER
    _share: KeyShare

    def _make_handlers(self) -> Mapping[int, Callable[[bytes], None]]:
        return {
            HandshakeType.CLIENT_HELLO: self._receive_client_hello,
            HandshakeType.CERTIFICATE: self._receive_certificate,
            HandshakeType.CLIENT_KEY_EXCHANGE: self._receive_client_key_exchange,
            HandshakeType.CERTIFICATE_VERIFY: self._receive_certificate_verify,
            HandshakeType.FINISHED: self._receive_finished,
        }

    def protections(self) -> tuple[RecordProtection, RecordProtection]:
        """Return the record protection that we write with and the one that we read with."""
        client, server = self._agreed_schedule.protections()
        return server, client

    def _receive_client_hello(self, body: bytes) -> None:
        hello = ClientHello.decode(body)
        if hello.version >> 8 != VERSION_DTLS_1_2 >> 8 or hello.version > VERSION_DTLS_1_2:
            # Versions count downwards. A client of DTLS 1.3 writes 1.2 here, and 1.3 in an extension.
            raise HandshakeError(AlertDescription.PROTOCOL_VERSION, f"the client has version {hello.version:#06x}")
        if COMPRESSION_NULL[0] not in hello.compression_methods:
            raise HandshakeError(AlertDescription.ILLEGAL_PARAMETER, "the client does not offer null compression")
        self._check_common_extensions(hello.extensions)
        scheme = _choose_scheme(hello.extensions)
        self.cipher_suite = _choose_suite(hello.cipher_suites)
        self.srtp_profile = self._choose_profile(hello.extensions.get(ExtensionType.USE_SRTP))
        self.client_random = hello.random
        self.server_random = self.config.random(RANDOM_SIZE)
        self._send_server_hello(hello, self.cipher_suite)
        self._send_certificate()
        self._send_server_key_exchange(_choose_group(hello.extensions), scheme)
        request = CertificateRequest(CERTIFICATE_TYPES, SIGNATURE_SCHEMES)
        self._send(HandshakeType.CERTIFICATE_REQUEST, request.encode())
        self._send(HandshakeType.SERVER_HELLO_DONE, b"")

    def _choose_profile(self, use_srtp: bytes | None) -> SrtpProfile | None:
        if not self.config.srtp_profiles:
            return None
        offered = decode_use_srtp(use_srtp)[0] if use_srtp is not None else ()
        for profile in self.config.srtp_profiles:
            if profile in offered:
                return profile
        raise HandshakeError(AlertDescription.HANDSHAKE_FAILURE, "the client offers no SRTP profile of ours")

    def _send_server_hello(self, hello: ClientHello, suite: CipherSuite) -> None:
        extensions: dict[int, bytes] = {ExtensionType.EXTENDED_MASTER_SECRET: b""}
        if ExtensionType.RENEGOTIATION_INFO in hello.extensions or EMPTY_RENEGOTIATION_INFO_SCSV in hello.cipher_suites:
            extensions[ExtensionType.RENEGOTIATION_INFO] = encode_block(b"")
        if ExtensionType.EC_POINT_FORMATS in hello.extensions:
            extensions[ExtensionType.EC_POINT_FORMATS] = encode_block(bytes((POINT_FORMAT_UNCOMPRESSED,)))
        if self.srtp_profile is not None:
            extensions[ExtensionType.USE_SRTP] = encode_use_srtp((self.srtp_profile,))
        answer = ServerHello(
            version=VERSION_DTLS_1_2,
            random=self.server_random,
            session_id=b"",
            cipher_suite=suite,
            compression_method=COMPRESSION_NULL[0],
            extensions=extensions,
        )
        self._send(HandshakeType.SERVER_HELLO, answer.encode())

    def _send_server_key_exchange(self, group: NamedGroup, scheme: SignatureScheme) -> None:
        self._share = generate_key_share(group, self.config.random)
        parameters = encode_ecdh_parameters(group, self._share.public)
        signed = self.client_random + self.server_random + parameters
        signature = sign(self.config.certificate.private_key, scheme, signed)
        exchange = ServerKeyExchange(group, self._share.public, scheme, signature)
        self._send(HandshakeType.SERVER_KEY_EXCHANGE, exchange.encode())

    def _receive_client_key_exchange(self, body: bytes) -> None:
        self._agree(self._share.exchange(ClientKeyExchange.decode(body).public))

    def _receive_certificate_verify(self, body: bytes) -> None:
        self._check_signature(CertificateVerify.decode(body), self._transcript_before_last)

    def _receive_finished(self, body: bytes) -> None:
        self._check_finished(b"client finished", body)
        self._send_finished(b"server finished")


def _choose_suite(offered: tuple[int, ...]) -> CipherSuite:
    for suite in OWN_SUITES:
        if suite in offered:
            return suite
    raise HandshakeError(AlertDescription.HANDSHAKE_FAILURE, "the client offers no cipher suite of ours")


def _choose_group(extensions: Mapping[int, bytes]) -> NamedGroup:
    """Return our preferred group of those offered. A client that offers none accepts any (RFC 8422 §4): use P-256."""
    if ExtensionType.SUPPORTED_GROUPS not in extensions:
        return NamedGroup.SECP256R1
    offered = decode_uint16_list(extensions[ExtensionType.SUPPORTED_GROUPS])
    for group in GROUPS:
        if group in offered:
            return group
    raise HandshakeError(AlertDescription.HANDSHAKE_FAILURE, "the client offers no group of ours")


def _choose_scheme(extensions: Mapping[int, bytes]) -> SignatureScheme:
    """Return the scheme to sign with. A client that offers none accepts SHA-1 only (RFC 5246 §7.4.1.4.1)."""
    offered = extensions.get(ExtensionType.SIGNATURE_ALGORITHMS)
    scheme = None if offered is None else choose_scheme(decode_uint16_list(offered))
    if scheme is None:
        raise HandshakeError(AlertDescription.HANDSHAKE_FAILURE, "the client offers no signature scheme of ours")
    return scheme
