"""AES128_CM_HMAC_SHA1_80 (RFC 3711 §4.1.1, §4.2.1) on libsrtp.

libsrtp keeps indices of its own and lets nobody set them, so both countings must stay equal. They do, because

- both follow RFC 3711 §3.3.1, from rollover counter zero for a source's first packet;
- libsrtp sees only packets that passed our check first, and its windows are as wide as ours, so it refuses none as old;
- both move on the same packets: received ones that libsrtp finds authentic, and sent ones that it protects. (One that
  it refuses leaves it a packet behind, and an estimate errs only 2^15 packets behind.)

A source whose count does not begin at zero goes by `indexed` instead. libsrtp counts SRTCP indices from 1 where we
count from 0; they travel, so only that each is new matters.
"""

from contextlib import suppress

from pylibsrtp import Error, Policy, Session

from antiphon_common.errors import LocalProtocolError
from antiphon_transceiver.srtp.indexed_counter_mode import IndexedCounterMode
from antiphon_transceiver.srtp.keys import Keys
from antiphon_transceiver.srtp.streams import WINDOW_SIZE

TAG_SIZE = 10
MAX_CLEAR_SIZE = 1352
MAX_PROTECTED_SIZE = 1500
"""pylibsrtp works in a buffer of 1500 bytes, and on sending wants up to 148 of it kept free."""


class CounterModeTransform:
    """Protects one direction under its master keys; libsrtp derives the session keys."""

    rtp_overhead = TAG_SIZE
    rtcp_index_end = TAG_SIZE
    """Bytes behind the SRTCP index: the tag comes last (RFC 3711 §3.4)."""
    rtcp_overhead = 4 + TAG_SIZE

    def __init__(self, master: Keys, *, inbound: bool) -> None:
        policy = Policy(
            key=master.key + master.salt,
            ssrc_type=Policy.SSRC_ANY_INBOUND if inbound else Policy.SSRC_ANY_OUTBOUND,
            srtp_profile=Policy.SRTP_PROFILE_AES128_CM_SHA1_80,
        )
        policy.window_size = WINDOW_SIZE
        self._session = Session(policy=policy)
        self._master = master
        self._indexed: IndexedCounterMode | None = None

    @property
    def indexed(self) -> IndexedCounterMode:
        if self._indexed is None:
            self._indexed = IndexedCounterMode(self._master)
        return self._indexed

    def forget(self, ssrc: int) -> None:
        with suppress(Error):  # libsrtp never saw a source that went by `indexed` from its first packet
            self._session.remove_stream(ssrc)

    def protect_rtp(self, packet: bytes, header_length: int, ssrc: int, index: int) -> bytes:
        if len(packet) > MAX_CLEAR_SIZE:
            raise LocalProtocolError(f"an RTP packet of {len(packet)} bytes is too long")
        try:
            return self._session.protect(packet)
        except Error as error:
            raise LocalProtocolError(str(error)) from None

    def unprotect_rtp(self, packet: bytes, header_length: int, ssrc: int, index: int) -> bytes | None:
        if len(packet) > MAX_PROTECTED_SIZE:
            return None
        try:
            return self._session.unprotect(packet)
        except Error:
            return None

    def protect_rtcp(self, packet: bytes, ssrc: int, index: int) -> bytes:
        if len(packet) > MAX_CLEAR_SIZE:
            raise LocalProtocolError(f"an RTCP packet of {len(packet)} bytes is too long")
        try:
            return self._session.protect_rtcp(packet)
        except Error as error:
            raise LocalProtocolError(str(error)) from None

    def unprotect_rtcp(self, packet: bytes, ssrc: int, index: int) -> bytes | None:
        if len(packet) > MAX_PROTECTED_SIZE:
            return None
        try:
            return self._session.unprotect_rtcp(packet)
        except Error:
            return None
