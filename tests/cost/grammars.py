"""Grammars of inputs: they split an input into elements and join them again with correct lengths and counts.

A search that mutates bytes alone seldom gets past a length field. Elements are whole chunks, packets, records,
attributes or lines, so that an error in one of them does not affect the others.
"""

from collections.abc import Sequence
from typing import Protocol


class Grammar(Protocol):
    """Splits inputs and joins them. What `split` returns `join` makes an input of again."""

    def split(self, data: bytes) -> list[bytes]: ...

    def join(self, elements: Sequence[bytes]) -> bytes: ...

    def name(self, element: bytes) -> str:
        """Return what an element is, for people."""


class Whole:
    """One element: what has no structure worth the name, or one that repeating spans of bytes reaches."""

    def split(self, data: bytes) -> list[bytes]:
        return [data]

    def join(self, elements: Sequence[bytes]) -> bytes:
        return b"".join(elements)

    def name(self, element: bytes) -> str:
        return "bytes"


class Lines:
    """Lines, each with its end: SDP, headers, settings of several lines."""

    def split(self, data: bytes) -> list[bytes]:
        return data.splitlines(keepends=True)

    def join(self, elements: Sequence[bytes]) -> bytes:
        return b"".join(elements)

    def name(self, element: bytes) -> str:
        return element[:8].decode("latin-1").strip()


class Rows:
    """Elements of one size."""

    def __init__(self, size: int) -> None:
        self._size = size

    def split(self, data: bytes) -> list[bytes]:
        return [data[start : start + self._size] for start in range(0, len(data), self._size)]

    def join(self, elements: Sequence[bytes]) -> bytes:
        return b"".join(one[: self._size].ljust(self._size, b"\0") for one in elements)

    def name(self, element: bytes) -> str:
        return "row"


class SctpChunks:
    """Chunks of one SCTP packet, without its header (RFC 9260 §3.2)."""

    def split(self, data: bytes) -> list[bytes]:
        chunks = []
        while len(data) >= 4:
            length = max(4, int.from_bytes(data[2:4], "big"))
            chunks.append(data[:length])
            data = data[length + -length % 4 :]
        return chunks

    def join(self, elements: Sequence[bytes]) -> bytes:
        return b"".join(map(self._encode, elements))

    def name(self, element: bytes) -> str:
        return f"chunk {element[0]}" if element else "nothing"

    def _encode(self, chunk: bytes) -> bytes:
        kind, value = chunk[:2].ljust(2, b"\0"), chunk[4:0xFFFF]
        if kind[0] == 3 and len(value) >= 12:  # a SACK: all words but the first three are gap blocks and duplicates
            words = len(value) // 4 - 3
            duplicates = min(int.from_bytes(value[10:12], "big"), words)
            counts = (words - duplicates).to_bytes(2, "big") + duplicates.to_bytes(2, "big")
            value = value[:8] + counts + value[12 : 12 + 4 * words]
        padded = value + bytes(-len(value) % 4)
        return kind + (4 + len(value)).to_bytes(2, "big") + padded


class RtcpPackets:
    """Packets of one compound RTCP packet (RFC 3550 §6.1)."""

    def split(self, data: bytes) -> list[bytes]:
        packets = []
        while len(data) >= 4:
            length = 4 + 4 * int.from_bytes(data[2:4], "big")
            packets.append(data[:length])
            data = data[length:]
        return packets

    def join(self, elements: Sequence[bytes]) -> bytes:
        return b"".join(map(self._encode, elements))

    def name(self, element: bytes) -> str:
        return f"RTCP {element[1]}/{element[0] & 31}" if len(element) > 1 else "nothing"

    def _encode(self, packet: bytes) -> bytes:
        packet = packet.ljust(4, b"\0")
        packet += bytes(-len(packet) % 4)
        first = packet[0] & 0x1F | 0x80
        if packet[1] in (200, 201):  # as many report blocks as there is room for
            first = 0x80 | min(31, (len(packet) - (28 if packet[1] == 200 else 8)) // 24 & 31)
        return bytes((first, packet[1])) + (len(packet) // 4 - 1).to_bytes(2, "big") + packet[4:]


class DtlsRecords:
    """Records of one datagram, or whatever else has its two bytes of length at the end of its header."""

    HEADER = 13

    def split(self, data: bytes) -> list[bytes]:
        records = []
        while len(data) >= self.HEADER:
            end = self.HEADER + int.from_bytes(data[self.HEADER - 2 : self.HEADER], "big")
            records.append(data[:end])
            data = data[end:]
        return records

    def join(self, elements: Sequence[bytes]) -> bytes:
        return b"".join(map(self._encode, elements))

    def name(self, element: bytes) -> str:
        return f"record {element[0]}" if element else "nothing"

    def _encode(self, record: bytes) -> bytes:
        head, body = record[: self.HEADER - 2].ljust(self.HEADER - 2, b"\0"), record[self.HEADER :][:0xFFFF]
        return head + len(body).to_bytes(2, "big") + self._encode_body(head, body)

    def _encode_body(self, head: bytes, body: bytes) -> bytes:
        return body


class Fragments(DtlsRecords):
    """Records of which each that is a handshake's has one fragment, as long as it says (RFC 6347 §4.2.2)."""

    def name(self, element: bytes) -> str:
        return f"fragment {element[13]}" if len(element) > 13 and element[0] == 22 else super().name(element)

    def _encode_body(self, head: bytes, body: bytes) -> bytes:
        if head[0] != 22 or len(body) < 12:
            return body
        return body[:9] + (len(body) - 12).to_bytes(3, "big") + body[12:]


class Messages(DtlsRecords):
    """Plain contents of records: a type, two bytes of length, and what is to be encrypted."""

    HEADER = 3

    def name(self, element: bytes) -> str:
        return f"content {element[0]}" if element else "nothing"


class StunAttributes:
    """The header of a STUN message, and its attributes (RFC 8489 §5)."""

    def split(self, data: bytes) -> list[bytes]:
        head, data = data[:20], data[20:]
        attributes = [head]
        while len(data) >= 4:
            length = 4 + int.from_bytes(data[2:4], "big")
            attributes.append(data[:length])
            data = data[length + -length % 4 :]
        return attributes

    def join(self, elements: Sequence[bytes]) -> bytes:
        head = elements[0].ljust(20, b"\0") if elements else bytes(20)
        body = b"".join(
            one[:2].ljust(2, b"\0") + max(0, len(one) - 4).to_bytes(2, "big") + one[4:] + bytes(-len(one[4:]) % 4)
            for one in elements[1:]
        )
        return head[:2] + (len(body) & 0xFFFF).to_bytes(2, "big") + head[4:20] + body

    def name(self, element: bytes) -> str:
        return f"attribute {element[:2].hex()}"


class SizedList:
    """Elements with a byte or two of length before each: lists inside DTLS messages, items of SDES."""

    def __init__(self, width: int, head: int = 0) -> None:
        self._width, self._head = width, head

    def split(self, data: bytes) -> list[bytes]:
        elements, data = [data[: self._head]], data[self._head :]
        while len(data) >= self._width:
            end = self._width + int.from_bytes(data[: self._width], "big")
            elements.append(data[:end])
            data = data[end:]
        return elements

    def join(self, elements: Sequence[bytes]) -> bytes:
        return b"".join(elements[:1]) + b"".join(map(self._encode, elements[1:]))

    def name(self, element: bytes) -> str:
        return "element"

    def _encode(self, element: bytes) -> bytes:
        body = element[self._width :][: (1 << 8 * self._width) - 1]
        return len(body).to_bytes(self._width, "big") + body
