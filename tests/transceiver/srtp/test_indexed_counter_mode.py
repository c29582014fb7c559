import hmac

from antiphon_transceiver.srtp.indexed_counter_mode import AUTHENTICATION_KEY_SIZE, TAG_SIZE, IndexedCounterMode
from antiphon_transceiver.srtp.keys import Keys, Label, derive

MASTER = Keys(bytes(range(16)), bytes(range(14)))
REPORT = bytes.fromhex("80c900010000004d 81cb00010000004d")


def authenticated(body: bytes) -> bytes:
    """Return an SRTCP packet with the right tag."""
    key = derive(MASTER, Label.RTCP_AUTHENTICATION, AUTHENTICATION_KEY_SIZE)
    return body + hmac.digest(key, body, "sha1")[:TAG_SIZE]


def test_rtcp_that_is_authenticated_but_not_encrypted_is_refused() -> None:
    """The profile encrypts SRTCP, so a clear E bit is an error (RFC 3711 §3.4); libsrtp refuses it as well."""
    transform = IndexedCounterMode(MASTER)
    encrypted = transform.protect_rtcp(REPORT, 77, 4)
    assert authenticated(encrypted[:-TAG_SIZE]) == encrypted
    assert transform.unprotect_rtcp(encrypted, 77, 5) == REPORT
    clear = authenticated(REPORT + (5).to_bytes(4, "big"))
    assert transform.unprotect_rtcp(clear, 77, 5) is None
