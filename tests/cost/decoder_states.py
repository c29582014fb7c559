"""Every decoder by itself, called as in `tests/fuzz`, with its corpus as seeds. Most encode the decoded value again."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from antiphon_common import control, frames
from antiphon_common.control import CallRequest
from antiphon_common.errors import DecodeError
from antiphon_signaling.refusals import RefusedError
from antiphon_signaling.shell.calls import read_session
from antiphon_transceiver.channels import read_event
from cost import work
from cost.grammars import DtlsRecords, Grammar, Lines, RtcpPackets, SctpChunks, SizedList, StunAttributes, Whole
from cost.search import MAX_DATAGRAM, Ready
from fuzz.targets import TARGETS

CORPUS = Path(__file__).parents[1] / "fuzz" / "corpus"
MAX_SEEDS = 40

BODY = 192 * 1024
"""Bytes of a request to signaling."""

GRAMMARS: dict[str, Grammar] = {
    "stun": StunAttributes(),
    "setting": Lines(),
    "sdp": Lines(),
    "answer": Lines(),
    "rtcp": RtcpPackets(),
    "dtls_records": DtlsRecords(),
    "dtls_messages": SizedList(2, 1),
    "sctp_chunks": SctpChunks(),
    "sctp_parameters": SctpChunks(),
}

LIMITS = {"sdp": BODY, "answer": BODY, "session_object": BODY, "control": 2 * BODY, "event": 1 << 18, "frames": 1 << 20}
"""Bytes of the longest input of decoders whose inputs are not datagrams."""

IN_MEMORY = ("sdp", "answer", "session_object", "control", "event", "frames")
"""Decoders whose inputs are long enough for their memory to matter."""


def nested(opening: bytes, middle: bytes, closing: bytes, depth: int) -> bytes:
    return opening * depth + middle + closing * depth


def json_objects(size: int) -> list[bytes]:
    """Return JSON objects of about `size` bytes that are expensive to decode or to hold."""
    numbers = ",".join(["1"] * (size // 2)).encode()
    keys = ",".join(f'"{number:x}":1' for number in range(size // 10)).encode()
    return [
        b'{"a":[%s]}' % numbers,
        b"{%s}" % keys,
        b'{"a":[%s{}]}' % (b"{}," * (size // 3)),
        b'{"a":[%s[]]}' % (b"[]," * (size // 3)),
        b'{"a":[%s"a"]}' % (b'"a",' * (size // 4)),
        b'{"a":"%s"}' % (b"\\u00e4" * (size // 6)),
        b'{"a":"%s"}' % (b"x" * size),
        b'{"a":[%s0.1e1]}' % (b"0.1e1," * (size // 6)),
        b'{"a":%s}' % nested(b"[", b"1", b"]", 900),
        b'{"a":%s}' % nested(b'{"a":', b"1", b"}", 900),
        b'{"a":%s}' % nested(b"[", b"", b"]", size // 2),
        b'{"a":[%s1]}' % (b'{"a":1},' * (size // 8)),
    ]


def batches(size: int) -> list[bytes]:
    """Return messages of a backend of about `size` bytes that are expensive to decode or to hold."""

    def array(element: bytes) -> bytes:
        count = size // len(element)
        return b"\xdd" + count.to_bytes(4, "big") + element * count

    event = {"type": "a"}
    return [
        array(b"\xc0"),
        array(b"\x90"),
        array(b"\x91\x01"),
        array(b"\x92\x06\x01"),
        array(b"\x93\x06\x01\xa1x"),
        array(b"\x93\x06\x01\xc4\x02\xf8x"),
        array(b"\x92\x0d\x01"),
        array(b"\x92\x0e\x01"),
        array(b"\x91\x0d"),
        array(b"\x92\x7f\x01"),
        array(b"\x92\x03\x01"),
        array(b"\x92\x0a\x01"),
        array(msgspec.msgpack.encode([17, 1, event])),
        b"\x91" + msgspec.msgpack.encode([17, 1, {"a": [1] * (1 << 17)}]),
        b"\x91" + msgspec.msgpack.encode([17, 1, {"a": [{}] * (1 << 17)}]),
        b"\x91" + msgspec.msgpack.encode([17, 1, {f"{number:x}": 1 for number in range(1 << 15)}]),
        b"\x91\x93\x11\x01\x81\xa1a" + b"\x91" * 800 + b"\x01",
        b"\x91" * 1000,
    ]


def descriptions() -> list[bytes]:
    """Return SDP that is long in each of its parts."""
    offer = (CORPUS / "sdp" / min(file.name for file in (CORPUS / "sdp").iterdir())).read_bytes()
    lines: tuple[str, ...] = (
        "a=rtpmap:{0} opus/48000/2",
        "a=fmtp:111 a{0}=1",
        "a=candidate:1 1 UDP 1 192.0.2.1 {0} typ host",
    )
    lines += ("m=audio 9 UDP/TLS/RTP/SAVPF 111", "a=fingerprint:sha-256 00", "a=group:BUNDLE {0}", "a={0}", "b={0}")
    lines += ("a=extmap:{0} urn:x", "a=rtcp-fb:111 nack {0}", "a=mid:{0}", "c=IN IP4 192.0.2.1", "", " ", "\ufeff")
    grown = []
    for line in lines:
        many = "".join(line.format(number) + "\r\n" for number in range(3000))
        grown.append(offer + many.encode())
    formats = " ".join(str(number % 128) for number in range(30_000))
    return [
        *grown,
        offer + f"m=audio 9 UDP/TLS/RTP/SAVPF {formats}\r\n".encode(),
        offer.replace(b" 111", b" 111" * 20_000),
    ]


EXTRA: dict[str, Callable[[], list[bytes]]] = {
    "session_object": lambda: json_objects(BODY - 100),
    "event": lambda: json_objects((1 << 18) - 100),
    "control": lambda: json_objects(BODY),
    "frames": lambda: batches(1 << 20),
    "sdp": descriptions,
    "answer": descriptions,
    "red": lambda: [
        b"\x6f" + b"".join(bytes((0xEF, n >> 6, (n << 2) & 0xFF, 1)) for n in range(1, 200)) + b"\x6f" + b"x" * 210
    ],
    "rtcp": lambda: [b"\x8f\xcd\0\5" + bytes(8) + b"\0\0\x03\xff\0\0\0\0\x03\xff\0\0"],
}


def _read_event(data: bytes) -> None:
    with suppress(DecodeError):
        read_event(data.decode("utf-8", "replace"))


def _read_frames(data: bytes) -> None:
    with suppress(DecodeError):
        for raw in frames.split(data):
            if raw is not None:
                frames.decode_frame(raw)
            work.step()


def _read_session(data: bytes) -> None:
    with suppress(RefusedError):
        read_session(data, "model")


def _read_request(data: bytes) -> None:
    with suppress(DecodeError):
        control.decode(data, CallRequest)


LONG: dict[str, Callable[[bytes], None]] = {
    "event": _read_event,
    "frames": _read_frames,
    "session_object": _read_session,
    "control": _read_request,
}
"""Decoders of long inputs, without the encoding that the fuzzer's targets add."""


def _decoding(name: str) -> Callable[[], Ready]:
    def prepare() -> Ready:
        files = sorted((CORPUS / name).iterdir(), key=lambda file: -file.stat().st_size)[:MAX_SEEDS]
        seeds = [file.read_bytes() for file in files] + EXTRA.get(name, list)()
        limit = LIMITS.get(name, MAX_DATAGRAM)
        grammar = GRAMMARS.get(name, Whole())
        return Ready(LONG.get(name, TARGETS[name]), seeds, grammar, limit, stateless=True, memory=name in IN_MEMORY)

    return prepare


NAMES = (
    *("stun", "route_token", "path", "link_message", "frames", "control", "session_object", "setting", "sdp", "answer"),
    *("rtp", "rtcp", "red", "opus", "audio", "dtls_records", "dtls_messages", "dtls_certificate", "sctp_chunks"),
    *("sctp_packet", "sctp_parameters", "channel_message", "event"),
)

STATES: dict[str, Callable[[], Ready]] = {name: _decoding(name) for name in NAMES}
