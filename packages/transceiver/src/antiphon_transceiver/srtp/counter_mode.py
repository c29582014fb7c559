"""AES128_CM_HMAC_SHA1_80 (RFC 3711 §4.1.1, §4.2.1) on libsrtp.

libsrtp keeps packet indices of its own and offers no way to set them, so both counts must stay equal. They do, because

- both follow RFC 3711 §3.3.1, from rollover counter zero for a source's first packet;
- libsrtp gets only packets that passed our check first, and its windows are as wide as ours, so it refuses none as old;
- both advance on the same packets: received ones that libsrtp finds authentic, and sent ones that it protects. (A
  packet that it refuses leaves its count one behind; an estimate fails only at 2^15 packets behind.)

A source whose index does not begin at zero uses `indexed` instead. libsrtp counts SRTCP indices from 1, we count from
0. The index is in the packet, so both are right as long as none repeats.
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
"""pylibsrtp works in a buffer of 1500 bytes, and keeps up to 148 of it free when it protects."""


class CounterModeTransform:
    """AES-CM with HMAC-SHA1 for one direction, as a `Transform`.

    Made with the direction's master keys; libsrtp derives the session keys from them.
    """

    rtp_overhead = TAG_SIZE
    rtcp_index_end = TAG_SIZE
    """Bytes after the SRTCP index: the tag is last (RFC 3711 §3.4)."""
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
        """The same cipher with explicit indices, made at its first use."""
        if self._indexed is None:
            self._indexed = IndexedCounterMode(self._master)
        return self._indexed

    def forget(self, ssrc: int) -> None:
        """Free what libsrtp keeps for a source."""
        with suppress(Error):  # libsrtp has no source that used `indexed` from its first packet
            self._session.remove_stream(ssrc)

    def protect_rtp(self, packet: bytes, header_length: int, ssrc: int, index: int) -> bytes:
        """Return the SRTP packet.

        Raises:
            LocalProtocolError: The packet has more than `MAX_CLEAR_SIZE` bytes, or libsrtp refuses it.
        """
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
        """Return the SRTCP packet.

        Raises:
            LocalProtocolError: The packet has more than `MAX_CLEAR_SIZE` bytes, or libsrtp refuses it.
        """
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
