"""The Data Channel Establishment Protocol (RFC 8832), and the payloads of RFC 8831 §8."""

from enum import IntEnum
from struct import Struct
from typing import Self

import msgspec

from antiphon_common.errors import DecodeError
from antiphon_transceiver.sctp.events import ChannelOpened

MAX_OPEN = 4096
"""Bytes of an OPEN message. RFC 8832 allows 128 KiB of label and protocol, which each channel would hold."""

NORMAL_PRIORITY = 256
_OPEN = Struct("!BBHIHH")
_UNORDERED = 0x80
_RELIABLE, _MAX_RETRANSMITS, _MAX_LIFETIME = 0, 1, 2


class PayloadProtocol(IntEnum):
    """The payload protocol identifiers of WebRTC (RFC 8831 §8)."""

    DCEP = 50
    STRING = 51
    BINARY = 53
    EMPTY_STRING = 56
    EMPTY_BINARY = 57


class MessageType(IntEnum):
    """The message types of DCEP (RFC 8832 §8.2.1)."""

    ACK = 2
    OPEN = 3


class Open(msgspec.Struct, frozen=True):
    """DATA_CHANNEL_OPEN (RFC 8832 §5.1). At most one limit is set; `max_lifetime` is in whole milliseconds."""

    label: str
    protocol: str = ""
    ordered: bool = True
    max_retransmits: int | None = None
    max_lifetime: int | None = None

    def encode(self) -> bytes:
        reliability, limit = _RELIABLE, 0
        if self.max_retransmits is not None:
            reliability, limit = _MAX_RETRANSMITS, self.max_retransmits
        elif self.max_lifetime is not None:
            reliability, limit = _MAX_LIFETIME, self.max_lifetime
        label, protocol = self.label.encode(), self.protocol.encode()
        kind = reliability if self.ordered else reliability | _UNORDERED
        head = _OPEN.pack(MessageType.OPEN, kind, NORMAL_PRIORITY, limit, len(label), len(protocol))
        return head + label + protocol

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Invert `encode`.

        Invalid UTF-8 in label and protocol becomes replacement characters, since a channel works without them. Bytes
        after them are padding.

        Raises:
            DecodeError: The message is malformed, or has more than `MAX_OPEN` bytes.
        """
        size = len(data)
        if not _OPEN.size <= size <= MAX_OPEN:
            raise DecodeError(f"a DATA_CHANNEL_OPEN of {size} bytes")
        message_type, kind, _priority, limit, label_length, protocol_length = _OPEN.unpack_from(data)
        label_end = _OPEN.size + label_length
        protocol_end = label_end + protocol_length
        if message_type != MessageType.OPEN or size < protocol_end:
            raise DecodeError("not a DATA_CHANNEL_OPEN, or one that is cut short")
        reliability = kind & ~_UNORDERED
        if reliability > _MAX_LIFETIME:
            raise DecodeError(f"a channel of type {kind:#04x}")
        return cls(
            data[_OPEN.size : label_end].decode(errors="replace"),
            data[label_end:protocol_end].decode(errors="replace"),
            not kind & _UNORDERED,
            limit if reliability == _MAX_RETRANSMITS else None,
            limit if reliability == _MAX_LIFETIME else None,
        )

    def opened(self, id: int) -> ChannelOpened:
        """Return the event of a channel that the peer opened with this message on stream `id`."""
        lifetime = None if self.max_lifetime is None else self.max_lifetime / 1000
        return ChannelOpened(id, self.label, self.protocol, self.ordered, self.max_retransmits, lifetime, True)


ACK = bytes((MessageType.ACK,))
"""The message DATA_CHANNEL_ACK (RFC 8832 §5.2)."""


def encode_message(data: str | bytes) -> tuple[int, bytes]:
    """Return payload protocol and payload. An empty message is one zero byte, since SCTP has no empty ones."""
    if isinstance(data, str):
        return (PayloadProtocol.STRING, data.encode()) if data else (PayloadProtocol.EMPTY_STRING, b"\0")
    return (PayloadProtocol.BINARY, data) if data else (PayloadProtocol.EMPTY_BINARY, b"\0")


def decode_message(ppid: int, payload: bytes) -> str | bytes:
    """Invert `encode_message`.

    Raises:
        DecodeError: Text is not UTF-8, or the payload protocol is unknown.
    """
    match ppid:
        case PayloadProtocol.STRING:
            return _text(payload)
        case PayloadProtocol.BINARY:
            return payload
        case PayloadProtocol.EMPTY_STRING:
            return ""
        case PayloadProtocol.EMPTY_BINARY:
            return b""
        case _:
            raise DecodeError(f"a payload of protocol {ppid}")


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise DecodeError("text that is not UTF-8") from None
