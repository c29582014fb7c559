import pytest

from antiphon_common.settings import SettingsError
from antiphon_common.settings.values import read_network
from antiphon_signaling.authentication import (
    MAX_HOPS,
    ApiKeys,
    Authenticator,
    forwarded_address,
    joined,
)
from antiphon_signaling.refusals import RefusedError
from support.fakes.comparisons import record_comparisons
from support.sim.work_counter import work_of

# fmt: off
PROXIES = [
    "x-forwarded-for", "x-forwarded-proto", "x-forwarded", "x-real-ip", "x-client-ip", "client-ip",
    "true-client-ip", "cf-ray", "cf-connecting-ip", "cf-visitor", "cf-worker", "cdn-loop", "fastly-client-ip",
    "fastly-ff", "fly-client-ip", "fly-region", "x-envoy-external-address", "x-envoy-expected-rq-timeout-ms",
    "x-amzn-trace-id", "x-azure-clientip", "x-azure-ref", "x-appengine-user-ip", "x-arr-log-id", "x-original-host",
    "x-original-forwarded-for", "x-proxyuser-ip", "x-nginx-proxy", "proxy-connection", "x-vercel-id",
    "x-nf-client-connection-ip", "tailscale-user-login", "ngrok-trace-id", "x-varnish", "surrogate-capability",
    "x-cluster-client-ip", "x-scheme", "x-host", "x-ssl-client-verify", "akamai-origin-hop", "x-railway-edge",
    "rndr-id", "x-sucuri-clientip", "incap-client-ip", "x-msedge-ref", "wl-proxy-client-ip", "x-remote-addr",
]
# fmt: on
"""What proxies, content delivery networks, load balancers and tunnels add."""
# fmt: off
OF_PROGRAMS = [
    "accept", "accept-encoding", "accept-language", "authorization", "baggage", "cache-control", "connection",
    "content-length", "content-type", "cookie", "dnt", "if-match", "if-none-match", "keep-alive", "openai-beta",
    "openai-organization", "openai-project", "origin-agent-cluster", "pragma", "priority", "range", "referer",
    "save-data", "sec-ch-ua", "sec-ch-ua-mobile", "sec-ch-ua-platform", "sec-fetch-dest", "sec-fetch-mode",
    "sec-fetch-user", "sec-gpc", "sec-websocket-key", "sec-websocket-protocol", "te", "traceparent", "tracestate",
    "transfer-encoding", "upgrade", "upgrade-insecure-requests", "user-agent", "x-client-info", "x-request-id",
    "x-requested-with", "x-stainless-arch", "x-stainless-lang",
]
# fmt: on
"""What browsers and SDKs send by themselves."""

LOCAL = Authenticator(None, loopback_only=True)


SECOND, THIRD = "second-of-16-characters", "third-of-16-characters"


def test_keys_have_tenants() -> None:
    keys = ApiKeys.parse(f"# who calls\nacme:secret:with:colons\n\nacme:{SECOND}\nother:{THIRD}\n")
    assert [keys.tenant_of(key) for key in ("secret:with:colons", SECOND, THIRD, "acme", "")] == [
        *("acme", "acme", "other"),
        *(None, None),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        "acme\n",
        "acme:\n",
        ":key\n",
        "a b:key-of-16-characters\n",
        "a:key-of-16-characters\nb:key-of-16-characters\n",
        "a:key-with-15-chr\n",
    ],
)
def test_invalid_key_files_are_refused_without_quoting_keys(text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        ApiKeys.parse(text)
    assert "key-" not in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        SECOND.upper(),
        SECOND.title(),
        SECOND[:-1],
        SECOND + "x",
        f" {SECOND} x",
        SECOND[1:],
        "",
        SECOND.replace("s", "ſ"),
    ],
)
def test_a_key_must_match_completely_and_in_case(given: str) -> None:
    assert ApiKeys.parse(f"acme:{SECOND}\n").tenant_of(given) is None


def test_every_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = record_comparisons(monkeypatch)
    keys = ApiKeys({"one": "acme", "two": "other", "three": "third"})
    for key in ("one", "two", "neither"):
        compared.clear()
        keys.tenant_of(key)
        assert len(compared) == 3


@pytest.mark.parametrize(
    ("headers", "key", "tenant"),
    [
        ({"authorization": "Bearer one"}, None, "acme"),
        ({"authorization": "bearer  two"}, None, "other"),
        ({}, "two", "other"),
        ({"authorization": "Bearer wrong"}, "two", None),
        ({"authorization": "Basic one"}, None, None),
        ({}, None, None),
        ({"host": "localhost"}, None, None),
    ],
)
def test_with_keys_a_key_is_needed_even_on_loopback(
    headers: dict[str, str], key: str | None, tenant: str | None
) -> None:
    authenticator = Authenticator(ApiKeys({"one": "acme", "two": "other"}))
    if tenant is not None:
        assert authenticator.tenant(headers, "127.0.0.1", key) == tenant
    else:
        with pytest.raises(RefusedError) as caught:
            authenticator.tenant(headers, "127.0.0.1", key)
        assert (caught.value.status, caught.value.headers) == (401, {"WWW-Authenticate": "Bearer"})


@pytest.mark.parametrize(
    ("headers", "peer"),
    [
        ({}, "127.0.0.1"),
        ({"host": "localhost:8080", "origin": "http://localhost:8080"}, "::1"),
        ({"host": "127.0.0.1:8080", "origin": "http://127.0.0.1:3000"}, "127.0.0.1"),
        ({"host": "[::1]:8080"}, "::ffff:127.0.0.1"),
        ({"host": "talk.localhost", "authorization": "Bearer whatever"}, "127.0.0.9"),
        ({"host": "127.0.0.1:8080", "origin": "http://localhost:3000", "sec-fetch-site": "cross-site"}, "127.0.0.1"),
        ({"host": "localhost", **dict.fromkeys(OF_PROGRAMS, "x")}, "127.0.0.1"),
    ],
)
def test_a_caller_on_the_same_machine_needs_no_key(headers: dict[str, str], peer: str) -> None:
    assert LOCAL.tenant(headers, peer) == "default"


@pytest.mark.parametrize(
    ("headers", "peer"),
    [
        ({}, "192.0.2.7"),
        ({}, ""),
        ({"host": "rebound.example"}, "127.0.0.1"),
        ({"host": "127.0.0.1.example"}, "127.0.0.1"),
        ({"host": "[oops"}, "127.0.0.1"),
        ({"host": "localhost", "origin": "https://evil.example"}, "127.0.0.1"),
        ({"host": "localhost", "origin": "null"}, "127.0.0.1"),
        ({"host": "localhost", "x-forwarded-for": "127.0.0.1"}, "127.0.0.1"),
        ({"host": "localhost", "forwarded": "for=127.0.0.1"}, "127.0.0.1"),
        ({"host": "localhost", "via": "1.1 proxy"}, "127.0.0.1"),
        ({"host": "localhost", "sec-fetch-site": "cross-site"}, "127.0.0.1"),
        *(({"host": "localhost", name: "203.0.113.9"}, "127.0.0.1") for name in PROXIES),
    ],
)
def test_other_callers_are_refused_without_keys(headers: dict[str, str], peer: str) -> None:
    with pytest.raises(RefusedError) as caught:
        LOCAL.tenant(headers, peer)
    assert caught.value.status == 401


def test_the_cost_of_reading_forwarded_for_is_bounded() -> None:
    """A caller may invent as many proxy addresses as fit into a head."""
    proxies = [read_network("10.0.0.0/8")]

    def work(hops: int) -> int:
        return sum(work_of(lambda: forwarded_address(",".join(["10.0.0.1"] * hops), "10.0.0.1", proxies)))

    assert work(1800) <= work(MAX_HOPS)
    assert forwarded_address("192.0.2.7" + ", 10.0.0.1" * (MAX_HOPS - 1), "10.0.0.1", proxies) == "192.0.2.7"
    assert forwarded_address("192.0.2.7" + ", 10.0.0.1" * MAX_HOPS, "10.0.0.1", proxies) == "10.0.0.1"


def test_the_last_of_several_forwarding_headers_does_not_hide_the_others() -> None:
    """A proxy may add a header of its own to that of the proxy before it (RFC 9110 §5.2)."""
    headers = joined([("x-forwarded-for", "192.0.2.7"), ("x-forwarded-for", "10.0.0.2")])
    assert forwarded_address(headers["x-forwarded-for"], "10.0.0.1", (read_network("10.0.0.0/8"),)) == "192.0.2.7"
