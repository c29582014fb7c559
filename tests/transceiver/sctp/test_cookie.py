"""State cookies contain the parameters of an INIT, expire, and cannot be forged."""

import pytest

from antiphon_common.errors import DecodeError
from antiphon_transceiver.sctp.chunks import Init
from antiphon_transceiver.sctp.cookie import COOKIE_LIFETIME, CookieJar, PeerParameters, StaleCookieError
from antiphon_transceiver.sctp.parameters import Parameter, ParameterType
from support.fakes.comparisons import record_comparisons

PEER = PeerParameters(1, 65536, 300, 1024, 0xFFFFFFFF, True, False)
JAR = CookieJar(bytes(32))


def test_a_cookie_returns_the_parameters_of_the_peer() -> None:
    assert JAR.read(JAR.make(PEER, 5.0), 5.0 + COOKIE_LIFETIME) == PEER


@pytest.mark.parametrize("extensions", [(), (192,), (130,), (130, 192)])
def test_a_cookie_returns_the_extensions_of_the_peers_init(extensions: tuple[int, ...]) -> None:
    """130 is RE-CONFIG, 192 FORWARD TSN (RFC 5061 §4.2.7)."""
    supported = Parameter(ParameterType.SUPPORTED_EXTENSIONS, bytes(extensions))
    peer = PeerParameters.of(Init(1, 65536, 10, 10, 1, (supported,)))
    assert (peer.reconfig, peer.forward_tsn) == (130 in extensions, 192 in extensions)


def test_a_cookie_grows_stale() -> None:
    with pytest.raises(StaleCookieError):
        JAR.read(JAR.make(PEER, 5.0), 5.1 + COOKIE_LIFETIME)


def test_the_tag_of_a_cookie_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    cookie = JAR.make(PEER, 5.0)
    compared = record_comparisons(monkeypatch)
    assert JAR.read(cookie, 5.0) == PEER
    assert len(compared) == 1


def test_a_changed_or_foreign_cookie_is_refused() -> None:
    cookie = JAR.make(PEER, 5.0)
    foreign = CookieJar(bytes([1]) * 32).make(PEER, 5.0)
    for wrong in (b"", cookie[:-1], cookie + b"\0", cookie[:20] + b"\1" + cookie[21:], foreign):
        with pytest.raises(DecodeError):
            JAR.read(wrong, 5.0)


@pytest.mark.parametrize("place", range(16))
def test_each_byte_of_a_cookies_mac_is_compared(place: int) -> None:
    cookie = JAR.make(PEER, 5.0)
    changed = cookie[:place] + bytes((cookie[place] ^ 1,)) + cookie[place + 1 :]
    with pytest.raises(DecodeError):
        JAR.read(changed, 5.0)
