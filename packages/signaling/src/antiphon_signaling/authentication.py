"""Authenticates callers: API keys and their tenants, and callers on the same machine."""

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Self
from urllib.parse import urlsplit

from antiphon_common.address_groups import address_group, is_loopback_group
from antiphon_common.settings import SettingsError
from antiphon_common.settings.values import Network
from antiphon_signaling.refusals import unauthorized

DEFAULT_TENANT = "default"
"""Tenant of callers who need no key, and of the key that is made at start."""
MIN_KEY = 16
"""Shortest API key, in characters. Sixteen random hexadecimal digits have 64 bits."""
# fmt: off
FORWARDING_WORDS = frozenset({
    "akamai", "amzn", "appengine", "apigw", "arr", "azure", "balancer", "caddy", "cdn", "cf", "cloudflare",
    "cloudfront", "edge", "envoy", "fastly", "fly", "forwarded", "gateway", "haproxy", "heroku", "iap", "incap",
    "ingress", "istio", "linkerd", "msedge", "netlify", "nf", "nginx", "ngrok", "original", "proxied", "proxy",
    "railway", "ray", "rndr", "squid", "ssl", "sucuri", "surrogate", "tailscale", "traefik", "tunnel", "varnish",
    "vercel", "via",
})
# fmt: on
"""Words in the header names that proxies, load balancers and tunnels add, and that programs do not send."""
FORWARDING_ENDS = ("-ip", "-addr", "-address", "-host", "-proto", "-scheme")
"""Ends of header names in which proxies put the source of a request, such as X-Real-IP and CF-Connecting-IP."""

MAX_HOPS = 32
"""Addresses of X-Forwarded-For that are read, from the end. Reading 1,800 took 24 ms."""

ANYWHERE: tuple[Network, ...] = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))

_LINE = re.compile(r"([A-Za-z0-9._-]{1,64}):(\S{1,512})")


class ApiKeys:
    """API keys and their tenants. `tenant_of` looks a key up. Only digests are kept."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        """Take the tenant of each key."""
        self._tenants = {_digest(key): tenant for key, tenant in keys.items()}

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read lines `tenant:key`. Empty lines and comments, which begin with `#`, are skipped.

        Raises:
            SettingsError: a line is malformed, a key is short or has two tenants, or there is no key.
        """
        keys: dict[str, str] = {}
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip() or line.startswith("#"):
                continue
            match = _LINE.fullmatch(line.strip())
            if match is None:
                raise SettingsError(f"line {number} is not tenant:key, the tenant of letters, digits, dots and dashes")
            if len(match[2]) < MIN_KEY:
                raise SettingsError(
                    f"line {number} has a key of less than {MIN_KEY} characters, which can be guessed: make one with "
                    "`openssl rand -hex 16`"
                )
            if keys.setdefault(match[2], match[1]) != match[1]:
                raise SettingsError(f"line {number} gives the key of another tenant: each key has one")
        if not keys:
            raise SettingsError("there is no line tenant:key")
        return cls(keys)

    def tenant_of(self, key: str) -> str | None:
        """Return the tenant of a key, or None. The time does not depend on whether and where the key is found."""
        given = _digest(key)
        found = [tenant for digest, tenant in self._tenants.items() if hmac.compare_digest(digest, given)]
        return found[0] if found else None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


class Caller(NamedTuple):
    """The caller of a request, from `Authenticator.identify`. `account` and `address` name the limits that apply.

    `account` is None where no API keys distinguish tenants; `address` is None for programs on this machine.
    """

    tenant: str
    account: str | None
    address: str | None


class Authenticator:
    """Authenticates each request. Call `identify` with its headers.

    With `keys` an API key is needed. Without, everybody may call; with `loopback_only`, only callers on this machine.
    """

    def __init__(self, keys: ApiKeys | None, *, loopback_only: bool = False, proxies: Sequence[Network] = ()) -> None:
        self._keys = keys
        self._proxies = tuple(proxies)
        self._loopback_only = loopback_only

    def identify(self, headers: Mapping[str, str], peer: str, key: str | None = None) -> Caller:
        """Return the caller of a request: its tenant, and the limits that apply.

        Raises:
            RefusedError: as `tenant` does.
        """
        tenant = self.tenant(headers, peer, key)
        address = address_group(forwarded_address(headers.get("x-forwarded-for", ""), peer, self._proxies))
        return Caller(tenant, None if self._keys is None else tenant, None if is_loopback_group(address) else address)

    def tenant(self, headers: Mapping[str, str], peer: str, key: str | None = None) -> str:
        """Return the tenant of a request.

        Names of `headers` are in lower case. `peer` is the numeric source address. `key` is an API key from elsewhere
        than the Authorization header.

        Raises:
            RefusedError: the key is missing or unknown, or the caller is not on this machine (401).
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


def forwarded_address(forwarded_for: str, peer: str, proxies: Sequence[Network]) -> str:
    """Return the source address of a request.

    That is the peer, or, if the peer is one of `proxies`, the last address of X-Forwarded-For that is none of them. A
    caller may have forged the addresses before it.
    """
    address = peer
    for hop in reversed(forwarded_for.rsplit(",", MAX_HOPS)[-MAX_HOPS:]):
        if not is_in(address, proxies) or not is_in(hop.strip(), ANYWHERE):
            break
        address = hop.strip()
    return address


def is_in(address: str, networks: Sequence[Network]) -> bool:
    """Return True if a numeric address is in one of the networks."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    parsed = getattr(parsed, "ipv4_mapped", None) or parsed
    return any(parsed in network for network in networks)


def joined(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return headers by name. Values of one name are joined by commas (RFC 9110 §5.2)."""
    found: dict[str, str] = {}
    for name, value in headers:
        found[name] = f"{found[name]},{value}" if name in found else value
    return found


def _bearer(header: str) -> str | None:
    scheme, _, key = header.strip().partition(" ")
    return key.strip() or None if scheme.lower() == "bearer" else None


def _is_local(headers: Mapping[str, str], peer: str) -> bool:
    """Return True if a request comes from this machine.

    Not local are requests through a proxy, from a page of another site, and under a name that somebody has made to
    resolve to loopback (DNS rebinding).
    """
    forwarded = any(map(_is_forwarding_header, headers))
    foreign = "origin" not in headers and headers.get("sec-fetch-site") == "cross-site"
    return not forwarded and not foreign and all(_names_loopback(host) for host in _hosts(headers, peer))


def _is_forwarding_header(name: str) -> bool:
    return name.endswith(FORWARDING_ENDS) or not FORWARDING_WORDS.isdisjoint(name.split("-"))


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
