"""Serial number arithmetic (RFC 1982), and the replay window that DTLS and SRTP share.

Packets carry the low bits of a counter, 16 of an RTP sequence number and 32 of a timestamp. `extend16` and `extend32`
recover the whole counter; `difference16` and `difference32` compare two values of low bits.
"""

REPLAY_WINDOW_SIZE = 64
"""The minimum of RFC 3711 §3.3.2, and the size that RFC 6347 §4.1.2.6 recommends."""


def difference16(later: int, earlier: int) -> int:
    """Return how far `later` is ahead of `earlier` mod 2^16, from -32768 to 32767."""
    return ((later - earlier + 0x8000) & 0xFFFF) - 0x8000


def difference32(later: int, earlier: int) -> int:
    """Return how far `later` is ahead of `earlier` mod 2^32, from -2^31 to 2^31 - 1."""
    return ((later - earlier + 0x80000000) & 0xFFFFFFFF) - 0x80000000


def extend16(value: int, near: int) -> int:
    """Return the number closest to `near` whose low 16 bits are `value`; it may be negative."""
    return near + ((value - near + 0x8000) & 0xFFFF) - 0x8000


def extend32(value: int, near: int) -> int:
    """Return the number closest to `near` whose low 32 bits are `value`; it may be negative."""
    return near + ((value - near + 0x80000000) & 0xFFFFFFFF) - 0x80000000


def estimate_index(sequence: int, highest: int) -> int:
    """Estimate the SRTP packet index of a sequence number (RFC 3711 §3.3.1, Appendix A).

    `highest` is the highest index so far, or -1. Its upper bits are the rollover counter (ROC). Unlike `extend16`, it
    never returns an index below ROC 0. If two indices are exactly 2^15 away, it returns the one in the same ROC.
    """
    if highest < 0:
        return sequence
    last = highest & 0xFFFF
    index = highest - last + sequence
    if last < 0x8000:
        if sequence - last > 0x8000 and index >= 0x10000:
            index -= 0x10000
    elif last - 0x8000 > sequence:
        index += 0x10000
    return index


class ReplayWindow:
    """A replay window: remembers which of the last `size` indices were accepted (RFC 3711 §3.3.2).

    Call `check` before a packet is authenticated, and `accept` only afterwards. Indices start at 0 and are unbounded.
    A window with an initial `highest` accepts only indices above it.
    """

    __slots__ = ("_mask", "_seen", "_size", "highest")

    def __init__(self, size: int = REPLAY_WINDOW_SIZE, *, highest: int = -1) -> None:
        self._size = size
        self._mask = (1 << size) - 1
        self._seen = 0 if highest < 0 else self._mask
        self.highest = highest
        """The highest index accepted, or -1."""

    def check(self, index: int) -> bool:
        """Return True if `index` is new: neither accepted before nor older than the window."""
        age = self.highest - index
        return age < 0 or (age < self._size and not self._seen >> age & 1)

    def accept(self, index: int) -> None:
        """Mark `index` as accepted, and move the window forward if it is the highest so far."""
        ahead = index - self.highest
        if ahead > 0:
            # A jump may be 2^48 wide: never shift by more than the window.
            self._seen = (self._seen << ahead | 1) & self._mask if ahead < self._size else 1
            self.highest = index
        elif -ahead < self._size:
            self._seen |= 1 << -ahead
