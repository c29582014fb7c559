"""Transfer of user data over an association: DATA, SACK, FORWARD TSN and stream resets."""

from collections import deque
from collections.abc import Callable, Collection, Mapping
from typing import Any

from antiphon_transceiver.sctp import chunks
from antiphon_transceiver.sctp.chunks import Chunk
from antiphon_transceiver.sctp.congestion import CongestionControl
from antiphon_transceiver.sctp.cookie import PeerParameters
from antiphon_transceiver.sctp.counters import AssociationCounters
from antiphon_transceiver.sctp.data_receiver import DataReceiver
from antiphon_transceiver.sctp.data_sender import DataSender
from antiphon_transceiver.sctp.events import AssociationEvent, StreamsReset
from antiphon_transceiver.sctp.packet_queue import PacketQueue
from antiphon_transceiver.sctp.resets import StreamResets
from antiphon_transceiver.sctp.rto import RetransmissionTimeout


class DataTransfer:
    """Both directions of an association's data (RFC 9260 §6, RFC 3758) and the resets of its streams (RFC 6525).

    `begin` it when the peer's parameters are known, and pass it the chunks that it handles. Messages and resets go to
    `events`, RE-CONFIG chunks to `packets`. `sender` returns the DATA chunks to send, `receiver` the SACKs.
    """

    def __init__(
        self,
        initial_tsn: int,
        congestion: CongestionControl,
        rto: RetransmissionTimeout,
        packets: PacketQueue,
        events: deque[AssociationEvent],
        counters: AssociationCounters,
    ) -> None:
        self.sender = DataSender(initial_tsn, congestion, rto)
        self.receiver = DataReceiver()
        self._resets = StreamResets(initial_tsn, rto)
        self._packets = packets
        self._events = events
        self._counters = counters

    @property
    def unanswered(self) -> int:
        """Retransmissions in a row without an answer, of data or of a reset request."""
        return max(self.sender.unanswered, self._resets.unanswered)

    @property
    def deadline(self) -> float:
        """When `handle_timeout` is due; infinity if never."""
        return min(self.sender.deadline, self.receiver.tsns.deadline, self._resets.deadline)

    def begin(self, peer: PeerParameters) -> None:
        """Begin with the parameters of the peer's INIT or INIT ACK."""
        self.sender.peer_rwnd = peer.a_rwnd
        self.sender.forward_tsn_supported = peer.forward_tsn
        self.receiver.begin(peer.initial_tsn)
        self._resets.begin(peer.initial_tsn, supported=peer.reconfig)

    def handle_timeout(self, now: float) -> None:
        """Retransmit data and reset requests that are overdue, and let a delayed SACK be due."""
        self.sender.handle_timeout(now)
        self.receiver.tsns.handle_timeout(now)
        repeated = self._resets.handle_timeout(now)
        if repeated is not None:
            self._packets.queue(chunks.Reconfig((repeated,)))

    # Received chunks.

    def receive(self, chunk: Chunk, now: float) -> None:
        """Handle a chunk of a type in `HANDLERS`.

        Raises:
            RemoteProtocolError: The peer broke the protocol.
            DecodeError: A parameter of RE-CONFIG is malformed.
        """
        HANDLERS[chunk.type](self, chunk, now)

    def _receive_data(self, data: chunks.Data, now: float) -> None:
        self._events.extend(self.receiver.receive(data))

    def _receive_forward_tsn(self, forward: chunks.ForwardTsn, now: float) -> None:
        self._events.extend(self.receiver.skip(forward))

    def _receive_sack(self, sack: chunks.Sack, now: float) -> None:
        if not self.sender.receive_sack(sack, now):
            self._counters.unexpected += 1

    def _receive_reconfig(self, reconfig: chunks.Reconfig, now: float) -> None:
        received, streams = self.receiver.tsns.cumulative, self.receiver.reassembler.streams
        answers = tuple(
            answer
            for parameter in reconfig.parameters[:2]  # RFC 6525 §3.1: no more than two
            if (answer := self._resets.receive(parameter, received, streams, now))
        )
        if answers:
            self._packets.queue(chunks.Reconfig(answers))
        self._report_resets()

    # Stream resets.

    def reset_streams(self, streams: Collection[int]) -> None:
        """Reset outgoing streams, once all data sent on them is acknowledged (RFC 6525 §5.1.2)."""
        self._resets.add(streams)

    def request_resets(self, now: float) -> None:
        """Queue the next reset request, if one is due."""
        request = self._resets.request(self.sender.busy_streams, self.sender.cumulative_tsn, now)
        if request is not None:
            self._packets.queue(chunks.Reconfig((request,)))
        self._report_resets()

    def _report_resets(self) -> None:
        outgoing, incoming = tuple(self._resets.outgoing), tuple(self._resets.incoming)
        if not outgoing and not incoming:
            return
        self._resets.outgoing.clear()
        self._resets.incoming.clear()
        for stream in outgoing:
            self.sender.reset_stream(stream)
        self.receiver.reassembler.reset_streams(incoming)
        self._events.append(StreamsReset(outgoing, incoming))


HANDLERS: Mapping[int, Callable[[DataTransfer, Any, float], None]] = {
    chunks.Data.type: DataTransfer._receive_data,
    chunks.Sack.type: DataTransfer._receive_sack,
    chunks.Reconfig.type: DataTransfer._receive_reconfig,
    chunks.ForwardTsn.type: DataTransfer._receive_forward_tsn,
}
"""By type, the handler of each chunk that carries or acknowledges data."""
