"""Traces the master keys of all SRTP sessions, and checks that no (key, index) pair is used twice."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from antiphon_transceiver.srtp import SrtpProfile
from antiphon_transceiver.srtp import session as srtp_session
from antiphon_transceiver.srtp.keys import Keys
from antiphon_transceiver.srtp.transform import Transform


class KeyLedger:
    """Every key of a simulation. `trace` wraps a transform; `violations` describe keys and indices used twice."""

    def __init__(self) -> None:
        self.violations: list[str] = []
        self._known: set[tuple[Keys, bool]] = set()

    def trace(self, transform: Transform, master: Keys, *, inbound: bool) -> Transform:
        """Return a traced transform. Each key is used by one side for sending and by one other for receiving."""
        if (master, inbound) in self._known:
            self.violations.append("two sessions have the same key for the same direction")
        self._known.add((master, inbound))
        return _Traced(transform, self)

    @property
    def unpaired(self) -> int:
        """Number of keys that only one side has."""
        return sum((master, not inbound) not in self._known for master, inbound in self._known)


class _Traced:
    """A transform that records the indices it is used with."""

    def __init__(self, transform: Transform, ledger: KeyLedger) -> None:
        self.rtp_overhead = transform.rtp_overhead
        self.rtcp_overhead = transform.rtcp_overhead
        self.rtcp_index_end = transform.rtcp_index_end
        self._transform = transform
        self._ledger = ledger
        self._rtp: set[tuple[int, int]] = set()
        self._rtcp: set[tuple[int, int]] = set()

    @property
    def indexed(self) -> Transform:
        """The other cipher under the same key, which shares the indices used."""
        traced = _Traced(self._transform.indexed, self._ledger)
        traced._rtp, traced._rtcp = self._rtp, self._rtcp
        return traced

    def forget(self, ssrc: int) -> None:
        self._transform.forget(ssrc)

    def protect_rtp(self, packet: bytes, header_length: int, ssrc: int, index: int) -> bytes:
        self._use(self._rtp, ssrc, index, "an RTP index was used for two packets")
        return self._transform.protect_rtp(packet, header_length, ssrc, index)

    def unprotect_rtp(self, packet: bytes, header_length: int, ssrc: int, index: int) -> bytes | None:
        clear = self._transform.unprotect_rtp(packet, header_length, ssrc, index)
        if clear is not None:
            self._use(self._rtp, ssrc, index, "an RTP packet was taken twice")
        return clear

    def protect_rtcp(self, packet: bytes, ssrc: int, index: int) -> bytes:
        self._use(self._rtcp, ssrc, index, "an RTCP index was used for two packets")
        return self._transform.protect_rtcp(packet, ssrc, index)

    def unprotect_rtcp(self, packet: bytes, ssrc: int, index: int) -> bytes | None:
        clear = self._transform.unprotect_rtcp(packet, ssrc, index)
        if clear is not None:
            self._use(self._rtcp, ssrc, index, "an RTCP packet was taken twice")
        return clear

    def _use(self, used: set[tuple[int, int]], ssrc: int, index: int, violation: str) -> None:
        if (ssrc, index) in used:
            self._ledger.violations.append(f"{violation}: {ssrc:08x}, {index}")
        used.add((ssrc, index))


@contextmanager
def tracing_keys(ledger: KeyLedger) -> Iterator[None]:
    """Trace every SRTP session that is constructed within the block."""
    make = srtp_session.make_transform

    def make_traced(profile: SrtpProfile, master: Keys, *, inbound: bool) -> Any:
        return ledger.trace(make(profile, master, inbound=inbound), master, inbound=inbound)

    srtp_session.make_transform = make_traced
    try:
        yield
    finally:
        srtp_session.make_transform = make
