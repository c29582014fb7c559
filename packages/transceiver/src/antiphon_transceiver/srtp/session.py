"""Protects the RTP and RTCP of one DTLS association, both directions."""

import struct
from dataclasses import dataclass
from typing import Protocol

from antiphon_common.errors import LocalProtocolError
from antiphon_transceiver.srtp.counter_mode import CounterModeTransform
from antiphon_transceiver.srtp.errors import SrtpError
from antiphon_transceiver.srtp.gcm import GcmTransform
from antiphon_transceiver.srtp.keys import Keys, Label, derive_pair, split_keying_material
from antiphon_transceiver.srtp.profiles import SrtpProfile
from antiphon_transceiver.srtp.streams import MAX_RTCP_INDEX, ReceiveStream, SendStream

MAX_STREAMS = 32
"""Sources of one direction over the life of a call. A call has one or two; a restarted encoder takes a new one. None is
ever forgotten, since that would let its packets be replayed."""

_RTP_HEADER = struct.Struct("!BxH4xI")
_RTP_HEADER_SIZE = 12
_RTCP_HEADER_SIZE = 8


class Transform(Protocol):
    """A cipher with its keys for one direction.

    `index` is what `SendStream` or `ReceiveStream` found. Unprotecting returns None for what is not authentic.
    """

    rtp_overhead: int
    """Bytes that protecting adds to a packet."""
    rtcp_overhead: int
    """The same of RTCP: the tag and the four bytes of the index (RFC 3711 §3.4, RFC 7714 §9)."""
    rtcp_index_end: int
    """Bytes behind the index of an RTCP packet: the tag follows it, or stands before it."""

    def protect_rtp(self, packet: bytes, header_length: int, ssrc: int, index: int) -> bytes: ...

    def unprotect_rtp(self, packet: bytes, header_length: int, ssrc: int, index: int) -> bytes | None: ...

    def protect_rtcp(self, packet: bytes, ssrc: int, index: int) -> bytes: ...

    def unprotect_rtcp(self, packet: bytes, ssrc: int, index: int) -> bytes | None: ...


@dataclass(slots=True)
class SrtpCounters:
    """Packets received and refused, by reason."""

    malformed: int = 0
    replayed: int = 0
    unauthentic: int = 0
    streams_refused: int = 0


class SrtpSession:
    """SRTP and SRTCP of one call.

    `exported` is what DTLS exports under `EXPORTER_LABEL`, `keying_material_length(profile)` bytes; `is_client`
    says whether we are the DTLS client. The methods take and return whole packets. Those that unprotect raise
    SrtpError; those that protect raise LocalProtocolError, above all when an index would be used twice.
    """

    __slots__ = ("_inbound", "_outbound", "_received", "_sent", "counters")

    def __init__(self, profile: SrtpProfile, exported: bytes, is_client: bool) -> None:
        client, server = split_keying_material(profile, exported)
        outbound, inbound = (client, server) if is_client else (server, client)
        self._outbound = _make_transform(profile, outbound, inbound=False)
        self._inbound = _make_transform(profile, inbound, inbound=True)
        self._sent: dict[int, SendStream] = {}
        self._received: dict[int, ReceiveStream] = {}
        self.counters = SrtpCounters()

    def protect_rtp(self, packet: bytes) -> bytes:
        """Return the SRTP packet of an RTP packet."""
        try:
            header_length, sequence, ssrc = _read_rtp_header(packet, 0)
        except SrtpError as error:
            raise LocalProtocolError(str(error)) from None
        stream = self._sent.get(ssrc) or self._open_send_stream(ssrc)
        return self._outbound.protect_rtp(packet, header_length, ssrc, stream.take_rtp(sequence))

    def unprotect_rtp(self, packet: bytes) -> bytes:
        """Return the RTP packet of an SRTP packet."""
        inbound = self._inbound
        try:
            header_length, sequence, ssrc = _read_rtp_header(packet, inbound.rtp_overhead)
        except SrtpError:
            self.counters.malformed += 1
            raise
        stream = self._received.get(ssrc) or self._new_receive_stream()
        index = stream.estimate_rtp(sequence)
        if index is None:
            self.counters.replayed += 1
            raise SrtpError(f"RTP packet {sequence} was seen before or is too old")
        clear = inbound.unprotect_rtp(packet, header_length, ssrc, index)
        if clear is None:
            self.counters.unauthentic += 1
            raise SrtpError(f"RTP packet {sequence} is not authentic")
        stream.rtp.accept(index)
        self._received[ssrc] = stream
        return clear

    def protect_rtcp(self, packet: bytes) -> bytes:
        """Return the SRTCP packet of a compound RTCP packet."""
        if len(packet) < _RTCP_HEADER_SIZE:
            raise LocalProtocolError("an RTCP packet has at least 8 bytes")
        ssrc = int.from_bytes(packet[4:8], "big")
        stream = self._sent.get(ssrc) or self._open_send_stream(ssrc)
        return self._outbound.protect_rtcp(packet, ssrc, stream.take_rtcp())

    def unprotect_rtcp(self, packet: bytes) -> bytes:
        """Return the compound RTCP packet of an SRTCP packet."""
        inbound = self._inbound
        if len(packet) < _RTCP_HEADER_SIZE + inbound.rtcp_overhead:
            self.counters.malformed += 1
            raise SrtpError("SRTCP packet is too short")
        ssrc = int.from_bytes(packet[4:8], "big")
        end = len(packet) - inbound.rtcp_index_end
        index = int.from_bytes(packet[end - 4 : end], "big") & MAX_RTCP_INDEX
        stream = self._received.get(ssrc) or self._new_receive_stream()
        if not stream.rtcp.check(index):
            self.counters.replayed += 1
            raise SrtpError(f"RTCP packet {index} was seen before or is too old")
        clear = inbound.unprotect_rtcp(packet, ssrc, index)
        if clear is None:
            self.counters.unauthentic += 1
            raise SrtpError(f"RTCP packet {index} is not authentic")
        stream.rtcp.accept(index)
        self._received[ssrc] = stream
        return clear

    def _open_send_stream(self, ssrc: int) -> SendStream:
        if len(self._sent) >= MAX_STREAMS:
            raise LocalProtocolError(f"a call sends from at most {MAX_STREAMS} sources")
        stream = self._sent[ssrc] = SendStream()
        return stream

    def _new_receive_stream(self) -> ReceiveStream:
        """Return a stream that is kept only once a packet of it proved authentic."""
        if len(self._received) >= MAX_STREAMS:
            self.counters.streams_refused += 1
            raise SrtpError(f"a call receives from at most {MAX_STREAMS} sources")
        return ReceiveStream()


def _make_transform(profile: SrtpProfile, master: Keys, *, inbound: bool) -> Transform:
    if profile is SrtpProfile.AES128_CM_HMAC_SHA1_80:
        return CounterModeTransform(master, inbound=inbound)
    return GcmTransform(
        rtp=derive_pair(master, Label.RTP_ENCRYPTION, Label.RTP_SALT),
        rtcp=derive_pair(master, Label.RTCP_ENCRYPTION, Label.RTCP_SALT),
    )


def _read_rtp_header(packet: bytes, trailer: int) -> tuple[int, int, int]:
    """Return header length, sequence number and SSRC; raise SrtpError unless `trailer` bytes follow the header."""
    size = len(packet) - trailer
    if size < _RTP_HEADER_SIZE:
        raise SrtpError("RTP packet is too short")
    first, sequence, ssrc = _RTP_HEADER.unpack_from(packet)
    if first == 0x80:
        return _RTP_HEADER_SIZE, sequence, ssrc
    if first & 0xC0 != 0x80:
        raise SrtpError("RTP version is not 2")
    header_length = _RTP_HEADER_SIZE + 4 * (first & 0x0F)
    if first & 0x10:
        header_length += 4 + 4 * int.from_bytes(packet[header_length + 2 : header_length + 4], "big")
    if size < header_length:
        raise SrtpError("RTP header is cut short")
    return header_length, sequence, ssrc
