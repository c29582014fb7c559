"""Good inputs to begin with, taken from calls in memory and from the recorded vectors: `python -m fuzz.seeds`."""

import json
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path

from antiphon_common import frames
from antiphon_common.demux import Protocol, classify
from antiphon_transceiver.sctp import DataChannelEndpoint
from fuzz.targets import TARGETS
from support.memory_network import MemoryNetwork
from support.world import World

CORPUS = Path(__file__).parent / "corpus"
VECTORS = Path(__file__).parents[1] / "vectors"
OFFERS = Path(__file__).parents[1] / "signaling" / "offers"


NOMINATION, PRIORITY = b"\x00\x25\x00\x00", b"\x00\x24\x00\x04\x6e\x00\x1e\xff"
CONTROLLED = b"\x80\x29\x00\x08" + bytes(8)


def numbered(number: int) -> bytes:
    """Return a packet for the jitter buffer: sequence number, timestamp, Opus."""
    return number.to_bytes(2, "big") + (960 * number).to_bytes(4, "big") + b"\xf8x"


def as_pieces(datagrams: Iterable[bytes]) -> bytes:
    return b"".join(b"\x01" + len(datagram).to_bytes(2, "big") + datagram for datagram in datagrams)


def recorded_call() -> dict[Protocol, list[bytes]]:
    """Return what a caller and a transceiver said to each other, by protocol."""
    world = World(1)
    seen: dict[Protocol, list[bytes]] = {protocol: [] for protocol in Protocol}
    client = world.call()
    original = client.core.receive_datagram

    def tap(data: bytes, source: object, now: float) -> None:
        seen[Protocol(classify(data))].append(data)
        original(data, source, now)  # type: ignore[arg-type]

    client.core.receive_datagram = tap  # type: ignore[method-assign]
    send = world.send_to_relay

    def tap_sent(data: bytes, source: tuple[str, int]) -> None:
        seen[Protocol(classify(data))].append(data)
        send(data, source)

    world.send_to_relay = tap_sent  # type: ignore[method-assign]
    world.run(2.0, lambda: client.connected)
    client.next_frame = world.now
    world.run(3.0)
    client.core.close(world.now)
    world.run(0.2)
    return seen


def data_channel_packets() -> list[bytes]:
    from random import Random

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


def seeds() -> dict[str, list[bytes]]:
    """Return good inputs for each target."""
    call, sctp = recorded_call(), data_channel_packets()
    every = [datagram for datagrams in call.values() for datagram in datagrams[:8]]
    messages = [bytes.fromhex(entry) for entry in _hex_strings(json.loads((VECTORS / "frames.json").read_text()))]
    batch = frames.encode([frames.Accepted(1), frames.ResponseStarted(1, 1), frames.Audio(1, b"\xf8abc", response=1)])
    return {
        "stun": call[Protocol.STUN][:6],
        "route_token": [b"A" * 23],
        "link_message": [b"\x02\x01\x00\x16" + bytes(22)],
        "frames": [*messages, batch],
        "rtp": [b"\x80\x6f\0\1\0\0\0\2\0\0\0\3payload", b"\x90\x6f\0\1\0\0\0\2\0\0\0\3\xbe\xde\0\1\x10\xff\0\0x"],
        "rtcp": [bytes.fromhex("80c80006000000010000000000000000000000000000000000000000")],
        "dtls_records": call[Protocol.DTLS],
        "sctp_chunks": [packet[12:] for packet in sctp],
        "sdp": [file.read_bytes() for file in sorted(OFFERS.glob("*.sdp"))],
        "opus": [b"\xf8abc", b"\xfb\x03" + b"x" * 30],
        "ice_agent": [as_pieces(call[Protocol.STUN])],
        "signed_ice_agent": [as_pieces([NOMINATION, PRIORITY, CONTROLLED])],
        "dtls_client": [as_pieces(call[Protocol.DTLS])],
        "dtls_server": [as_pieces(call[Protocol.DTLS])],
        "srtp": [as_pieces(call[Protocol.RTP][:4] + call[Protocol.RTCP][:2])],
        "sctp": [as_pieces(sctp), *(as_pieces([packet]) for packet in sctp[:10])],
        "backend_link": [as_pieces([batch, *messages])],
        "jitter_buffer": [as_pieces(map(numbered, (0, 1, 3, 2, 9)))],
        "playout": [as_pieces([b"\x01\xf8abc"] * 5)],
        "relay": [as_pieces(every)],
        "switchboard": [as_pieces(every)],
    }


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
