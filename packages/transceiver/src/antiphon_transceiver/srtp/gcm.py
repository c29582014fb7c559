"""AEAD_AES_128_GCM and AEAD_AES_256_GCM (RFC 7714)."""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from antiphon_transceiver.srtp.keys import Keys

TAG_SIZE = 16
ENCRYPTED_FLAG = 0x80000000
"""The E bit in front of an SRTCP index."""


class GcmTransform:
    """AES-GCM for one direction, as a `Transform`.

    Made with the direction's session keys for RTP and for RTCP.
    """

    rtp_overhead = TAG_SIZE
    rtcp_index_end = 0
    """Bytes after the SRTCP index: with AES-GCM the index is last (RFC 7714 §9.2)."""
    rtcp_overhead = TAG_SIZE + 4

    def __init__(self, rtp: Keys, rtcp: Keys) -> None:
        self._rtp = AESGCM(rtp.key)
        self._rtp_salt = int.from_bytes(rtp.salt, "big")
        self._rtcp = AESGCM(rtcp.key)
        self._rtcp_salt = int.from_bytes(rtcp.salt, "big")

    @property
    def indexed(self) -> "GcmTransform":
        """This transform: it uses the index of its caller for every source."""
        return self

    def forget(self, ssrc: int) -> None:
        """Do nothing: this transform keeps no state for a source."""

    def protect_rtp(self, packet: bytes, header_length: int, ssrc: int, index: int) -> bytes:
        nonce = (self._rtp_salt ^ (ssrc << 48 | index)).to_bytes(12, "big")  # RFC 7714 §8.1
        header = packet[:header_length]
        return header + self._rtp.encrypt(nonce, packet[header_length:], header)

    def unprotect_rtp(self, packet: bytes, header_length: int, ssrc: int, index: int) -> bytes | None:
        nonce = (self._rtp_salt ^ (ssrc << 48 | index)).to_bytes(12, "big")
        header = packet[:header_length]
        try:
            return header + self._rtp.decrypt(nonce, packet[header_length:], header)
        except InvalidTag:
            return None

    def protect_rtcp(self, packet: bytes, ssrc: int, index: int) -> bytes:
        nonce = (self._rtcp_salt ^ (ssrc << 48 | index)).to_bytes(12, "big")  # RFC 7714 §9.1
        header, trailer = packet[:8], (ENCRYPTED_FLAG | index).to_bytes(4, "big")
        return header + self._rtcp.encrypt(nonce, packet[8:], header + trailer) + trailer

    def unprotect_rtcp(self, packet: bytes, ssrc: int, index: int) -> bytes | None:
        nonce = (self._rtcp_salt ^ (ssrc << 48 | index)).to_bytes(12, "big")
        body, trailer = packet[:-4], packet[-4:]
        try:
            if trailer[0] & 0x80:
                return body[:8] + self._rtcp.decrypt(nonce, body[8:], body[:8] + trailer)
            # The E bit is clear: the packet is authenticated but not encrypted (RFC 7714 §9.3).
            clear = body[:-TAG_SIZE]
            self._rtcp.decrypt(nonce, body[-TAG_SIZE:], clear + trailer)
        except InvalidTag:
            return None
        return clear
