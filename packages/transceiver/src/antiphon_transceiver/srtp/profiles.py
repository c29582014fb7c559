"""The SRTP protection profiles that DTLS negotiates (RFC 5764 §4.1.2, RFC 7714 §14.2)."""

from enum import IntEnum


class SrtpProfile(IntEnum):
    """An SRTP protection profile, by its number in the use_srtp extension (RFC 5764 §4.1.2).

    DTLS negotiates one; `SrtpSession` is made with it.
    """

    AES128_CM_HMAC_SHA1_80 = 0x0001
    AEAD_AES_128_GCM = 0x0007
    AEAD_AES_256_GCM = 0x0008

    @property
    def key_length(self) -> int:
        """Bytes of one direction's master key."""
        return 32 if self is SrtpProfile.AEAD_AES_256_GCM else 16

    @property
    def salt_length(self) -> int:
        """Bytes of one direction's master salt."""
        return 14 if self is SrtpProfile.AES128_CM_HMAC_SHA1_80 else 12


PREFERRED_PROFILES = (
    SrtpProfile.AEAD_AES_128_GCM,
    SrtpProfile.AEAD_AES_256_GCM,
    SrtpProfile.AES128_CM_HMAC_SHA1_80,
)
"""In order of preference: AES-GCM takes half the time of AES-CM."""
