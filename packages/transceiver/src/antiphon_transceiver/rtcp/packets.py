"""Sender and receiver reports, source descriptions and BYE (RFC 3550 §6.4 to §6.6), and compound packets of them."""

import struct
from collections.abc import Callable, Sequence
from typing import ClassVar, Self

import msgspec

from antiphon_common.errors import DecodeError, LocalProtocolError
from antiphon_common.wire import Writer
from antiphon_transceiver.rtcp.feedback import MAX_STATUSES, Feedback, TransportFeedback, decode_feedback
from antiphon_transceiver.rtcp.feedback import PACKET_TYPE as FEEDBACK_TYPE

MAX_REPORT_BLOCKS = 31
"""Largest number of report blocks, chunks or sources in a packet: their count has five bits."""

MAX_PACKETS = 64
"""Packets read from a compound. Ordinary ones have a handful, but 1,200 bytes can hold 300 empty packets."""

_HEADER = struct.Struct("!BBH")
_BLOCK = struct.Struct("!IIIIII")
_SENDER_INFO = struct.Struct("!IQIII")


class ReportBlock(msgspec.Struct, frozen=True):
    """A report block: how one source is received (RFC 3550 §6.4.1). Sender and receiver reports contain it.

    `fraction_lost` is the loss since the last report in 1/256. `packets_lost` counts from the beginning, and is
    negative if duplicates arrived. `highest_sequence` is extended to 32 bits. `jitter` is in ticks of the source's
    clock. `last_sr` has the middle 32 bits of the last SR's NTP time, or 0 if there was none. `delay` is the time since
    that SR in 1/65536 s.
    """

    ssrc: int
    fraction_lost: int
    packets_lost: int
    highest_sequence: int
    jitter: int
    last_sr: int
    delay: int

    def encode(self) -> bytes:
        loss = self.fraction_lost << 24 | self.packets_lost & 0xFFFFFF
        return _BLOCK.pack(self.ssrc, loss, self.highest_sequence, self.jitter, self.last_sr, self.delay)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Invert `encode`. Raises DecodeError unless `data` is one whole block."""
        if len(data) != _BLOCK.size:
            raise DecodeError("RTCP report block is cut short")
        return cls._of(_BLOCK.unpack(data))

    @classmethod
    def _of(cls, fields: tuple[int, ...]) -> Self:
        ssrc, loss, highest, jitter, last_sr, delay = fields
        lost = ((loss & 0xFFFFFF) ^ 0x800000) - 0x800000
        return cls(ssrc, loss >> 24, lost, highest, jitter, last_sr, delay)

    @classmethod
    def decode_all(cls, data: bytes, position: int, count: int) -> tuple[Self, ...]:
        """Return `count` blocks. A profile's extension after them is ignored (RFC 3550 §6.4.3).

        Raises DecodeError when the blocks are cut short.
        """
        end = position + count * _BLOCK.size
        if len(data) < end:
            raise DecodeError("RTCP report block is cut short")
        return tuple([cls._of(fields) for fields in _BLOCK.iter_unpack(data[position:end])])


class SenderReport(msgspec.Struct, frozen=True):
    """A sender report (RFC 3550 §6.4.1). A source sends it regularly while it sends audio.

    `ntp_time` has 64 bits, with 2^32 units in a second. `rtp_timestamp` is the same instant on the source's clock.
    """

    PACKET_TYPE: ClassVar[int] = 200

    ssrc: int
    ntp_time: int
    rtp_timestamp: int
    packet_count: int
    octet_count: int
    reports: tuple[ReportBlock, ...] = ()

    def encode(self) -> bytes:
        info = _SENDER_INFO.pack(self.ssrc, self.ntp_time, self.rtp_timestamp, self.packet_count, self.octet_count)
        return _frame(self.PACKET_TYPE, len(self.reports), info + _encode_blocks(self.reports))

    @classmethod
    def decode_body(cls, count: int, body: bytes) -> Self:
        """Return the report. Raises DecodeError when it is cut short."""
        if len(body) < _SENDER_INFO.size:
            raise DecodeError("RTCP sender report is cut short")
        blocks = ReportBlock.decode_all(body, _SENDER_INFO.size, count)
        ssrc, ntp_time, rtp_timestamp, packets, octets = _SENDER_INFO.unpack_from(body)
        return cls(ssrc, ntp_time, rtp_timestamp, packets, octets, blocks)


class ReceiverReport(msgspec.Struct, frozen=True):
    """A receiver report (RFC 3550 §6.4.2). A member that has sent nothing lately sends it in place of an SR."""

    PACKET_TYPE: ClassVar[int] = 201

    ssrc: int
    reports: tuple[ReportBlock, ...] = ()

    def encode(self) -> bytes:
        return _frame(self.PACKET_TYPE, len(self.reports), self.ssrc.to_bytes(4, "big") + _encode_blocks(self.reports))

    @classmethod
    def decode_body(cls, count: int, body: bytes) -> Self:
        """Return the report. Raises DecodeError when it is cut short."""
        return cls(int.from_bytes(_take(body, 0, 4), "big"), ReportBlock.decode_all(body, 4, count))


class SdesItem(msgspec.Struct, frozen=True):
    """One item of an `SdesChunk`, such as a CNAME (RFC 3550 §6.5). `text` is UTF-8 of at most 255 bytes."""

    CNAME: ClassVar[int] = 1

    type: int
    text: bytes


class SdesChunk(msgspec.Struct, frozen=True):
    """The items that describe one source (RFC 3550 §6.5). A `SourceDescription` contains one for each source."""

    ssrc: int
    items: tuple[SdesItem, ...]


class SourceDescription(msgspec.Struct, frozen=True):
    """A source description, SDES (RFC 3550 §6.5). Every compound packet with a report contains one with a CNAME."""

    PACKET_TYPE: ClassVar[int] = 202

    chunks: tuple[SdesChunk, ...]

    def encode(self) -> bytes:
        writer = Writer()
        for chunk in self.chunks:
            writer.push_uint32(chunk.ssrc)
            for item in chunk.items:
                writer.push_uint8(item.type)
                writer.push_block(item.text, 1)
            writer.push_bytes(bytes(4 - len(writer) % 4))  # one zero ends the list, more fill the word
        return _frame(self.PACKET_TYPE, len(self.chunks), writer.getvalue())

    @classmethod
    def decode_body(cls, count: int, body: bytes) -> Self:
        """Return the source description. Raises DecodeError when it is cut short."""
        chunks = []
        position = 0
        for _ in range(count):
            chunk, position = _decode_chunk(body, position)
            chunks.append(chunk)
        return cls(tuple(chunks))


class Bye(msgspec.Struct, frozen=True):
    """A BYE (RFC 3550 §6.6). A member sends it when sources end."""

    PACKET_TYPE: ClassVar[int] = 203

    sources: tuple[int, ...]
    reason: bytes = b""

    def encode(self) -> bytes:
        writer = Writer()
        for source in self.sources:
            writer.push_uint32(source)
        if self.reason:
            writer.push_block(self.reason, 1)
            writer.push_bytes(bytes(-len(writer) % 4))
        return _frame(self.PACKET_TYPE, len(self.sources), writer.getvalue())

    @classmethod
    def decode_body(cls, count: int, body: bytes) -> Self:
        """Return the BYE. Raises DecodeError when it is cut short."""
        sources = struct.unpack(f"!{count}I", _take(body, 0, 4 * count))
        reason = body[4 * count :]
        return cls(sources, _take(reason, 1, reason[0]) if reason else b"")


RtcpPacket = SenderReport | ReceiverReport | SourceDescription | Bye | Feedback

_DECODERS: dict[int, Callable[[int, bytes], RtcpPacket | None]] = {
    SenderReport.PACKET_TYPE: SenderReport.decode_body,
    ReceiverReport.PACKET_TYPE: ReceiverReport.decode_body,
    SourceDescription.PACKET_TYPE: SourceDescription.decode_body,
    Bye.PACKET_TYPE: Bye.decode_body,
    FEEDBACK_TYPE: decode_feedback,
}


def encode_rtcp(packets: Sequence[RtcpPacket]) -> bytes:
    """Return the compound packet of `packets`. RFC 3550 §6.1 requires a report first, and a CNAME."""
    return b"".join(packet.encode() for packet in packets)


def _refuse(error: DecodeError) -> None:
    raise error


def decode_rtcp(data: bytes, skip: Callable[[DecodeError], None] = _refuse) -> list[RtcpPacket]:
    """Return the packets of a compound, without those of unknown types.

    `skip` is called with the error of each malformed packet, which is left out. By default the error is raised as
    DecodeError. Data after a wrong length, or after `MAX_PACKETS` packets, is malformed. The order of packets is not
    checked, since feedback may be sent without a report (RFC 5506). Transport-wide feedback beyond `MAX_STATUSES`
    packets in all is left out.
    """
    packets: list[RtcpPacket] = []
    statuses = 0
    for packet_type, count, body in _split(data, skip):
        try:
            if packet_type == FEEDBACK_TYPE and count == TransportFeedback.FORMAT:
                reported = TransportFeedback.count_statuses(body)
                statuses += reported
                if reported <= MAX_STATUSES < statuses:
                    continue
            decode_body = _DECODERS.get(packet_type)
            packet = decode_body(count, body) if decode_body is not None else None
        except DecodeError as error:
            skip(error)
            continue
        if packet is not None:
            packets.append(packet)
    return packets


def _split(data: bytes, skip: Callable[[DecodeError], None]) -> list[tuple[int, int, bytes]]:
    """Return the type, the count or format, and the body of each packet in a compound.

    RFC 3550 §6.4.1 allows padding in the last packet only. Padding in other packets, which some senders add, is
    removed too.
    """
    parts: list[tuple[int, int, bytes]] = []
    position, end = 0, len(data)
    while position < end:
        try:
            packet_type, first, begin, position = _pull_header(data, position)
        except DecodeError as error:
            skip(error)
            break
        if len(parts) == MAX_PACKETS:
            skip(DecodeError(f"more than {MAX_PACKETS} packets in an RTCP compound"))
            break
        try:
            body = data[begin:position]
            parts.append((packet_type, first & 0x1F, _strip_padding(body) if first & 0x20 else body))
        except DecodeError as error:
            skip(error)
    return parts


def _pull_header(data: bytes, position: int) -> tuple[int, int, int, int]:
    """Return the type and the first byte of a packet, and where its body begins and ends."""
    end = len(data)
    if end - position < _HEADER.size:
        raise DecodeError("RTCP packet without a header")
    first, packet_type, words = _HEADER.unpack_from(data, position)
    if first & 0xC0 != 0x80:
        raise DecodeError("RTCP version is not 2")
    begin = position + _HEADER.size
    if begin + 4 * words > end:
        raise DecodeError(f"an RTCP packet of {words} words, {end - begin} bytes left")
    return packet_type, first, begin, begin + 4 * words


def _frame(packet_type: int, count: int, body: bytes) -> bytes:
    if count > MAX_REPORT_BLOCKS:
        raise LocalProtocolError(f"{count} do not fit into one RTCP packet")
    return struct.pack("!BBH", 0x80 | count, packet_type, len(body) // 4) + body


def _strip_padding(body: bytes) -> bytes:
    padding = body[-1] if body else 0
    if not 0 < padding <= len(body):
        raise DecodeError("RTCP padding is longer than the packet")
    return body[:-padding]


def _encode_blocks(blocks: Sequence[ReportBlock]) -> bytes:
    return b"".join(block.encode() for block in blocks)


def _decode_chunk(body: bytes, position: int) -> tuple[SdesChunk, int]:
    """Return the chunk at `position` of an SDES, and where the next one begins."""
    ssrc = int.from_bytes(_take(body, position, 4), "big")
    begin = position = position + 4
    items: list[SdesItem] = []
    end = len(body)
    while position < end and body[position]:
        text_at = position + 2
        position = text_at + body[position + 1] if text_at <= end else end
        items.append(SdesItem(body[text_at - 2], body[text_at:position]))
    position += 4 - (position - begin) % 4  # the list and its closing zero fill whole words
    if position > end:
        raise DecodeError("RTCP source description is cut short")
    return SdesChunk(ssrc, tuple(items)), position


def _take(data: bytes, position: int, length: int) -> bytes:
    taken = data[position : position + length]
    if len(taken) < length:
        raise DecodeError(f"{length} bytes wanted, {len(taken)} left")
    return taken
