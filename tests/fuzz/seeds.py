"""Writes valid inputs as seeds, from calls in memory and from recorded vectors: `python -m fuzz.seeds`."""

import json
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path as File
from random import Random
from typing import Any

import msgspec

from antiphon.client.speech import RecordedSpeech
from antiphon_common import frames
from antiphon_common.control import Codec, IceParameters, IceUpdate
from antiphon_common.core import Path
from antiphon_common.demux import Protocol, classify
from antiphon_common.link import Announce, Confirm, Moved, RelayHello, Release, encode_message
from antiphon_common.routing import Owner
from antiphon_common.rtp_extensions import MID, TRANSPORT_SEQUENCE
from antiphon_common.wire import Reader
from antiphon_signaling.sdp import read_offer
from antiphon_transceiver.dtls.messages import Fragment, HandshakeType
from antiphon_transceiver.dtls.record import ContentType, split_records
from antiphon_transceiver.media import AudioStream
from antiphon_transceiver.rtcp import (
    GenericNack,
    ReceiverReport,
    ReportBlock,
    RtcpPacket,
    TransportFeedback,
    encode_rtcp,
)
from antiphon_transceiver.rtp import RtpOptions
from antiphon_transceiver.sctp import DataChannelEndpoint
from antiphon_transceiver.sctp.dcep import Open
from antiphon_transceiver.sctp.parameters import OutgoingResetRequest
from fuzz.cores import RED, data_channels, media_stream
from fuzz.targets import TARGETS
from support.peers.certificates import certificate
from support.peers.dtls_pair import make_peers
from support.sim.memory_network import MemoryNetwork
from support.sim.world import World

CORPUS = File(__file__).parent / "corpus"
VECTORS = File(__file__).parents[1] / "vectors"
OFFERS = File(__file__).parents[1] / "signaling" / "offers"

NOMINATION, PRIORITY = b"\x00\x25\x00\x00", b"\x00\x24\x00\x04\x6e\x00\x1e\xff"
RTP_PACKET = b"\x80\x6f\0\1\0\0\0\2\0\0\0\3payload"
RTCP_PACKET = bytes.fromhex("80c80006000000010000000000000000000000000000000000000000")

CONTROLLED = b"\x80\x29\x00\x08" + bytes(8)

SETTINGS = (
    "127.0.0.1:3478",
    "7=[::]:3478,192.0.2.1",
    "echo=ws://host:1",
    "0=10.0.0.0/8:1-2",
    "pcm16/24000",
    "redis://host:6379/0",
    "0:" + "A" * 43 + "=:1:2:3",
    "tenant:key",
)

BODY_TYPES = (
    HandshakeType.CLIENT_HELLO,
    HandshakeType.SERVER_HELLO,
    HandshakeType.HELLO_VERIFY_REQUEST,
    HandshakeType.CERTIFICATE,
    HandshakeType.SERVER_KEY_EXCHANGE,
    HandshakeType.CERTIFICATE_REQUEST,
    HandshakeType.CLIENT_KEY_EXCHANGE,
    HandshakeType.CERTIFICATE_VERIFY,
)
"""In the order of `decoders.BODIES`."""


def numbered(number: int) -> bytes:
    """Return a packet for the jitter buffer: sequence number, timestamp, Opus."""
    return number.to_bytes(2, "big") + (960 * number).to_bytes(4, "big") + b"\xf8x"


def as_pieces(datagrams: Iterable[bytes]) -> bytes:
    return b"".join(b"\x01" + len(datagram).to_bytes(2, "big") + datagram for datagram in datagrams)


def recorded_call() -> dict[Protocol, list[bytes]]:
    """Return the datagrams between a caller and a transceiver, by protocol."""
    world = World(1)
    seen: dict[Protocol, list[bytes]] = {protocol: [] for protocol in Protocol}
    client = world.call()
    original = client.core.receive_datagram

    def tap(data: bytes, source: Path, now: float) -> None:
        seen[Protocol(classify(data))].append(data)
        original(data, source, now)

    client.core.receive_datagram = tap  # type: ignore[method-assign]
    send: Any = world.send_to_relay

    def tap_sent(data: bytes, *where: Any) -> None:
        seen[Protocol(classify(data))].append(data)
        send(data, *where)

    world.send_to_relay = tap_sent  # type: ignore[method-assign, assignment]
    world.run(2.0, lambda: client.connected)
    client.next_frame = world.now
    world.run(3.0)
    client.core.close(world.now)
    world.run(0.2)
    return seen


def handshake_bodies() -> list[bytes]:
    """Return the messages of a handshake, each after the number of its decoder."""
    network = make_peers().shake_hands().network
    records = [record for datagram in network.left.sent + network.right.sent for record in split_records(datagram)]
    plain = [record.payload for record in records if record.content_type == ContentType.HANDSHAKE and not record.epoch]
    fragments = [Fragment.pull(Reader(payload)) for payload in plain]
    return [bytes((BODY_TYPES.index(one.type),)) + one.data for one in fragments if one.type in BODY_TYPES]


def data_channel_packets() -> list[bytes]:
    left = DataChannelEndpoint(is_dtls_client=True, random=Random(1).randbytes)
    right = DataChannelEndpoint(is_dtls_client=False, random=Random(2).randbytes)
    network = MemoryNetwork(left, right)
    left.start(0.0)
    right.start(0.0)
    channel = left.open_channel("oai-events")
    left.send(channel, "hello")
    network.run(limit=2.0)
    left.close_channel(channel)
    network.run(limit=4.0)
    left.close(network.now)
    network.run(limit=5.0)
    return [*network.left.sent, *network.right.sent]


def peers_chunks() -> list[bytes]:
    """Return chunks of an established association, with the numbers that `cores.sctp_peer` expects."""
    network = data_channels(DataChannelEndpoint(False, Random(2).randbytes))
    left = network.left.core
    assert isinstance(left, DataChannelEndpoint)
    before = len(network.left.sent)
    left.send(0, "x" * 3000)
    left.send(left.open_channel("lossy", ordered=False, max_retransmits=0), b"y")
    network.run(limit=network.now + 0.3)
    left.close_channel(0)
    network.run(limit=network.now + 0.3)
    left.close(network.now)
    network.run(limit=network.now + 1.0)
    return [packet[12:] for packet in network.left.sent[before:]]


def media_packets() -> list[bytes]:
    """Return audio of a caller, plain and in RED, and RTCP of every kind."""
    options = RtpOptions({MID: 1, TRANSPORT_SEQUENCE: 4}, "0", ("nack", "transport-cc"), reduced_size=True)
    caller = AudioStream(Codec("opus", RED, 48_000, 2), "opus", "caller", Random(3).randbytes, 3.9e9, options)
    caller.start(0.0)
    for _ in range(5):
        caller.playout.append(1, b"\xf8abc")
    plain = [packet for number in range(20) if (packet := caller.poll_rtp(0.02 * number)) is not None]
    red = b"\x80\x3f" + plain[0][2:12] + red_payload()
    ours, theirs = caller.ssrc, media_stream().ssrc
    feedback: list[RtcpPacket] = [
        ReceiverReport(ours, (ReportBlock(theirs, 25, 3, 1000, 40, 5, 6),)),
        GenericNack(ours, theirs, (7, 9)),
        TransportFeedback(ours, theirs, 3, 4, 0, (0, None, 40)),
    ]
    report = caller.poll_rtcp(6.0)
    assert report is not None
    return [*plain, red, report, encode_rtcp(feedback), caller.bye()]


def red_payload() -> bytes:
    """Return a RED payload: an Opus packet after a redundant block with a timestamp offset of 960 ticks."""
    return bytes((0x80 | RED, 960 >> 6, (960 << 2) & 0xFF, 4, RED)) + b"\xf8abc" + b"\xf8def"


def link_messages() -> list[bytes]:
    paths = (Path.of("203.0.113.1", 40_000, ingress=1), Path.of("203.0.113.2", 1, ingress=1))
    moved = Moved(Owner(0, 1, 7000), Owner(0, 2, 7000))
    return [
        encode_message(one)
        for one in (RelayHello((1,), 7), Confirm(paths[0]), Announce(paths), moved, Release(paths[0]))
    ]


def seeds() -> dict[str, list[bytes]]:
    """Return valid inputs for each target."""
    return decoder_seeds() | core_seeds()


def decoder_seeds() -> dict[str, list[bytes]]:
    call, sctp = recorded_call(), data_channel_packets()
    offers = [file.read_bytes() for file in sorted(OFFERS.glob("*.sdp"))]
    request = msgspec.json.encode(read_offer(offers[0]).call_request("call", "tenant", {}))
    return {
        "stun": call[Protocol.STUN][:6],
        "route_token": [b"A" * 23],
        "path": [Path.of("192.0.2.7", 5000, ingress=1).encode(), Path.of("2001:db8::1", 1).encode()],
        "link_message": [b"\x02\x01\x00\x16" + bytes(22), *link_messages()],
        "frames": [*recorded_frames(), batch()],
        "control": [msgspec.json.encode(IceUpdate("*", IceParameters("u", "p"))), request],
        "session_object": [b'{"model":"m","type":"realtime"}'],
        "setting": [text.encode() for text in SETTINGS],
        "sdp": offers,
        "answer": [offer.replace(b"actpass", b"active") for offer in offers],
        "rtp": [RTP_PACKET, b"\x90\x6f\0\1\0\0\0\2\0\0\0\3\xbe\xde\0\1\x10\xff\0\0x"],
        "rtcp": [RTCP_PACKET],
        "red": [bytes((RED,)) + red_payload()],
        "opus": [b"\xf8abc", b"\xfb\x03" + b"x" * 30],
        "audio": [b"\xf8abc", RecordedSpeech.shipped().packets[30]],
        "dtls_records": call[Protocol.DTLS],
        "dtls_messages": handshake_bodies(),
        "dtls_certificate": [certificate("client").der],
        "sctp_chunks": [packet[12:] for packet in sctp],
        "sctp_packet": sctp,
        "sctp_parameters": [OutgoingResetRequest(1, 2, 3, (4, 5)).encode().value, b"\0\x0d\0\x05a\0\0\0"],
        "channel_message": [Open("oai-events", "p", False, 3, None).encode(), "\x33ä".encode(), b"\x39\0"],
        "event": [b'{"type":"test","n":[1,-2.5e3,true,null,"\\u00e4"]}'],
    }


def core_seeds() -> dict[str, list[bytes]]:
    call, sctp, chunks = recorded_call(), data_channel_packets(), peers_chunks()
    every = [datagram for datagrams in call.values() for datagram in datagrams[:8]]
    midway = as_pieces([b"\x16\x02\0" + bytes(70), b"\x15\2\x28", b"\x16\x01\0a", b"\x16\x0b\1\0\0\0"])
    started = frames.encode([frames.Started(1, "call", "tenant", "opus"), frames.Audio(1, b"\xf8x")])
    links = link_messages()
    repeated = [numbered(number)[:6] + red_payload() for number in (0, 1, 3, 6, 5)]
    return {
        "ice_agent": [as_pieces(call[Protocol.STUN])],
        "signed_ice_agent": [as_pieces([NOMINATION, PRIORITY, CONTROLLED])],
        "dtls_client": [as_pieces(call[Protocol.DTLS])],
        "dtls_server": [as_pieces(call[Protocol.DTLS])],
        "dtls_midway": [bytes((first,)) + midway for first in range(8)],
        "dtls_peer": [bytes((first,)) + as_pieces([b"\3data", b"\2" + bytes(12), b"\1\1\0"]) for first in range(2)],
        "srtp": [as_pieces(call[Protocol.RTP][:4] + call[Protocol.RTCP][:2])],
        "peer_transport": [
            as_pieces([b"r" + RTP_PACKET, b"c" + RTCP_PACKET, b"d" + sctp[0], b"s" + RTP_PACKET, *every])
        ],
        "sctp": [as_pieces(sctp), *(as_pieces([packet]) for packet in sctp[:10])],
        "sctp_peer": [as_pieces(chunks), *(as_pieces([chunk]) for chunk in chunks)],
        "call_channels": [as_pieces([b't{"type":"a"}', b'e{"type":"b"}', b"bx", b"xy", b"c", b"o", b't{"a":1}'])],
        "media": [as_pieces(media_packets())],
        "jitter_buffer": [as_pieces(map(numbered, (0, 1, 3, 2, 9))), as_pieces(repeated)],
        "playout": [as_pieces([b"\x01\xf8abc"] * 5)],
        "backend_link": [as_pieces([batch(), *recorded_frames()])],
        "backend_session": [as_pieces([started, *recorded_frames()])],
        "relay": [as_pieces(every)],
        "link": [as_pieces([side + message for side in (b"r", b"t") for message in links])],
        "call_router": [as_pieces(every)],
    }


def recorded_frames() -> list[bytes]:
    return [bytes.fromhex(entry) for entry in _hex_strings(json.loads((VECTORS / "frames.json").read_text()))]


def batch() -> bytes:
    return frames.encode([frames.Accepted(1), frames.ResponseStarted(1, 1), frames.Audio(1, b"\xf8abc", response=1)])


def _hex_strings(value: object) -> list[str]:
    """Return every string in a vector file that is hex."""
    if isinstance(value, dict):
        return [found for inner in value.values() for found in _hex_strings(inner)]
    if isinstance(value, list):
        return [found for inner in value for found in _hex_strings(inner)]
    if isinstance(value, str) and len(value) > 4 and all(letter in "0123456789abcdef" for letter in value):
        return [value] if len(value) % 2 == 0 else []
    return []


def main() -> None:
    found = seeds()
    assert set(found) == set(TARGETS)
    for name, inputs in found.items():
        folder = CORPUS / name
        folder.mkdir(parents=True, exist_ok=True)
        for data in inputs:
            (folder / blake2b(data, digest_size=10).hexdigest()).write_bytes(data)


if __name__ == "__main__":
    main()
