"""DTLS 1.2 with OpenSSL's `s_client` and `s_server` as real processes over loopback."""

import contextlib
import os
import re
import selectors
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from antiphon_transceiver.dtls import (
    ApplicationDataReceived,
    CipherSuite,
    DtlsClosed,
    DtlsCloseReason,
    DtlsEndpoint,
    DtlsEvent,
    DtlsRole,
    HandshakeCompleted,
)
from antiphon_transceiver.dtls.certificate import NOT_AFTER, NOT_BEFORE, fingerprint_of
from antiphon_transceiver.srtp.profiles import SrtpProfile
from support.peers.certificates import certificate

PATIENCE = 10.0
"""Seconds until a test gives up on OpenSSL."""

LABEL, LENGTH = "EXTRACTOR-dtls_srtp", 60
PROFILES = {
    "SRTP_AEAD_AES_128_GCM": SrtpProfile.AEAD_AES_128_GCM,
    "SRTP_AEAD_AES_256_GCM": SrtpProfile.AEAD_AES_256_GCM,
    "SRTP_AES128_CM_SHA1_80": SrtpProfile.AES128_CM_HMAC_SHA1_80,
}
SUITES = {
    "ECDHE-ECDSA-AES128-GCM-SHA256": CipherSuite.ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    "ECDHE-ECDSA-AES256-GCM-SHA384": CipherSuite.ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    "ECDHE-ECDSA-CHACHA20-POLY1305": CipherSuite.ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
}
RSA_SUITES = {
    "ECDHE-RSA-AES128-GCM-SHA256": CipherSuite.ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    "ECDHE-RSA-AES256-GCM-SHA384": CipherSuite.ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    "ECDHE-RSA-CHACHA20-POLY1305": CipherSuite.ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}
GCM = SrtpProfile.AEAD_AES_128_GCM


PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


def self_signed(key: PrivateKey) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "peer")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    dated = builder.not_valid_before(NOT_BEFORE).not_valid_after(NOT_AFTER)
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else SHA256()
    return dated.sign(key, digest).public_bytes(Encoding.DER)


def make_rsa_identity() -> tuple[rsa.RSAPrivateKey, bytes]:
    """Return a key and a self-signed certificate like those of browsers and GStreamer."""
    key = rsa.generate_private_key(65537, 2048)
    return key, self_signed(key)


KEYS: dict[str, Callable[[], PrivateKey]] = {
    "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "P-521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
    "RSA of 1024 bits": lambda: rsa.generate_private_key(65537, 1024),
    "RSA of 4096 bits": lambda: rsa.generate_private_key(65537, 4096),
}

OURS, THEIRS = certificate("ours"), certificate("openssl")
THEIR_RSA_KEY, THEIR_RSA_CERTIFICATE = make_rsa_identity()
THEIR_FINGERPRINTS = [THEIRS.fingerprint(), fingerprint_of(THEIR_RSA_CERTIFICATE, "sha-256")]


class OpensslConversation:
    """Our endpoint on a loopback socket, and an OpenSSL process as its peer."""

    def __init__(self, role: DtlsRole, sock: socket.socket, process: subprocess.Popen[bytes], peer: bytes) -> None:
        announced = [*THEIR_FINGERPRINTS, fingerprint_of(peer, "sha-256")]
        self.endpoint = DtlsEndpoint(role, OURS, announced, list(SrtpProfile), os.urandom)
        self.peer: tuple[str, int] | None = None
        self.process = process
        self.events: list[DtlsEvent] = []
        self.output = b""
        self._socket = sock

    def run(self, until: Callable[[], bool], what: str) -> None:
        """Forward datagrams and read the output of the process until `until` holds."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + PATIENCE
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while True:
                self._drain()
                if until():
                    return
                now = time.monotonic()
                assert now < deadline, f"no {what}; events {self.events}; OpenSSL said:\n{self.output.decode()}"
                due = min(deadline, self.endpoint.poll_timeout())
                for key, _ in selector.select(max(0.0, due - now)):
                    if key.fileobj is self._socket:
                        self._receive()
                    else:
                        text = os.read(key.fd, 65536)
                        self.output += text
                        if not text:
                            selector.unregister(self.process.stdout)
                self.endpoint.handle_timeout(time.monotonic())

    def write(self, text: bytes) -> None:
        """Write a line to OpenSSL's standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def _receive(self) -> None:
        data, self.peer = self._socket.recvfrom(2048)
        self.endpoint.receive_datagram(data, None, time.monotonic())

    def _drain(self) -> None:
        while (transmit := self.endpoint.poll_transmit()) is not None:
            assert self.peer is not None
            assert len(transmit.data) <= 1200
            self._socket.sendto(transmit.data, self.peer)
        while (event := self.endpoint.poll_event()) is not None:
            self.events.append(event)


@pytest.fixture
def identity(tmp_path: Path) -> list[str]:
    """Return OpenSSL's options for its certificate and key."""
    return write_identity(tmp_path, THEIRS.der, THEIRS.private_key)


@pytest.fixture
def rsa_identity(tmp_path: Path) -> list[str]:
    return write_identity(tmp_path, THEIR_RSA_CERTIFICATE, THEIR_RSA_KEY)


def write_identity(folder: Path, der: bytes, key: PrivateKey) -> list[str]:
    certificate_file, key_file = folder / "certificate.pem", folder / "key.pem"
    certificate_file.write_bytes(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM))
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return ["-cert", str(certificate_file), "-key", str(key_file)]


@contextlib.contextmanager
def openssl(command: str, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    program = shutil.which("openssl")
    assert program is not None, "needs the Debian package openssl"
    exporter = ["-keymatexport", LABEL, "-keymatexportlen", str(LENGTH)]
    process = subprocess.Popen(
        [program, command, "-dtls1_2", *exporter, *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def against_client(*options: str, commands: bool = False, peer: bytes = THEIRS.der) -> Iterator[OpensslConversation]:
    """We are the server, and `s_client` connects to us. With `commands` it interprets single letters as commands.
    `peer` is the expected certificate, if it differs."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{sock.getsockname()[1]}"
        quiet = () if commands else ("-nocommands",)
        with openssl("s_client", "-connect", address, *quiet, *options) as process:
            yield OpensslConversation(DtlsRole.SERVER, sock, process, peer)


@contextlib.contextmanager
def against_server(*options: str, peer: bytes = THEIRS.der) -> Iterator[OpensslConversation]:
    """We are the client. `s_server` has a port that was free a moment ago."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        with openssl("s_server", "-accept", f"127.0.0.1:{port}", "-Verify", "1", *options) as process:
            conversation = OpensslConversation(DtlsRole.CLIENT, sock, process, peer)
            conversation.run(lambda: b"ACCEPT" in conversation.output, "listening server")
            conversation.peer = ("127.0.0.1", port)
            conversation.endpoint.start(time.monotonic())
            yield conversation


AGAINST = {"s_client": against_client, "s_server": against_server}


def check_conversation(conversation: OpensslConversation, suite: CipherSuite, profile: SrtpProfile) -> None:
    """Check the negotiated parameters, the exporter on both sides, data both ways, and the end."""
    endpoint = conversation.endpoint
    conversation.run(lambda: endpoint.connected, "handshake")
    (completed,) = conversation.events
    assert isinstance(completed, HandshakeCompleted)
    assert (completed.cipher_suite, completed.srtp_profile) == (suite, profile)
    conversation.run(lambda: exported(conversation.output) is not None, "keying material")
    assert exported(conversation.output) == endpoint.export_keying_material(LABEL.encode(), LENGTH)
    endpoint.send_application_data(b"said by us\n")
    conversation.run(lambda: b"said by us" in conversation.output, "data in OpenSSL")
    conversation.write(b"said by OpenSSL\n")
    conversation.run(lambda: ApplicationDataReceived(b"said by OpenSSL\n") in conversation.events, "data from OpenSSL")
    endpoint.close(time.monotonic())
    conversation.run(lambda: conversation.output.endswith((b"closed\n", b"DONE\n")), "end of OpenSSL")


def exported(output: bytes) -> bytes | None:
    found = re.search(rb"Keying material: ([0-9A-F]{%d})" % (2 * LENGTH), output)
    return bytes.fromhex(found[1].decode()) if found else None


@pytest.mark.parametrize("command", AGAINST)
@pytest.mark.parametrize("profile", PROFILES)
def test_each_srtp_profile_is_negotiated(command: str, profile: str, identity: list[str]) -> None:
    with AGAINST[command]("-use_srtp", profile, *identity) as conversation:
        check_conversation(conversation, CipherSuite.ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, PROFILES[profile])


@pytest.mark.parametrize("command", AGAINST)
@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("group", ["X25519", "P-256", "P-384", "P-521"])
def test_each_suite_and_group_is_negotiated(command: str, suite: str, group: str, identity: list[str]) -> None:
    # Behind each stands the group of OpenSSL's certificate, which must be among those it was given.
    groups = "P-256" if group == "P-256" else f"{group}:P-256"
    options = ["-use_srtp", "SRTP_AEAD_AES_128_GCM", "-cipher", suite, "-groups", groups]
    with AGAINST[command](*options, *identity) as conversation:
        check_conversation(conversation, SUITES[suite], GCM)


@pytest.mark.parametrize("scheme", ["RSA+SHA256", "rsa_pss_rsae_sha256"])
def test_a_client_with_an_rsa_certificate_connects(scheme: str, rsa_identity: list[str]) -> None:
    schemes = ["-client_sigalgs", scheme, "-sigalgs", f"ECDSA+SHA256:{scheme}"]
    with against_client("-use_srtp", "SRTP_AEAD_AES_128_GCM", *schemes, *rsa_identity) as conversation:
        check_conversation(conversation, CipherSuite.ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, GCM)


@pytest.mark.parametrize("suite", RSA_SUITES)
@pytest.mark.parametrize("scheme", ["RSA+SHA256", "rsa_pss_rsae_sha256"])
def test_a_server_with_an_rsa_certificate_connects(suite: str, scheme: str, rsa_identity: list[str]) -> None:
    options = ["-use_srtp", "SRTP_AEAD_AES_128_GCM", "-cipher", suite, "-sigalgs", f"{scheme}:ECDSA+SHA256"]
    with against_server(*options, *rsa_identity) as conversation:
        check_conversation(conversation, RSA_SUITES[suite], GCM)


@pytest.mark.parametrize(
    ("command", "kind"),
    # OpenSSL shows an Ed25519 certificate as a server of TLS, not of DTLS.
    [(command, kind) for command in AGAINST for kind in KEYS if (command, kind) != ("s_server", "Ed25519")],
)
def test_certificates_with_other_keys_connect(command: str, kind: str, tmp_path: Path) -> None:
    """Keys that embedded clients and other stacks generate. The fingerprint authenticates the key."""
    key = KEYS[kind]()
    der = self_signed(key)
    options = ["-use_srtp", "SRTP_AEAD_AES_128_GCM", "-cipher", "ALL:@SECLEVEL=0", *write_identity(tmp_path, der, key)]
    with AGAINST[command](*options, peer=der) as conversation:
        conversation.run(lambda: conversation.endpoint.connected, "handshake")
        conversation.run(lambda: exported(conversation.output) is not None, "keying material")
        assert exported(conversation.output) == conversation.endpoint.export_keying_material(LABEL.encode(), LENGTH)


def test_a_client_answers_a_cookie_exchange(identity: list[str]) -> None:
    with against_server("-listen", "-use_srtp", "SRTP_AEAD_AES_128_GCM", *identity) as conversation:
        check_conversation(conversation, CipherSuite.ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, GCM)


@pytest.mark.parametrize("command", AGAINST)
def test_a_handshake_in_small_datagrams_completes(command: str, identity: list[str]) -> None:
    with AGAINST[command]("-mtu", "300", "-use_srtp", "SRTP_AEAD_AES_128_GCM", *identity) as conversation:
        conversation.endpoint.mtu = 300
        check_conversation(conversation, CipherSuite.ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, SrtpProfile.AEAD_AES_128_GCM)


def test_a_client_without_a_certificate_is_refused() -> None:
    with against_client("-use_srtp", "SRTP_AEAD_AES_128_GCM") as conversation:
        conversation.run(lambda: bool(conversation.events), "end")
        (closed,) = conversation.events
        assert isinstance(closed, DtlsClosed)
        assert closed.reason is DtlsCloseReason.CERTIFICATE_MISMATCH


@pytest.mark.parametrize(
    "option",
    [
        ("-cipher", "ECDHE-RSA-AES128-GCM-SHA256"),
        ("-groups", "brainpoolP256r1"),
        ("-use_srtp", "SRTP_AES128_CM_SHA1_32"),
    ],
)
def test_a_client_without_common_parameters_is_refused(option: tuple[str, str], identity: list[str]) -> None:
    with against_client(*identity, *option) as conversation:
        conversation.run(lambda: bool(conversation.events), "end")
        (closed,) = conversation.events
        assert isinstance(closed, DtlsClosed)
        assert closed.reason is DtlsCloseReason.ALERT_SENT
        conversation.run(lambda: b"handshake failure" in conversation.output, "alert in OpenSSL")


def test_a_close_notify_of_a_client_closes_the_association(identity: list[str]) -> None:
    with against_client("-use_srtp", "SRTP_AEAD_AES_128_GCM", *identity) as conversation:
        conversation.run(lambda: exported(conversation.output) is not None, "keying material")
        assert conversation.process.stdin is not None
        conversation.process.stdin.close()
        conversation.run(lambda: conversation.endpoint.closed, "close_notify")
        closed = conversation.events[-1]
        assert isinstance(closed, DtlsClosed)
        assert closed.reason is DtlsCloseReason.CLOSE_NOTIFY


@pytest.mark.parametrize("command", ["s_client", "s_server"])
def test_renegotiation_is_refused(command: str, identity: list[str]) -> None:
    options = ["-use_srtp", "SRTP_AEAD_AES_128_GCM", *identity]
    with against_client(*options, commands=True) if command == "s_client" else against_server(*options) as conversation:
        conversation.run(lambda: exported(conversation.output) is not None, "keying material")
        conversation.write(b"R\n" if command == "s_client" else b"r\n")
        conversation.run(lambda: b"no renegotiation" in conversation.output, "refusal")
        assert not any(isinstance(event, HandshakeCompleted) for event in conversation.events[1:])
