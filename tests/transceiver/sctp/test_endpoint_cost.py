"""The cost of one packet of 1,200 bytes with any content and state, counted in work instead of time."""

import tracemalloc
from collections.abc import Callable

import msgspec
import pytest

from antiphon_transceiver.sctp import BufferFullError
from antiphon_transceiver.sctp.chunks import (
    Abort,
    Chunk,
    CookieAck,
    CookieEcho,
    Data,
    Error,
    ForwardTsn,
    Heartbeat,
    HeartbeatAck,
    Init,
    Reconfig,
    Sack,
    Shutdown,
    Unknown,
)
from antiphon_transceiver.sctp.dcep import Open, PayloadProtocol
from antiphon_transceiver.sctp.packet import HEADER_SIZE, SctpPacket
from antiphon_transceiver.sctp.parameters import OutgoingResetRequest, Parameter
from support.net.impairment import Impairment
from support.peers.sctp_pair import SctpPeers, chunks_of, forge, last_data, make_sctp_peers
from support.sim.work_counter import Work, work_of

PACKET_SIZE = 1200
MAX_CALLS, MAX_LINES = 3_000, 10_000
"""The limit for one packet, some 0.5 ms."""

FULL_OF_CHUNKS = 70
"""DATA chunks of one byte that fit a packet, and some more."""


class SilentPeer:
    """A server whose client has one open channel and then sends only the chunks of a test."""

    def __init__(self, channels: int = 1) -> None:
        self.peers: SctpPeers = make_sctp_peers(impairment=Impairment(delay=0.01)).establish()
        self.channel = self.peers.client.open_channel("test")
        for number in range(1, channels):
            self.peers.client.open_channel(str(number))
        self.peers.run(1.0)
        data = last_data(self.peers.network.left)
        self.next_tsn = data.tsn + 1
        self.next_ssn = 1
        self.peers.network.left.rewrite = lambda datagram: []

    def tsn(self, ahead: int) -> int:
        return self.next_tsn + ahead & 0xFFFFFFFF

    def data(self, ahead: int, payload: bytes = b"x", **fields: int) -> Data:
        """Return the chunk `ahead` after the next one, on the open channel and ordered unless `fields` differ."""
        stream, ssn = fields.get("stream", self.channel), fields.get("ssn", self.next_ssn + ahead)
        ppid = fields.get("ppid", int(PayloadProtocol.STRING))
        beginning, ending = fields.get("beginning", 1) == 1, fields.get("ending", 1) == 1
        return Data(self.tsn(ahead), stream, ssn & 0xFFFF, ppid, payload, beginning, ending)

    def packet(self, chunks: list[Chunk]) -> bytes:
        """Return a packet of as many of these chunks as fit."""
        taken: list[Chunk] = []
        room = PACKET_SIZE - HEADER_SIZE
        for chunk in chunks:
            room -= len(chunk.encode())
            if room < 0:
                break
            taken.append(chunk)
        return forge(self.peers.network.left, *taken)

    def send(self, chunks: list[Chunk]) -> Work:
        datagram = self.packet(chunks)
        network = self.peers.network
        work = work_of(lambda: self.peers.server.receive_datagram(datagram, network.left.path, network.now))
        network.drain()
        return work

    def hold(self, count: int, make: Callable[[int], Data]) -> "SilentPeer":
        """Send `count` chunks after a gap at the next TSN."""
        for start in range(1, count + 1, 50):
            self.send([make(ahead) for ahead in range(start, min(start + 50, count + 1))])
        return self

    def hold_fragments(self, count: int) -> "SilentPeer":
        """Send first fragments of messages that are never completed."""
        return self.hold(count, lambda ahead: self.data(ahead, ending=0))

    def hold_messages(self, count: int) -> "SilentPeer":
        """Send messages that wait for a missing one."""
        return self.hold(count, self.data)

    def hold_ranges(self, count: int) -> "SilentPeer":
        """Send every second fragment."""
        return self.hold(count, lambda ahead: self.data(2 * ahead, ending=0))

    def leave_unacknowledged(self, count: int) -> "SilentPeer":
        """Make the server send `count` short messages, and acknowledge none of them."""
        network, server = self.peers.network, self.peers.server
        for _ in range(100):
            for _ in range(200):
                try:
                    server.send(self.channel, "y")
                except BufferFullError:
                    break
            server.handle_timeout(network.now)
            network.drain()
            last = last_data(network.right).tsn
            if last - self.acknowledged >= count:
                break
            if self.window_is_open:
                self.send([Sack(self.acknowledged, 1 << 20)])
            else:
                self.send([Sack(last, 1 << 20)])
                self.acknowledged = last
                self.rounds += 1
        return self

    rounds = 0
    _acknowledged: int | None = None

    @property
    def window_is_open(self) -> bool:
        """Whether cwnd is far larger than its initial value."""
        return self.rounds > 60

    @property
    def acknowledged(self) -> int:
        if self._acknowledged is None:
            self._acknowledged = last_data(self.peers.network.right).tsn
        return self._acknowledged

    @acknowledged.setter
    def acknowledged(self, tsn: int) -> None:
        self._acknowledged = tsn

    def reset_all(self, number: int) -> Reconfig:
        """Return a request to reset every stream, the `number`th."""
        sequence = self._first_reset + number & 0xFFFFFFFF
        return Reconfig((OutgoingResetRequest(sequence, 0, self.tsn(-1), ()).encode(),))

    @property
    def _first_reset(self) -> int:
        return self.init().initial_tsn

    def init(self, *parameters: Parameter) -> Init:
        """Return the INIT of the client once more, with other parameters."""
        sent = (chunk for datagram in self.peers.network.left.sent for chunk in SctpPacket.decode(datagram).chunks)
        init = next(chunk for chunk in sent if isinstance(chunk, Init))
        return msgspec.structs.replace(init, parameters=parameters)


FRESH: Callable[[], SilentPeer] = SilentPeer

PACKETS: dict[str, tuple[Callable[[], SilentPeer], Callable[[SilentPeer], list[Chunk]]]] = {
    "short messages": (FRESH, lambda p: [p.data(n) for n in range(FULL_OF_CHUNKS)]),
    "messages on no channel": (FRESH, lambda p: [p.data(n, stream=2 * n + 2, ssn=0) for n in range(FULL_OF_CHUNKS)]),
    "fragments of one message": (
        FRESH,
        lambda p: [p.data(n, ssn=1, beginning=n == 0, ending=0) for n in range(FULL_OF_CHUNKS)],
    ),
    "first fragments": (FRESH, lambda p: [p.data(n, ending=0) for n in range(FULL_OF_CHUNKS)]),
    "OPEN": (
        FRESH,
        lambda p: [
            p.data(n, Open("").encode(), stream=2 * n + 2, ssn=0, ppid=PayloadProtocol.DCEP)
            for n in range(FULL_OF_CHUNKS)
        ],
    ),
    "OPEN cut short": (
        FRESH,
        lambda p: [
            p.data(n, b"\x03", stream=2 * n + 2, ssn=0, ppid=PayloadProtocol.DCEP) for n in range(FULL_OF_CHUNKS)
        ],
    ),
    "INIT": (FRESH, lambda p: [p.init()] * 60),
    "INIT with many parameters": (FRESH, lambda p: [p.init(*[Parameter(0x8001, b"")] * 280)]),
    "COOKIE ECHO": (FRESH, lambda p: [CookieEcho(bytes(50))] * 60),
    "COOKIE ACK": (FRESH, lambda p: [CookieAck()] * 300),
    "HEARTBEAT": (FRESH, lambda p: [Heartbeat()] * 300),
    "HEARTBEAT ACK": (FRESH, lambda p: [HeartbeatAck()] * 300),
    "ERROR": (FRESH, lambda p: [Error((Parameter(1, b""),))] * 300),
    "ERROR with many causes": (FRESH, lambda p: [Error((Parameter(1, b""),) * 290)]),
    "ABORT with many causes": (FRESH, lambda p: [Abort((Parameter(1, b""),) * 290)]),
    "unknown chunks to be reported": (FRESH, lambda p: [Unknown(0xC1, 0, b"")] * 300),
    "SHUTDOWN": (FRESH, lambda p: [Shutdown(p.acknowledged)] * 150),
    "resets of all streams": (FRESH, lambda p: [p.reset_all(n) for n in range(FULL_OF_CHUNKS)]),
    "reset of all of many channels": (lambda: SilentPeer(120), lambda p: [p.reset_all(0)]),
    "FORWARD TSN with many streams": (FRESH, lambda p: [ForwardTsn(p.tsn(0), tuple((n, 5) for n in range(290)))]),
    "FORWARD TSN over fragments": (
        lambda: SilentPeer().hold_fragments(6900),
        lambda p: [ForwardTsn(p.tsn(n)) for n in range(137)],
    ),
    "FORWARD TSN over all fragments": (
        lambda: SilentPeer().hold_fragments(6900),
        lambda p: [ForwardTsn(p.tsn(8000))],
    ),
    "FORWARD TSN over a stream named often": (
        lambda: SilentPeer().hold_messages(2000),
        lambda p: [ForwardTsn(p.tsn(0), ((p.channel, 0),) * 290)],
    ),
    "FORWARD TSN that lets out messages": (
        lambda: SilentPeer().hold_messages(2000),
        lambda p: [ForwardTsn(p.tsn(0), ((p.channel, p.next_ssn),))],
    ),
    "DATA that lets out messages": (lambda: SilentPeer().hold_messages(2000), lambda p: [p.data(0)]),
    "duplicates over ranges": (
        lambda: SilentPeer().hold_ranges(255),
        lambda p: [p.data(2 * n, ending=0) for n in range(255 - FULL_OF_CHUNKS, 255)],
    ),
    "DATA between ranges": (
        lambda: SilentPeer().hold_ranges(255),
        lambda p: [p.data(2 * n + 1, ending=0) for n in range(1, FULL_OF_CHUNKS)],
    ),
    "SACK": (
        lambda: SilentPeer().leave_unacknowledged(4000),
        lambda p: [Sack(p.acknowledged, 1 << 20, ((2 + n, 2 + n), (60 + n, 4000))) for n in range(44)],
    ),
    "SACK with many gap blocks": (
        lambda: SilentPeer().leave_unacknowledged(4000),
        lambda p: [Sack(p.acknowledged, 1 << 20, tuple((2 * n, 2 * n) for n in range(1, 290)))],
    ),
    "SACK of everything": (
        lambda: SilentPeer().leave_unacknowledged(4000),
        lambda p: [Sack(last_data(p.peers.network.right).tsn, 1 << 20)],
    ),
}


@pytest.mark.parametrize("name", PACKETS)
def test_the_cost_of_a_packet_is_bounded(name: str) -> None:
    prepare, make = PACKETS[name]
    peer = prepare()
    work = peer.send(make(peer))
    print(name, work)
    assert work.calls <= MAX_CALLS
    assert work.lines <= MAX_LINES


@pytest.mark.parametrize("chunk", ["FORWARD TSN", "duplicate"])
def test_the_cost_of_a_chunk_does_not_grow_with_the_chunks_held(chunk: str) -> None:
    def cost(held: int) -> int:
        peer = SilentPeer().hold_ranges(held)
        chunks: list[Chunk] = [ForwardTsn(peer.tsn(-1))] if chunk == "FORWARD TSN" else [peer.data(held, ending=0)]
        return peer.send(chunks).lines

    small, large = cost(100), cost(200)
    assert large < 1.5 * small


def test_only_the_newest_of_several_sacks_in_a_packet_is_handled() -> None:
    """It supersedes the older ones. Handling each of them would cost as much again."""
    peer = SilentPeer().leave_unacknowledged(100)
    last, server = last_data(peer.peers.network.right).tsn, peer.peers.server
    older: list[Chunk] = [Sack(peer.acknowledged + n, 0) for n in range(20)]
    alone = SilentPeer().leave_unacknowledged(100).send([Sack(last, 1 << 20)])
    buffered, unexpected = server.buffered(peer.channel), server.association.counters.unexpected
    work = peer.send([*older, Sack(last, 1 << 20), *older])
    assert server.buffered(peer.channel) <= buffered - 100
    assert server.association.counters.unexpected == unexpected + 40
    assert work.lines < alone.lines + 40 * 50


def test_messages_completed_by_one_packet_are_delivered_in_order_at_once() -> None:
    """DATA fills a gap. The messages after it are delivered by several calls at the same time."""
    peer = SilentPeer().hold_messages(500)
    network = peer.peers.network
    peer.send([peer.data(0, b"first")])
    now = network.now
    network.run(lambda: len(network.right.events) > 500, limit=now)
    received = [event.data for event in network.right.events if hasattr(event, "data")]
    assert received == ["first"] + ["x"] * 500
    assert network.now == now


def test_chunks_after_the_64th_are_dropped() -> None:
    peer = SilentPeer()
    network = peer.peers.network
    datagram = forge(network.left, *[HeartbeatAck()] * 63, peer.data(0, b"taken"), peer.data(1, b"lost"))
    peer.peers.server.receive_datagram(datagram, network.left.path, network.now)
    network.drain()
    assert [event.data for event in network.right.events if hasattr(event, "data")] == ["taken"]
    peer.send([peer.data(1, b"again")])
    assert [event.data for event in network.right.events if hasattr(event, "data")] == ["taken", "again"]


def test_chunks_that_must_be_alone_in_a_packet_are_not_answered() -> None:
    """INIT after another chunk (RFC 9260 §6.10): one packet would be answered with sixty INIT ACKs."""
    peer = SilentPeer()
    network = peer.peers.network
    before = len(network.right.sent)
    peer.send([HeartbeatAck(), *[peer.init()] * 50])
    peer.send([HeartbeatAck(), CookieEcho(bytes(50))])
    assert not any("InitAck" in chunks_of(datagram) for datagram in network.right.sent[before:])
    assert peer.peers.established


def test_labels_of_the_peers_channels_are_not_kept() -> None:
    """The maximum number of channels, each with a label of 4 KiB, which takes four times as much memory."""
    peers = make_sctp_peers().establish()
    tracemalloc.start()
    try:
        for number in range(100):
            peers.client.association.send(2 * number, PayloadProtocol.DCEP, Open("\U0001f399" + "x" * 4000).encode())
            peers.run(0.1)
            peers.network.left.events.clear()
            peers.network.right.events.clear()
            peers.network.left.sent.clear()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peers.server.counters.refused == 0
    assert held < 500_000
