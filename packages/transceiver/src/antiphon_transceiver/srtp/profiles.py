"""The SRTP protection profiles we speak (RFC 5764 §4.1.2, RFC 7714 §14.2)."""

from enum import IntEnum


class SrtpProfile(IntEnum):
    """Numbered as in the use_srtp extension of DTLS."""

    AES128_CM_HMAC_SHA1_80 = 0x0001
    AEAD_AES_128_GCM = 0x0007
    AEAD_AES_256_GCM = 0x0008

    @property
    def key_length(self) -> int:
        """Bytes of a master key, and of the session keys derived from it."""
        return 32 if self is SrtpProfile.AEAD_AES_256_GCM else 16

    @property
    def salt_length(self) -> int:
        """Bytes of a master salt."""
        return 14 if self is SrtpProfile.AES128_CM_HMAC_SHA1_80 else 12
