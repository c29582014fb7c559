"""An association with data channels, in states that an authenticated caller can cause.

Inputs are the chunks of one packet. The chunks that prepare a state come from a real association, or are made alike.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from random import Random
from typing import Any

from antiphon_common.control import SctpParameters
from antiphon_common.errors import LocalProtocolError
from antiphon_transceiver.channels import CallChannels
from antiphon_transceiver.sctp import DataChannelEndpoint
from antiphon_transceiver.sctp.checksum import checksum
from antiphon_transceiver.sctp.chunks import (
    Data,
    ForwardTsn,
    Heartbeat,
    Reconfig,
    Sack,
    Shutdown,
    Unknown,
)
from antiphon_transceiver.sctp.data_sender import MAX_OUTSTANDING
from antiphon_transceiver.sctp.dcep import ACK, Open, PayloadProtocol
from antiphon_transceiver.sctp.endpoint import MAX_CHANNELS
from antiphon_transceiver.sctp.parameters import OutgoingResetRequest
from antiphon_transceiver.sctp.reassembly import MAX_HELD, MAX_PARTIAL
from antiphon_transceiver.sctp.received_tsns import MAX_AHEAD, MAX_RANGES
from cost.drive import drain
from cost.grammars import Messages, SctpChunks
from cost.search import Ready
from support.sim.memory_network import MemoryNetwork

LABEL = "oai-events"
"""Of a channel for events."""

ROOM = 1100
"""Bytes of chunks in one packet."""

MANY = 4090
"""Messages of ours that wait: nearly as many as are taken at once."""


class HostilePeer:
    """The peer of a core with data channels. It reads the next TSNs and SSNs from the core, and keeps no state."""

    def __init__(self, core: Any, now: float, *, tag: int | None = None) -> None:
        self.core = core
        self.now = now
        self.endpoint: DataChannelEndpoint = getattr(core, "endpoint", core)
        self.association = self.endpoint.association
        tag = self.association.tag if tag is None else tag
        self._header = b"\x13\x88\x13\x88" + tag.to_bytes(4, "big")
        self.tsn = self.association.receiver.tsns.cumulative & 0xFFFFFFFF
        """The last TSN received by the core."""
        self.ssn = 2
        """The next of stream 0, after the channel was opened and one event was sent."""

    @property
    def sent_tsn(self) -> int:
        """The last TSN that the peer acknowledged of ours."""
        return int(self.association.sender.cumulative_tsn & 0xFFFFFFFF)

    @property
    def ranges(self) -> int:
        """The number of TSN ranges after gaps."""
        return len(self.association.receiver.tsns.sack(0, 1 << 16).gaps)

    @property
    def held(self) -> int:
        """The number of chunks held for reassembly or for order."""
        return int(self.association.receiver.reassembler.chunks)

    def at(self, offset: int) -> int:
        """Return the TSN `offset` after the last received."""
        return int(self.tsn + offset) & 0xFFFFFFFF

    def packet(self, chunks: bytes) -> bytes:
        """Return a packet with these chunks."""
        return self._header + checksum(self._header + bytes(4) + chunks) + chunks

    def receive(self, chunks: bytes) -> None:
        """Pass one packet with these chunks to the core, and drain it."""
        self.core.receive_datagram(self.packet(chunks), None, self.now)
        drain(self.core, self.now)

    def receive_all(self, chunks: Iterable[Any]) -> None:
        """Pass chunks to the core in as few packets as possible."""
        for packet in packed(chunk.encode() for chunk in chunks):
            self.receive(packet)

    def data(self, offset: int, **fields: Any) -> Data:
        """Return a DATA chunk with the TSN `offset` after the last received."""
        values: dict[str, Any] = {
            "stream": 0,
            "ssn": self.ssn,
            "ppid": PayloadProtocol.STRING,
            "payload": b"{}",
        } | fields
        return Data(self.at(offset), **values)

    def ready(self, *seeds: Any) -> Ready:
        numbers = (self.tsn, self.sent_tsn, self.tsn + 8192, self.association.sender.next_tsn & 0xFFFFFFFF)
        return Ready(self.receive, [encode(seed) for seed in (*seeds, *usual(self))], SctpChunks(), numbers=numbers)


def connected(core: Any | None = None, *, established: bool = True) -> HostilePeer:
    """Return the peer of a core, with a channel for events open or during set-up."""
    core = core or CallChannels(SctpParameters(5000, 0), False, Random(2).randbytes)
    before = DataChannelEndpoint(True, Random(1).randbytes)
    network = MemoryNetwork[Any, Any](before, core)
    before.start(0.0)
    core.start(0.0, None)
    if not established:
        network.drain()
        return HostilePeer(core, network.now, tag=0)
    channel = before.open_channel(LABEL)
    network.run(lambda: before.established, limit=1.0)
    before.send(channel, "{}")
    network.run(limit=network.now + 1.0)
    return HostilePeer(core, network.now)


def packed(chunks: Iterable[bytes]) -> Iterator[bytes]:
    packet = b""
    for chunk in chunks:
        if packet and len(packet) + len(chunk) > ROOM:
            yield packet
            packet = b""
        packet += chunk
    if packet:
        yield packet


def encode(seed: Any) -> bytes:
    """Return chunks of one packet, as many as fit."""
    chunks = seed if isinstance(seed, list | tuple) else [seed]
    return next(packed(chunk if isinstance(chunk, bytes) else chunk.encode() for chunk in chunks), b"")


def usual(peer: HostilePeer) -> Sequence[Any]:
    """Return packets that are valid in any state, each with many chunks or fields of one kind."""
    sent, tsn = peer.sent_tsn, peer.tsn
    gaps = tuple((2 * number + 2, 2 * number + 2) for number in range(250))
    resets = OutgoingResetRequest(peer.at(1), 0, tsn, tuple(range(128)))
    return (
        peer.data(1),
        [peer.data(offset, ssn=peer.ssn + offset - 1) for offset in range(1, 60)],
        [peer.data(offset) for offset in range(2, 100, 2)],
        [peer.data(offset, beginning=False, ending=False) for offset in range(1, 60)],
        [
            peer.data(offset, stream=offset, payload=Open("a", "", True, None, None).encode(), ppid=50)
            for offset in range(1, 40)
        ],
        Sack(sent, 1 << 30, gaps),
        Sack(sent, 1 << 30, ((1, 60000),)),
        [Sack(sent, 1 << 30, ((2, 3), (5, 9)))] * 40,
        [Sack((sent + turn) & 0xFFFFFFFF, 1 << 30) for turn in range(60)],
        Sack(sent, 1 << 30, (), tuple(range(250))),
        ForwardTsn(peer.at(1), tuple((stream, 5) for stream in range(250))),
        [ForwardTsn(peer.at(turn)) for turn in range(1, 140)],
        Reconfig((resets.encode(),)),
        [Reconfig((OutgoingResetRequest(peer.at(turn), 0, tsn, (turn,)).encode(),)) for turn in range(1, 40)],
        [Heartbeat(b"\0\1\0\x08abcd")] * 60,
        [Unknown(0xFF, 0, b"")] * 200,
        Shutdown(sent),
        b"\x06\x00\x00\x04",
    )


def established() -> Ready:
    return connected().ready()


def setting_up() -> Ready:
    return connected(established=False).ready()


def holes_held() -> Ready:
    """A gap after every second TSN, as many as are kept."""
    peer = connected()
    peer.receive_all(peer.data(2 * number, ssn=1 + number) for number in range(1, MAX_RANGES + 1))
    assert peer.ranges == MAX_RANGES
    duplicates = [peer.data(2 * number) for number in range(MAX_RANGES - 56, MAX_RANGES + 1)]
    return peer.ready(duplicates, [peer.data(2 * number + 1) for number in range(100)], peer.data(1))


def fragments_held() -> Ready:
    """Middle fragments of nearly as many messages as may be held, the last of them after a gap."""
    peer = connected()
    parts = {"beginning": False, "ending": False, "payload": b"x"}
    most = MAX_PARTIAL - 60
    peer.receive_all(peer.data(offset, ssn=offset, **parts) for offset in range(1, most + 2) if offset != most - 100)
    assert peer.held == most
    peer.tsn = peer.at(most - 101)
    forwards = [ForwardTsn(peer.at(turn)) for turn in range(1, 140)]
    return peer.ready(
        forwards,
        ForwardTsn(peer.at(101)),
        ForwardTsn(peer.at(102)),
        ForwardTsn(peer.at(MAX_AHEAD)),
        [peer.data(offset, ssn=offset, **parts) for offset in range(103, 163)],
        [peer.data(offset, ssn=offset, **parts) for offset in range(104, 204, 2)],
    )


def fragments_of_one_message() -> Ready:
    """Every second fragment of a message, as many as there may be gaps."""
    peer = connected()
    parts = {"beginning": False, "ending": False, "payload": b"x"}
    peer.receive_all(peer.data(offset, **parts) for offset in range(2, MAX_AHEAD + 1, 2))
    assert peer.ranges == peer.held == MAX_RANGES
    return peer.ready([peer.data(offset, **parts) for offset in range(3, 100, 2)], peer.data(1, ending=False))


def messages_waiting() -> Ready:
    """Messages of one stream whose first is missing."""
    peer = connected()
    peer.receive_all(peer.data(offset, ssn=peer.ssn + offset - 1) for offset in range(2, MAX_AHEAD + 1))
    assert peer.held == MAX_AHEAD - 1
    first = peer.data(1)
    return peer.ready(first, ForwardTsn(peer.at(1), ((0, peer.ssn),)), ForwardTsn(peer.at(MAX_AHEAD)))


def messages_waiting_in_streams() -> Ready:
    """The same in a thousand streams, where the first message of each is missing."""
    peer = connected()
    peer.receive_all(
        peer.data(offset, ssn=1 + offset // 1000, stream=1 + offset % 1000) for offset in range(1, MAX_HELD - 20)
    )
    assert peer.held == MAX_HELD - 21
    peer.tsn = peer.at(MAX_HELD - 21)
    forward = ForwardTsn(peer.at(1), tuple((stream, 30) for stream in range(250)))
    return peer.ready(forward, [peer.data(stream, ssn=0, stream=stream) for stream in range(1, 50)])


def outstanding() -> Ready:
    """As many small chunks in flight as possible, and cwnd to match."""
    return _outstanding().ready(*_sacks_of_everything())


def outstanding_and_abandoned() -> Ready:
    """The same on a channel without retransmissions, so that each loss abandons a message."""
    peer = _outstanding(max_retransmits=0)
    return peer.ready(*_sacks_of_everything(), Sack(peer.sent_tsn, 1 << 30, ((MAX_OUTSTANDING, MAX_OUTSTANDING),)))


def outstanding_and_lost() -> Ready:
    """The same after a timeout: all chunks are to be retransmitted."""
    peer = _outstanding()
    peer.now = peer.association.poll_timeout()
    peer.core.handle_timeout(peer.now)
    drain(peer.core, peer.now)
    return peer.ready(*_sacks_of_everything())


def _sacks_of_everything() -> list[Any]:
    peer_tsn = connected().sent_tsn
    most = MAX_OUTSTANDING
    gaps = tuple((2 * number + 2, 2 * number + 2) for number in range(most // 2))
    return [
        [Sack(peer_tsn, 1 << 30, ((2 + turn % 2, 3), (most, most))) for turn in range(44)],
        [Sack(peer_tsn, 1 << 30, gaps[:n]) for n in (60, 59, 58, 57)],
        Sack(peer_tsn, 1 << 30, gaps),
        Sack((peer_tsn + most) & 0xFFFFFFFF, 1 << 30),
        [Sack(peer_tsn, 1 << 30, ((2, most),)), Sack(peer_tsn, 1 << 30)] * 20,
    ]


def _outstanding(max_retransmits: int | None = None) -> HostilePeer:
    peer = connected(DataChannelEndpoint(False, Random(2).randbytes))
    endpoint = peer.endpoint
    channel = endpoint.open_channel("many", max_retransmits=max_retransmits)

    def acknowledge() -> None:
        peer.receive_all([Sack((peer.association.sender.next_tsn - 1) & 0xFFFFFFFF, 1 << 30)])

    for _ in range(120):  # until cwnd has room for all
        for _ in range(10):
            endpoint.send(channel, "x" * 1000)
        drain(endpoint, peer.now)
        acknowledge()
    while not peer.association.sender.idle:
        acknowledge()
    sent = 0
    while sent < MANY:
        try:
            endpoint.send(channel, "x")
            sent += 1
        except LocalProtocolError:
            break
        if not sent % 64:
            drain(endpoint, peer.now)
    for _ in range(200):  # each allows a burst
        peer.receive_all([Heartbeat(b"")])
    waiting = peer.association.sender
    assert waiting.buffered(channel) - waiting.messages == MAX_OUTSTANDING, "messages of one byte, each in its chunk"
    return peer


def _full() -> HostilePeer:
    peer = connected()
    opened = Open(LABEL, "", True, None, None).encode()
    peer.receive_all(
        peer.data(number, stream=2 * number, ssn=0, ppid=PayloadProtocol.DCEP, payload=opened)
        for number in range(1, 140)
    )
    peer.tsn = peer.at(139)
    assert len(peer.association.receiver.reassembler.streams) >= MAX_CHANNELS
    return peer


def channels_full() -> Ready:
    """As many channels as there may be, all with events on them."""
    peer = _full()
    resets = OutgoingResetRequest(peer.at(1), 0, peer.tsn, ())
    return peer.ready(Reconfig((resets.encode(),)), [peer.data(n, stream=2 * n, ssn=1) for n in range(1, 50)])


def closing() -> Ready:
    """All data sent, and a shutdown begun."""
    peer = connected()
    peer.endpoint.close(peer.now)
    drain(peer.core, peer.now)
    return peer.ready()


def _dcep(peer: HostilePeer) -> Ready:
    """Messages of DCEP (RFC 8832), each with its stream before it: a number, or 0 for the next one that is free."""
    grammar = Messages()

    def wrap(data: bytes) -> bytes:
        chunks = []
        for offset, one in enumerate(grammar.split(data), 1):
            stream = 2 * one[0] or 2 * (300 + offset)
            chunks.append(peer.data(offset, stream=stream, ssn=0, ppid=PayloadProtocol.DCEP, payload=one[3:] or b"\0"))
        return b"".join(chunk.encode() for chunk in chunks)

    opened = [
        Open(LABEL, "", True, None, None),
        Open("", "", True, None, None),
        Open("a", "b", False, 5, None),
        Open("\ud7ff" * 300, "", True, None, 500),
        Open("a" * 400, "b" * 400, True, None, None),
    ]
    messages = [one.encode() for one in opened] + [
        ACK,
        b"\3",
        b"\xff" * 12,
        b"\3" + bytes(7) + b"\1\x90\1\x90" + b"\xff" * 800,
    ]
    once = [bytes((number,)) + len(one).to_bytes(2, "big") + one for one in messages for number in (0, 1)]
    seeds = [*once, *(one * max(1, ROOM // (len(one) + 16)) for one in once)]
    return Ready(peer.receive, seeds, grammar, ROOM, wrap=wrap)


def dcep() -> Ready:
    return _dcep(connected())


def dcep_and_channels_full() -> Ready:
    return _dcep(_full())


STATES: dict[str, Callable[[], Ready]] = {
    one.__name__.replace("_", " "): one
    for one in (
        setting_up,
        established,
        holes_held,
        fragments_held,
        fragments_of_one_message,
        messages_waiting,
        messages_waiting_in_streams,
        outstanding,
        outstanding_and_abandoned,
        outstanding_and_lost,
        channels_full,
        dcep,
        dcep_and_channels_full,
        closing,
    )
}
