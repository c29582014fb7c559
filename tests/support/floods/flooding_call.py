"""A real call whose caller sends any content under the call's own DTLS and SRTP keys."""

from collections.abc import Callable, Iterable, Iterator
from math import inf
from typing import Any

from antiphon.client.call import ClientCall
from antiphon_common.core import Path, Transmit
from antiphon_common.demux import Protocol, classify
from antiphon_common.rtp_extensions import TRANSPORT_SEQUENCE
from antiphon_transceiver import dtls
from antiphon_transceiver.dtls.record import ContentType
from antiphon_transceiver.peer_transport import TransportState
from antiphon_transceiver.rtp import RtpOptions, decode_rtp
from antiphon_transceiver.rtp.fields import FieldReader
from antiphon_transceiver.sctp import DataChannelEvent
from antiphon_transceiver.sctp.chunks import Chunk, Data
from antiphon_transceiver.sctp.dcep import PayloadProtocol
from antiphon_transceiver.sctp.packet import HEADER_SIZE, SctpPacket, encode_packet

OPTIONS = RtpOptions({TRANSPORT_SEQUENCE: 4}, feedback=("nack", "transport-cc"), reduced_size=True)
PACKET_SIZE = 1140
"""Bytes of the longest SCTP packet: a datagram of 1,200 with the record around it."""


class FloodingCall(ClientCall):
    """A caller that can protect any content. After `take_over` it sends only the SCTP packets of `sctp`."""

    def __init__(
        self, certificate: dtls.Certificate, random: Callable[[int], bytes], now: float, **options: Any
    ) -> None:
        super().__init__(certificate, random, now, **{"options": OPTIONS, **options})
        self.next_tsn = self.next_ssn = 0
        """TSN and SSN of our next DATA chunk. The SSN is that of `events_channel`."""
        self.acknowledged = self.newest_tsn = 0
        """TSNs of the server: the last one that we acknowledged, and the newest received."""
        self.server_sequence = self.transport_base = 0
        """The sequence number of the server's newest RTP packet, and its transport-wide sequence number."""
        self._reader = FieldReader(OPTIONS.extensions[TRANSPORT_SEQUENCE], 2)
        self._tag = 0

    @property
    def server_ssrc(self) -> int:
        """The SSRC of the server's audio, 0 before its first packet."""
        return next(iter(self.receiver.sources), 0)

    def rtcp(self, compound: bytes) -> bytes:
        """Return a compound as SRTCP."""
        assert self.transport is not None
        assert self.transport.srtp is not None
        return self.transport.srtp.protect_rtcp(compound)

    def record(self, content_type: ContentType, content: bytes) -> bytes:
        """Return one protected record."""
        assert self.transport is not None
        return self.transport.dtls.records.encode(content_type, 1, content)

    def sctp(self, chunks: Iterable[bytes]) -> bytes:
        """Return a packet with these encoded chunks, in a record."""
        return self.record(ContentType.APPLICATION_DATA, encode_packet(5000, 5000, self._tag, list(chunks)))

    def sctp_packets(self, chunks: Iterable[Chunk]) -> Iterator[bytes]:
        """Yield the chunks in as few packets as possible."""
        packet: list[bytes] = []
        room = PACKET_SIZE - HEADER_SIZE
        for chunk in chunks:
            encoded = chunk.encode()
            if len(encoded) > room:
                yield self.sctp(packet)
                packet, room = [], PACKET_SIZE - HEADER_SIZE
            packet.append(encoded)
            room -= len(encoded)
        yield self.sctp(packet)

    def data(self, ahead: int, payload: bytes = b"{}", **fields: Any) -> Data:
        """Return the DATA chunk `ahead` TSNs after the next one, on the events channel unless `fields` differ."""
        values = {"stream": self.events_channel, "ssn": self.next_ssn, "ppid": int(PayloadProtocol.STRING)} | fields
        return Data(self.next_tsn + ahead & 0xFFFFFFFF, payload=payload, **values)

    def take_over(self) -> None:
        """Replace the client's SCTP and continue at its present TSNs."""
        assert self.transport is not None
        assert self.channels is not None
        association = self.channels.association
        assert association.peer_tag is not None
        self._tag = association.peer_tag
        self.next_tsn = association.sender.next_tsn & 0xFFFFFFFF
        self.next_ssn = 1  # behind the OPEN of the channel
        self.acknowledged = self.newest_tsn = association.receiver.tsns.cumulative & 0xFFFFFFFF
        self.transport.channels = MuteChannels(self)

    def receive_datagram(self, data: bytes, source: Path, now: float) -> None:
        super().receive_datagram(data, source, now)
        if classify(data) == Protocol.RTP:
            packet = decode_rtp(data)  # SRTP encrypts neither the header nor its extension
            self.server_sequence = packet.sequence
            if packet.extension_profile is not None:
                number = self._reader.read(packet.extension_profile, packet.extension_data)
                self.transport_base = self.transport_base if number is None else number

    def send(self, datagram: bytes) -> None:
        """Queue a datagram to the server."""
        assert self.transport is not None
        self.transport.send_protected(datagram)

    def note_data(self, packet: bytes) -> None:
        """Note the newest TSN of a packet of the server."""
        for chunk in SctpPacket.decode(packet).chunks:
            if isinstance(chunk, Data) and (chunk.tsn - self.newest_tsn & 0xFFFFFFFF) < 1 << 31:
                self.newest_tsn = chunk.tsn


class MuteChannels:
    """Takes the place of a call's SCTP: it notes what the server sends, and answers nothing."""

    def __init__(self, call: FloodingCall) -> None:
        self._call = call

    def start(self, now: float, round_trip: float | None) -> None:
        pass

    def abort(self, now: float) -> None:
        pass

    def receive_datagram(self, data: bytes, source: Path | None, now: float) -> None:
        self._call.note_data(data)

    def handle_timeout(self, now: float) -> None:
        pass

    def poll_transmit(self) -> Transmit | None:
        return None

    def poll_event(self) -> DataChannelEvent | None:
        return None

    def poll_timeout(self) -> float:
        return inf


class HalfOpenCall(FloodingCall):
    """A caller that sends its ClientHello and nothing more of the handshake. Its ICE agent continues."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, setup="active", **options)

    @property
    def checked(self) -> bool:
        """Whether ICE is connected and the ClientHello sent."""
        return self.transport is not None and self.transport.state is not TransportState.NEW

    def receive_datagram(self, data: bytes, source: Path, now: float) -> None:
        if classify(data) == Protocol.STUN:
            super().receive_datagram(data, source, now)

    def handle_timeout(self, now: float) -> None:
        if self.transport is not None:
            self.agent.handle_timeout(now)
            self.transport.flush(now)

    def poll_timeout(self) -> float:
        return self.agent.poll_timeout()
