"""Protects the RTP and RTCP of one DTLS association, both directions."""

import struct
from dataclasses import dataclass

from antiphon_common.errors import LocalProtocolError
from antiphon_transceiver.srtp.counter_mode import CounterModeTransform
from antiphon_transceiver.srtp.errors import SrtpError
from antiphon_transceiver.srtp.evicted import EvictedSources
from antiphon_transceiver.srtp.gcm import GcmTransform
from antiphon_transceiver.srtp.keys import Keys, Label, derive_pair, split_keying_material
from antiphon_transceiver.srtp.profiles import SrtpProfile
from antiphon_transceiver.srtp.streams import (
    MAX_RTCP_INDEX,
    MAX_RTP_INDEX,
    NOTHING_REACHED,
    ROLLOVER,
    ReceiveStream,
    SendStream,
)
from antiphon_transceiver.srtp.transform import Transform

MAX_STREAMS = 32
"""Cryptographic contexts of one direction. A call has one or two sources, but push-to-talk devices, holds and restarted
encoders use a new one each time. The oldest context is evicted; `EvictedSources` keeps its replay protection."""

_RTP_HEADER = struct.Struct("!BxH4xI")
_RTP_HEADER_SIZE = 12
_RTCP_HEADER_SIZE = 8


@dataclass(slots=True)
class SrtpCounters:
    """Received packets that were refused, by reason. `SrtpSession.counters` holds one."""

    malformed: int = 0
    replayed: int = 0
    unauthentic: int = 0
    streams_refused: int = 0


class SrtpSession:
    """SRTP and SRTCP of one call, both directions.

    Make it when DTLS is connected. `exported` is the keying material exported under `EXPORTER_LABEL`, of
    `keying_material_length(profile)` bytes; `is_client` is True if we are the DTLS client. Each method takes a whole
    packet and returns a whole packet.
    """

    __slots__ = ("_inbound", "_outbound", "_received", "_received_before", "_sent", "_sent_before", "counters")

    def __init__(self, profile: SrtpProfile, exported: bytes, is_client: bool) -> None:
        client, server = split_keying_material(profile, exported)
        outbound, inbound = (client, server) if is_client else (server, client)
        self._outbound = make_transform(profile, outbound, inbound=False)
        self._inbound = make_transform(profile, inbound, inbound=True)
        self._sent: dict[int, SendStream] = {}
        self._received: dict[int, ReceiveStream] = {}
        self._sent_before = EvictedSources()
        self._received_before = EvictedSources()
        self.counters = SrtpCounters()

    def protect_rtp(self, packet: bytes) -> bytes:
        """Return the SRTP packet of an RTP packet.

        Raises:
            LocalProtocolError: The packet is not RTP, its index was used before, or the key's last index was used.
        """
        try:
            header_length, sequence, ssrc = _read_rtp_header(packet, 0)
        except SrtpError as error:
            raise LocalProtocolError(str(error)) from None
        stream = self._sent.get(ssrc) or self._open_send_stream(ssrc)
        index = stream.rtp.highest + 1
        if index & 0xFFFF == sequence and index <= MAX_RTP_INDEX:  # in order: it was not used before
            stream.rtp.accept(index)
        else:
            index = stream.take_rtp(sequence)
        return stream.transform.protect_rtp(packet, header_length, ssrc, index)

    def unprotect_rtp(self, packet: bytes) -> bytes:
        """Return the RTP packet of an SRTP packet (RFC 3711 §3.3).

        Raises:
            SrtpError: The packet is malformed, replayed, not authentic, or of one source too many.
        """
        try:
            header_length, sequence, ssrc = _read_rtp_header(packet, self._inbound.rtp_overhead)
        except SrtpError:
            self.counters.malformed += 1
            raise
        stream = self._received.get(ssrc) or self._new_receive_stream(ssrc)
        following = stream.rtp.highest + 1
        in_order = following & 0xFFFF == sequence and following <= MAX_RTP_INDEX
        # In order, the index is known to be that of RFC 3711 §3.3.1, and to be new.
        index = following if in_order else stream.estimate_rtp(sequence)
        if index is None:
            self.counters.replayed += 1
            raise SrtpError(f"RTP packet {sequence} is replayed or too old")
        clear = stream.transform.unprotect_rtp(packet, header_length, ssrc, index)
        if clear is None and stream.may_have_wrapped(sequence):
            index += ROLLOVER
            clear = self._inbound.indexed.unprotect_rtp(packet, header_length, ssrc, index)
            if clear is not None:
                stream.transform = self._inbound.indexed
        if clear is None:
            self.counters.unauthentic += 1
            raise SrtpError(f"RTP packet {sequence} is not authentic")
        stream.rtp.accept(index)
        if ssrc not in self._received:
            self._keep_receive_stream(ssrc, stream)
        return clear

    def protect_rtcp(self, packet: bytes) -> bytes:
        """Return the SRTCP packet of a compound RTCP packet.

        Raises:
            LocalProtocolError: The packet has less than 8 bytes, or the key's last index was used.
        """
        if len(packet) < _RTCP_HEADER_SIZE:
            raise LocalProtocolError("an RTCP packet has at least 8 bytes")
        ssrc = int.from_bytes(packet[4:8], "big")
        stream = self._sent.get(ssrc) or self._open_send_stream(ssrc)
        return stream.transform.protect_rtcp(packet, ssrc, stream.take_rtcp())

    def unprotect_rtcp(self, packet: bytes) -> bytes:
        """Return the compound RTCP packet of an SRTCP packet (RFC 3711 §3.4).

        Raises:
            SrtpError: The packet is malformed, replayed, not authentic, or of one source too many.
        """
        inbound = self._inbound
        if len(packet) < _RTCP_HEADER_SIZE + inbound.rtcp_overhead:
            self.counters.malformed += 1
            raise SrtpError("SRTCP packet is too short")
        ssrc = int.from_bytes(packet[4:8], "big")
        end = len(packet) - inbound.rtcp_index_end
        index = int.from_bytes(packet[end - 4 : end], "big") & MAX_RTCP_INDEX
        stream = self._received.get(ssrc) or self._new_receive_stream(ssrc)
        if not stream.rtcp.check(index):
            self.counters.replayed += 1
            raise SrtpError(f"RTCP packet {index} is replayed or too old")
        clear = stream.transform.unprotect_rtcp(packet, ssrc, index)
        if clear is None:
            self.counters.unauthentic += 1
            raise SrtpError(f"RTCP packet {index} is not authentic")
        stream.rtcp.accept(index)
        if ssrc not in self._received:
            self._keep_receive_stream(ssrc, stream)
        return clear

    def _open_send_stream(self, ssrc: int) -> SendStream:
        reached = self._sent_before.get(ssrc)
        if len(self._sent) >= MAX_STREAMS:
            if reached is None and self._sent_before.full:
                raise LocalProtocolError("the call has sent from too many sources")
            oldest = next(iter(self._sent))
            self._sent_before.add(oldest, self._sent.pop(oldest).reached)
            self._outbound.forget(oldest)
        self._sent_before.discard(ssrc)
        transform = self._outbound if reached is None else self._outbound.indexed
        stream = self._sent[ssrc] = SendStream(transform, reached or NOTHING_REACHED)
        return stream

    def _new_receive_stream(self, ssrc: int) -> ReceiveStream:
        """Return a stream for a source without a context. It is kept once a packet of it is authentic."""
        reached = self._received_before.get(ssrc)
        if reached is not None:
            return ReceiveStream(self._inbound.indexed, reached)
        if len(self._received) >= MAX_STREAMS and self._received_before.full:
            self.counters.streams_refused += 1
            raise SrtpError("the call has received from too many sources")
        return ReceiveStream(self._inbound)

    def _keep_receive_stream(self, ssrc: int, stream: ReceiveStream) -> None:
        """Keep the stream of an authentic packet; evict the oldest stream if there are too many."""
        self._received_before.discard(ssrc)
        if len(self._received) >= MAX_STREAMS:
            oldest = next(iter(self._received))
            self._received_before.add(oldest, self._received.pop(oldest).reached)
            self._inbound.forget(oldest)
        self._received[ssrc] = stream


def make_transform(profile: SrtpProfile, master: Keys, *, inbound: bool) -> Transform:
    if profile is SrtpProfile.AES128_CM_HMAC_SHA1_80:
        return CounterModeTransform(master, inbound=inbound)
    return GcmTransform(
        rtp=derive_pair(master, Label.RTP_ENCRYPTION, Label.RTP_SALT),
        rtcp=derive_pair(master, Label.RTCP_ENCRYPTION, Label.RTCP_SALT),
    )


def _read_rtp_header(packet: bytes, trailer: int) -> tuple[int, int, int]:
    """Return header length, sequence number and SSRC; raise SrtpError unless `trailer` bytes fit after the header."""
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
