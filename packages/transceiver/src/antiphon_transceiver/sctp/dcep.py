"""The Data Channel Establishment Protocol (RFC 8832), and what RFC 8831 §8 says about payloads."""

from enum import IntEnum
from struct import Struct
from typing import Self

import msgspec

from antiphon_common.errors import DecodeError
from antiphon_transceiver.sctp.events import ChannelOpened

MAX_OPEN = 4096
"""Bytes of an OPEN message. RFC 8832 would allow 128 KiB of label and protocol; each channel keeps them."""

NORMAL_PRIORITY = 256
_OPEN = Struct("!BBHIHH")
_UNORDERED = 0x80
_RELIABLE, _MAX_RETRANSMITS, _MAX_LIFETIME = 0, 1, 2


class PayloadProtocol(IntEnum):
    DCEP = 50
    STRING = 51
    BINARY = 53
    EMPTY_STRING = 56
    EMPTY_BINARY = 57


class MessageType(IntEnum):
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
        """Invert `encode`; raise DecodeError for anything else, or more than `MAX_OPEN` bytes.

        Label and protocol that are not UTF-8 are read with replacement characters, since a channel works without them.
        What follows them is padding, and left alone.
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
        """Return what the peer opened with this, as the channel with `id`."""
        lifetime = None if self.max_lifetime is None else self.max_lifetime / 1000
        return ChannelOpened(id, self.label, self.protocol, self.ordered, self.max_retransmits, lifetime, True)


ACK = bytes((MessageType.ACK,))
"""DATA_CHANNEL_ACK (RFC 8832 §5.2), the whole message."""


def encode_message(data: str | bytes) -> tuple[int, bytes]:
    """Return payload protocol and payload; SCTP has no empty messages, so one zero byte stands for those."""
    if isinstance(data, str):
        return (PayloadProtocol.STRING, data.encode()) if data else (PayloadProtocol.EMPTY_STRING, b"\0")
    return (PayloadProtocol.BINARY, data) if data else (PayloadProtocol.EMPTY_BINARY, b"\0")


def decode_message(ppid: int, payload: bytes) -> str | bytes:
    """Invert `encode_message`; raise DecodeError for text that is none, and other protocols."""
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
