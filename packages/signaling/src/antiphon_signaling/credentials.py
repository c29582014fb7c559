"""Who may call, and for which tenant."""

import base64
import hashlib
import hmac
import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from antiphon_common.settings import FrontSettings, SettingsError, is_loopback
from antiphon_signaling.refusals import unauthorized

DEFAULT_TENANT = "default"
"""The tenant of callers who need no key, and of the key that is made at start."""
MADE_KEY_BYTES = 24
FORWARDING_HEADERS = ("forwarded", "via", "x-real-ip", "true-client-ip", "cf-connecting-ip")
"""With these, and any that begins with `x-forwarded-`, a request came through a proxy: its peer tells nothing."""

_LINE = re.compile(r"([A-Za-z0-9._-]{1,64}):(\S{1,512})")


class ApiKeys:
    """Keys and their tenants. Only digests are kept."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        """Take the tenant of each key."""
        self._tenants = {_digest(key): tenant for key, tenant in keys.items()}

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read lines `tenant:key`; empty lines and those that begin with `#` say nothing. Raises SettingsError."""
        keys: dict[str, str] = {}
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip() or line.startswith("#"):
                continue
            match = _LINE.fullmatch(line.strip())
            if match is None:
                raise SettingsError(f"line {number} is not tenant:key, the tenant of letters, digits, dots and dashes")
            if keys.setdefault(match[2], match[1]) != match[1]:
                raise SettingsError(f"line {number} gives the key of another tenant: each key has one")
        if not keys:
            raise SettingsError("there is no line tenant:key")
        return cls(keys)

    @classmethod
    def load(cls, file: str) -> Self:
        """Read an API-key file. Raises SettingsError, with the file's name, when that is impossible."""
        try:
            return cls.parse(Path(file).read_text("utf-8"))
        except OSError as error:
            raise SettingsError(f"--api-key-file: cannot read {file}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise SettingsError(f"--api-key-file: {file} is not text") from None
        except SettingsError as error:
            raise SettingsError(f"--api-key-file: {file}: {error}") from None

    def tenant_of(self, key: str) -> str | None:
        """Return the tenant of a key. Takes the same time whether and where the key is found."""
        given = _digest(key)
        found = [tenant for digest, tenant in self._tenants.items() if hmac.compare_digest(digest, given)]
        return found[0] if found else None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


class Credentials:
    """Decides for each request. With `keys` a key is needed; without, everybody may call, or with `loopback_only` who
    is on this machine."""

    def __init__(self, keys: ApiKeys | None, *, loopback_only: bool = False) -> None:
        self._keys = keys
        self._loopback_only = loopback_only

    def tenant(self, headers: Mapping[str, str], peer: str, key: str | None = None) -> str:
        """Return the tenant of a request, its headers' names in lower case and `peer` the numeric address it came from.

        `key` is one that came by another way than the Authorization header. Raises `RefusedError` with 401.
        """
        if self._keys is not None:
            given = _bearer(headers.get("authorization", "")) or key
            if given is None:
                raise unauthorized("invalid_api_key", "this server needs an API key: send it as Authorization: Bearer")
            tenant = self._keys.tenant_of(given)
            if tenant is None:
                raise unauthorized("invalid_api_key", "the API key is not one of this server's")
            return tenant
        if self._loopback_only and not _is_local(headers, peer):
            raise unauthorized(
                "not_local",
                "without API keys this server takes calls only from pages and programs on its own machine: "
                "start it with --api-key-file",
            )
        return DEFAULT_TENANT


def make_credentials(front: FrontSettings, random: Callable[[int], bytes]) -> tuple[Credentials, str | None]:
    """Apply the settings: keys of a file, or none (`--no-auth`), or none on loopback, or one made now, which is
    returned too. Raises SettingsError."""
    if front.api_key_file:
        return Credentials(ApiKeys.load(front.api_key_file)), None
    if front.no_auth:
        return Credentials(None), None
    if is_loopback(front.http.host):
        return Credentials(None, loopback_only=True), None
    key = base64.urlsafe_b64encode(random(MADE_KEY_BYTES)).decode()
    return Credentials(ApiKeys({key: DEFAULT_TENANT})), key


def _bearer(header: str) -> str | None:
    scheme, _, key = header.strip().partition(" ")
    return key.strip() or None if scheme.lower() == "bearer" else None


def _is_local(headers: Mapping[str, str], peer: str) -> bool:
    """Tell whether a request comes from this machine: neither through a proxy, nor from a page of elsewhere, nor under
    a name that was made to resolve to loopback."""
    forwarded = any(name in FORWARDING_HEADERS or name.startswith("x-forwarded-") for name in headers)
    return not forwarded and all(_names_loopback(host) for host in _hosts(headers, peer))


def _hosts(headers: Mapping[str, str], peer: str) -> Iterator[str | None]:
    yield peer
    if "host" in headers:
        yield _hostname(f"//{headers['host']}")
    if "origin" in headers:
        yield _hostname(headers["origin"])


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _names_loopback(host: str | None) -> bool:
    if host is None:
        return False
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
