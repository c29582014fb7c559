"""The messages that open channels, and the encoding of channel messages."""

import pytest

from antiphon_common.errors import DecodeError
from antiphon_transceiver.sctp.dcep import MAX_OPEN, Open, PayloadProtocol, decode_message, encode_message

RELIABLE = bytes.fromhex("03 00 0100 00000000 0004 0001") + b"chat" + b"p"


@pytest.mark.parametrize(
    ("request_", "kind", "limit"),
    [
        (Open("a"), 0x00, 0),
        (Open("a", ordered=False), 0x80, 0),
        (Open("a", max_retransmits=0), 0x01, 0),
        (Open("a", ordered=False, max_retransmits=5), 0x81, 5),
        (Open("a", max_lifetime=1500), 0x02, 1500),
        (Open("ä", "protocol", ordered=False, max_lifetime=1), 0x82, 1),
    ],
)
def test_decoding_inverts_encoding_of_open_messages(request_: Open, kind: int, limit: int) -> None:
    encoded = request_.encode()
    assert (encoded[1], int.from_bytes(encoded[4:8], "big")) == (kind, limit)
    assert Open.decode(encoded) == request_


def test_an_open_message_from_the_wire_is_decoded() -> None:
    assert Open.decode(RELIABLE) == Open("chat", "p")
    assert Open("chat", "p").encode() == RELIABLE


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x02",
        RELIABLE[:-1],
        b"\x03\x03" + RELIABLE[2:],
        Open("x" * MAX_OPEN).encode(),
    ],
)
def test_malformed_open_messages_are_a_decode_error(data: bytes) -> None:
    with pytest.raises(DecodeError):
        Open.decode(data)


@pytest.mark.parametrize("padding", [b"\0", bytes(3), b"junk"])
def test_an_open_message_may_be_padded(padding: bytes) -> None:
    assert Open.decode(RELIABLE + padding) == Open("chat", "p")


def test_a_label_that_is_not_utf_8_opens_a_channel() -> None:
    assert Open.decode(RELIABLE[:12] + b"caf\xe9p") == Open("caf\ufffd", "p")


@pytest.mark.parametrize(
    ("message", "ppid"),
    [
        ("text", PayloadProtocol.STRING),
        ("", PayloadProtocol.EMPTY_STRING),
        (b"\0\xff", PayloadProtocol.BINARY),
        (b"", PayloadProtocol.EMPTY_BINARY),
    ],
)
def test_messages(message: str | bytes, ppid: PayloadProtocol) -> None:
    encoded = encode_message(message)
    assert encoded[0] == ppid
    assert encoded[1]
    assert decode_message(*encoded) == message


@pytest.mark.parametrize(("ppid", "payload"), [(PayloadProtocol.STRING, b"\xff"), (0, b"x"), (52, b"x")])
def test_malformed_messages_are_a_decode_error(ppid: int, payload: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_message(ppid, payload)
