"""TLS of the HTTP port: a certificate from files, or a self-signed one made at start."""

import datetime
import ipaddress
import re
import socket
import ssl
import tempfile
from collections.abc import Iterable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from antiphon_common.settings import FrontSettings, SettingsError
from antiphon_common.shell.secrets import find_exposure

VALIDITY = datetime.timedelta(days=90)
"""Validity of a self-signed certificate, which each start replaces. Browsers refuse more than 398 days."""
CLOCK_SKEW = datetime.timedelta(days=1)
ALWAYS_NAMED = ("localhost", "127.0.0.1", "::1")

_DNS_NAME = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*"
)


def make_tls(front: FrontSettings, hosts: Iterable[str]) -> tuple[ssl.SSLContext | None, str | None]:
    """Return the TLS context for the settings, or None for plain HTTP, and the fingerprint of a new certificate.

    A new certificate names `hosts` and this machine's names.

    Raises:
        SettingsError: the files of certificate and key cannot be used.
    """
    if front.tls_cert is not None and front.tls_key is not None:
        return _load(front.tls_cert, front.tls_key), None
    if front.tls is None:
        return None, None
    certificate, key = make_certificate(_own_names(hosts), datetime.datetime.now(datetime.UTC))
    digest = certificate.fingerprint(SHA256()).hex(":").upper()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + certificate.public_bytes(Encoding.PEM)
    with tempfile.TemporaryDirectory(prefix="antiphon-") as folder:  # the ssl module reads keys from files only
        file = Path(folder, "certificate.pem")
        file.write_bytes(pem)
        context = _new_context()
        context.load_cert_chain(file)
    return context, digest


def make_certificate(
    names: Iterable[str], now: datetime.datetime
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Make a self-signed certificate for addresses and DNS names."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Antiphon")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + VALIDITY)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    )
    return builder.sign(key, SHA256()), key


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _own_names(hosts: Iterable[str]) -> list[str]:
    hostname = socket.gethostname()
    local = [name for name in (hostname, f"{hostname}.local") if _DNS_NAME.fullmatch(name)]
    wanted = dict.fromkeys([*ALWAYS_NAMED, *local, *hosts])
    return [name for name in wanted if name not in ("0.0.0.0", "::")]


def _load(certificate: str, key: str) -> ssl.SSLContext:
    context = _new_context()
    if (exposure := find_exposure(key)) is not None:
        raise SettingsError(f"--tls-key {key}: {exposure}")
    try:
        context.load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        raise SettingsError(f"--tls-cert {certificate} and --tls-key {key} do not fit: {error.reason}") from None
    except OSError as error:
        raise SettingsError(f"cannot read --tls-cert {certificate} and --tls-key {key}: {error.strerror}") from None
    return context


def _new_context() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context
