"""Bounds of the cost of one input: a base and a price per byte, in units of `cost.work`; for long inputs also memory.

The transceiver itself charges the datagrams of a call with a price in microseconds (`antiphon_transceiver.budget`), the
most that they may take. Those prices are the bounds of whole calls. The bounds of single cores show where the work is.

`UNITS_PER_MICROSECOND` was measured once, on the machine of docs/reference/figures.md: 100 for code full of calls, 200
for plain loops. Nothing here depends on time, and nothing is compared with it.
"""

from typing import ClassVar, NamedTuple, Protocol

from antiphon_common.demux import Protocol as Kind
from antiphon_transceiver.budget import PRICES, price_of

UNITS_PER_MICROSECOND = 150

RECORD_OVERHEAD, RTP_OVERHEAD, RTCP_OVERHEAD, STUN_OVERHEAD = 37 + 12, 16, 20, 32
"""Bytes that protection adds: a DTLS record and the header of SCTP, tags of SRTP, the integrity of a check."""


class Bound(Protocol):
    """The bound of an input, by its length and kind."""

    def units(self, data: bytes) -> float: ...

    def memory(self, data: bytes) -> float: ...


class Linear(NamedTuple):
    """Units, and bytes of memory where those are bounded."""

    base: int
    per_byte: float
    memory_base: int = 0
    memory_per_byte: float = 0.0

    def units(self, data: bytes) -> float:
        return self.base + self.per_byte * len(data)

    def memory(self, data: bytes) -> float:
        return self.memory_base + self.memory_per_byte * len(data)


class Budgeted:
    """The price of a datagram of which the input is the content, behind a letter (`cost.call_states`)."""

    KINDS: ClassVar = {
        b"S": (Kind.STUN, STUN_OVERHEAD),
        b"T": (Kind.RTP, RTP_OVERHEAD),
        b"C": (Kind.RTCP, RTCP_OVERHEAD),
        b"D": (Kind.DTLS, RECORD_OVERHEAD),
    }

    def units(self, data: bytes) -> float:
        if data[:1] not in self.KINDS:  # sent as it is
            return UNITS_PER_MICROSECOND * price_of(data)
        kind, overhead = self.KINDS[data[:1]]
        price = PRICES[kind]
        return UNITS_PER_MICROSECOND * (price.base + price.per_byte * (len(data) - 1 + overhead))

    def memory(self, data: bytes) -> float:
        raise NotImplementedError("memory of datagrams is not bounded here")


BOUNDS: dict[str, Bound] = {
    # Decoders without a state, which see each byte a few times: decoded, encoded, decoded again.
    "decoder": Linear(5_000, 20),
    # The same, where 24 bytes may report on 1,023 packets once, and each 4 bytes of a NACK on 17.
    "decoder of RTCP": Linear(27_000, 70),
    # libopus decodes three packets and conceals three times, and G.711 is resampled, a byte for each sample.
    "decoder of audio": Linear(110_000, 70),
    # SDP is read line by line, written, and read again.
    "description": Linear(30_000, 20, 1 << 20, 40),
    # JSON: brackets and commas are counted before any object is built.
    "object": Linear(20_000, 0.5, 800 << 10, 16),
    # A message of a backend has up to a mebibyte. It is processed in steps, and other calls run after each: no
    # step reads more than 16,384 elements of MessagePack, which take 3 ms.
    "backend": Linear(400_000, 0.2, 1 << 20, 4),
    # One STUN datagram of an unauthenticated sender: the relay reads it, the agent hashes it.
    "ice": Linear(3_000, 4),
    # An unauthenticated datagram is looked up. An unknown flow waits for Redis, or is dropped.
    "relay, public side": Linear(1_500, 2),
    "relay, flow cache full": Linear(1_500, 2),
    # A message of an owner may name a path in each 20 bytes.
    "relay, link": Linear(10_000, 45),
    # An answer of Redis has 27 bytes for each of 512 paths, and lets go the four packets that wait for each.
    "relay, answers of the flow cache": Linear(100_000, 45),
    # Handshakes hash, sign and verify: one datagram may bring a whole flight.
    "dtls": Linear(35_000, 30),
    # An authenticated caller's packets. Each of at most 64 chunks inside has a price of its own, the smallest has 4
    # bytes. A SACK of 20 bytes may name everything that is in flight, a FORWARD TSN drop everything that is held.
    "sctp": Linear(45_000, 30),
    # Each SACK may let packets leave, where chunks are in flight or lost.
    "sctp, outstanding": Linear(70_000, 40),
    "sctp, outstanding and abandoned": Linear(70_000, 40),
    "sctp, outstanding and lost": Linear(70_000, 40),
    # A channel in each chunk; headers of chunks are not among the bytes.
    "sctp, dcep": Linear(75_000, 10),
    "sctp, dcep and channels full": Linear(75_000, 10),
    "rtcp": Linear(30_000, 20),
    # One packet releases audio that waited for it, each packet of which is decoded, and may end a concealment.
    "rtp": Linear(110_000, 20),
    # Of G.711 the longest concealment has 40 pieces of 2.5 ms. Each is resampled, and all are encoded again.
    "rtp, pcmu for opus, jitter buffer full": Linear(270_000, 20),
    "rtp, pcmu for pcm16/24000, jitter buffer full": Linear(170_000, 20),
    "call": Budgeted(),
    # A datagram of the link, from the relay to the end of what it does to a call.
    "transceiver": Linear(4_500, 4),
    # An entry of the registry is hashed and decoded, whoever wrote it.
    "registry": Linear(2_000, 0.3),
    # What one read finds: 16 KiB of empty headers cost h11 about 40 units a byte. After 32 pieces of a body other tasks
    # get their turn.
    "http": Linear(60_000, 60),
    # A whole connection where each byte comes alone, so that h11 looks for the end of a head or a line each time.
    "http, requests, trickled": Linear(50_000, 700),
    # A form, or a message with an offer in it, has the price of its SDP.
    "http, offers": Linear(80_000, 3),
    "http, forms": Linear(80_000, 3),
    "websocket, of a caller, message": Linear(80_000, 3),
    # Other tasks get their turn after 32 frames, or after each read.
    "websocket": Linear(40_000, 0.1),
    # A head of 8 KiB, parsed by h11 and wsproto.
    "websocket, of a backend, handshake": Linear(20_000, 50),
    # A read of 1 KiB holds 170 empty frames with masks.
    "websocket, of a caller, frames": Linear(150_000, 0.2),
}
"""Bounds by target, or by target and state. `cost.targets` has the kind of each decoder."""
