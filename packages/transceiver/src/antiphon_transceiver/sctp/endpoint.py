"""Data channels over one association as a protocol core (RFC 8831, RFC 8832)."""

from collections import deque
from collections.abc import Callable, Collection, Container

from antiphon_common.core import Path, Transmit
from antiphon_common.errors import DecodeError, LocalProtocolError
from antiphon_transceiver.sctp import dcep
from antiphon_transceiver.sctp.association import PORT, Association
from antiphon_transceiver.sctp.channel import ChannelState, DataChannel, DataChannelCounters
from antiphon_transceiver.sctp.dcep import Open, PayloadProtocol, decode_message, encode_message
from antiphon_transceiver.sctp.early_messages import EarlyMessages
from antiphon_transceiver.sctp.events import (
    AssociationClosed,
    AssociationEvent,
    BufferedAmountLow,
    ChannelClosed,
    ChannelOpened,
    DataChannelEvent,
    Established,
    MessageReceived,
    StreamsReset,
)
from antiphon_transceiver.sctp.reassembly import MAX_MESSAGE_SIZE, StreamMessage
from antiphon_transceiver.sctp.states import AssociationState

DTLS_OVERHEAD = 13 + 8 + 16
"""Bytes a DTLS 1.2 record with AES-GCM adds to an SCTP packet; other suites and DTLS 1.3 add less."""

DEFAULT_MTU = 1200 - 48
"""Bytes of a UDP payload on a path of 1200 bytes, with the headers of IPv6 and UDP."""

MIN_MTU = 576
"""Bytes of a UDP payload. The longest control chunks fit it."""

MAX_CHANNELS = 128
"""Channels at once, of both sides together. A voice call has one or two."""

MAX_EVENTS = 16
"""Association events that one call handles; `poll_timeout` is due at once for the rest. A packet that fills a gap may
deliver five hundred messages."""

LOW_BUFFERED = 1 << 16
"""Unacknowledged bytes at which `BufferedAmountLow` is reported: enough for a path until more is queued."""


class DataChannelEndpoint:
    """One side of an SCTP association and the data channels over it.

    Its five methods are those of `antiphon_common.core.Core`; a datagram is the content of one DTLS record, and every
    `Transmit` has path None. `mtu` is the maximum UDP payload, DTLS included. `open_channel`, `send` and
    `close_channel` only queue: their packets are sent by the next `handle_timeout`, which is due at once, so that
    messages share packets. `peer_max_message_size` is `a=max-message-size` of the peer's SDP, 0 for no limit.

    Raises:
        ValueError: `mtu` is less than `MIN_MTU`.
    """

    def __init__(
        self,
        is_dtls_client: bool,
        random: Callable[[int], bytes],
        *,
        mtu: int = DEFAULT_MTU,
        local_port: int = PORT,
        remote_port: int = PORT,
        peer_max_message_size: int = MAX_MESSAGE_SIZE,
    ) -> None:
        self.counters = DataChannelCounters()
        self.association = Association(
            random, packet_size=_packet_size(mtu), local_port=local_port, remote_port=remote_port
        )
        self._parity = 0 if is_dtls_client else 1  # RFC 8832 §6
        self._max_message_size = min(peer_max_message_size or MAX_MESSAGE_SIZE, MAX_MESSAGE_SIZE)
        self._channels: dict[int, DataChannel] = {}
        self._early = EarlyMessages()
        self._watched: set[int] = set()
        """Channels with more than `LOW_BUFFERED` unacknowledged bytes."""
        self._events: deque[tuple[DataChannelEvent, int]] = deque()
        """Each with the bytes of a_rwnd that it occupies until it is polled."""

    @property
    def established(self) -> bool:
        """Whether data can be sent. Messages are queued before that."""
        return self.association.state is AssociationState.ESTABLISHED

    @property
    def closed(self) -> bool:
        """Whether the association has ended."""
        return self.association.state is AssociationState.ENDED

    # Local actions.

    def start(self, now: float, round_trip: float | None = None) -> None:
        """Set up the association, as both sides do once DTLS is connected (RFC 8831 §6.2).

        `round_trip` in seconds, as measured by DTLS, sets the first retransmission timeout.
        """
        self.association.start(now, round_trip)

    def set_mtu(self, mtu: int) -> None:
        """Send datagrams of at most `mtu` bytes from now on; retransmitted chunks keep their size.

        Raises:
            ValueError: `mtu` is less than `MIN_MTU`.
        """
        self.association.set_packet_size(_packet_size(mtu))

    def open_channel(
        self,
        label: str,
        *,
        ordered: bool = True,
        max_retransmits: int | None = None,
        max_lifetime: float | None = None,
        protocol: str = "",
        id: int | None = None,
    ) -> int:
        """Open a channel and return its id. `ChannelOpened` follows, but messages may be sent at once.

        `max_lifetime` is in seconds. With an `id` the channel is negotiated: both sides open it, and no OPEN is sent.

        Raises:
            LocalProtocolError: The arguments contradict each other or are too long, no id is free, there are
                `MAX_CHANNELS`, or the association is shutting down.
            BufferFullError: There is no room for the OPEN.
        """
        if max_retransmits is not None and max_lifetime is not None:
            raise LocalProtocolError("a channel is limited in retransmissions or in time, not both")
        if self.association.state not in _USABLE or len(self._channels) >= MAX_CHANNELS:
            raise LocalProtocolError(f"no channel with {len(self._channels)} open, {self.association.state.name}")
        milliseconds = None if max_lifetime is None else round(max_lifetime * 1000)
        announcement = Open(label, protocol, ordered, max_retransmits, milliseconds).encode()
        if len(announcement) > dcep.MAX_OPEN:
            raise LocalProtocolError("a label or protocol too long")
        number = _free_id(self._channels, self._parity, self.association.streams) if id is None else id
        if number in self._channels or not 0 <= number < self.association.streams:
            raise LocalProtocolError(f"channel {number} is taken or out of range")
        opening = ChannelOpened(number, label, protocol, ordered, max_retransmits, max_lifetime, False)
        channel = self._channels[number] = DataChannel(opening, ChannelState.CONNECTING)
        if id is None:
            self.association.send(number, PayloadProtocol.DCEP, announcement)
        else:
            channel.state = ChannelState.OPEN
            if self.established:
                self._report(opening)
        return number

    def send(self, id: int, data: str | bytes) -> None:
        """Queue a message.

        Raises:
            LocalProtocolError: The channel is not open, or the message is too long for the peer.
            BufferFullError: There is no room; wait for `BufferedAmountLow`.
        """
        channel = self._channels.get(id)
        if channel is None or channel.state is ChannelState.CLOSING:
            raise LocalProtocolError(f"a message on channel {id}, which is not open")
        ppid, payload = encode_message(data)
        if len(payload) > self._max_message_size:
            raise LocalProtocolError(f"a message of {len(payload)} bytes; the peer takes {self._max_message_size}")
        self.association.send(
            id,
            ppid,
            payload,
            ordered=channel.opening.ordered or channel.state is ChannelState.CONNECTING,
            max_retransmits=channel.opening.max_retransmits,
            max_lifetime=channel.opening.max_lifetime,
        )
        if self.buffered(id) > LOW_BUFFERED:
            self._watched.add(id)

    def close_channel(self, id: int) -> None:
        """Close a channel once its messages are acknowledged; `ChannelClosed` follows.

        Raises:
            LocalProtocolError: There is no such channel.
        """
        channel = self._channels.get(id)
        if channel is None:
            raise LocalProtocolError(f"channel {id} is not open")
        self._begin_closing(channel)

    def buffered(self, id: int) -> int:
        """Return the unacknowledged bytes of a channel."""
        return self.association.sender.buffered(id)

    def close(self, now: float) -> None:
        """End the association once all data is acknowledged, or after 5 s; `AssociationClosed` follows."""
        self.association.shutdown(now)
        self._receive_events(now)

    def abort(self, now: float) -> None:
        """Send an ABORT and end the association; `AssociationClosed` follows."""
        self.association.abort(now)
        self._receive_events(now)

    # The five methods.

    def receive_datagram(self, data: bytes, source: Path | None, now: float) -> None:
        """Handle one SCTP packet; `source` is ignored."""
        self.association.receive_datagram(data, source, now)
        self._receive_events(now)

    def handle_timeout(self, now: float) -> None:
        self.association.handle_timeout(now)
        self._receive_events(now)

    def poll_transmit(self) -> Transmit | None:
        return self.association.poll_transmit()

    def poll_event(self) -> DataChannelEvent | None:
        if not self._events:
            return None
        event, size = self._events.popleft()
        if size:
            self.association.release(size)
        return event

    def poll_timeout(self) -> float:
        return self.association.poll_timeout()

    # Events of the association.

    def _receive_events(self, now: float) -> None:
        left = MAX_EVENTS
        while True:
            while left and (event := self.association.poll_event()) is not None:
                self._receive_event(event)
                left -= 1
            if not self.association.has_queued:
                break
            self.association.flush(now)
        if self._watched:
            self._report_low()

    def _receive_event(self, event: AssociationEvent) -> None:
        match event:
            case StreamMessage():
                self._receive_message(event)
            case Established():
                self._receive_established()
            case StreamsReset():
                self._receive_resets(event.outgoing, event.incoming)
            case AssociationClosed():
                self._channels.clear()
                self._watched.clear()
                self._report(event)

    def _report(self, event: DataChannelEvent) -> None:
        self._events.append((event, 0))

    def _receive_established(self) -> None:
        for channel in list(self._channels.values()):
            if channel.id >= self.association.streams:
                del self._channels[channel.id]
                self._report(ChannelClosed(channel.id))
            elif channel.state is ChannelState.OPEN:
                self._report(channel.opening)

    def _receive_message(self, message: StreamMessage) -> None:
        channel = self._channels.get(message.stream)
        try:
            if message.ppid == PayloadProtocol.DCEP:
                self._receive_dcep(message, channel)
            elif channel is None or channel.incoming_reset:
                self.counters.unexpected += 1
                if channel is None:
                    self._early.push(message)
            else:
                event = MessageReceived(channel.id, decode_message(message.ppid, message.data))
                if channel.state is ChannelState.CONNECTING:
                    self._acknowledged(channel)
                self._events.append((event, len(message.data)))
                return
        except DecodeError:
            self.counters.malformed += 1
        self.association.release(len(message.data))

    def _receive_dcep(self, message: StreamMessage, channel: DataChannel | None) -> None:
        if message.data[:1] == dcep.ACK:  # some stacks pad it
            if channel is not None and channel.state is ChannelState.CONNECTING:
                self._acknowledged(channel)
        elif channel is None:
            self._receive_open(message.stream, message.data)
        elif channel.opening.by_peer or channel.state is ChannelState.CLOSING:
            self.counters.unexpected += 1
        else:
            Open.decode(message.data)
            # Both sides opened it: the two become one channel, with what we asked for.
            if self._reply(channel.id, dcep.ACK) and channel.state is ChannelState.CONNECTING:
                self._acknowledged(channel)

    def _receive_open(self, number: int, data: bytes) -> None:
        try:
            request = Open.decode(data)
        except DecodeError:
            self._refuse(number)
            raise
        # RFC 8832 §6 gives the peer ids of the other parity. Some stacks use 0 in either role, and browsers accept it.
        if number >= self.association.streams or len(self._channels) >= MAX_CHANNELS:
            self._refuse(number)
            return
        if self._reply(number, dcep.ACK):
            opening = request.opened(number)
            self._channels[number] = DataChannel.of_peer(opening)
            self._report(opening)
            for message in self._early.pop(number):
                self._receive_early(message)

    def _receive_early(self, message: StreamMessage) -> None:
        """Deliver a message that was received before its channel was open. Its bytes have been released."""
        try:
            self._report(MessageReceived(message.stream, decode_message(message.ppid, message.data)))
        except DecodeError:
            self.counters.malformed += 1

    def _reply(self, number: int, data: bytes) -> bool:
        """Send a DCEP message. Return False and count it if there is no room."""
        try:
            self.association.send(number, PayloadProtocol.DCEP, data)
        except LocalProtocolError:
            self.counters.refused += 1
            return False
        return True

    def _refuse(self, number: int) -> None:
        self.counters.refused += 1
        self.association.reset_streams([number])

    def _acknowledged(self, channel: DataChannel) -> None:
        channel.state = ChannelState.OPEN
        self._report(channel.opening)

    def _begin_closing(self, channel: DataChannel) -> None:
        if channel.state is not ChannelState.CLOSING:
            channel.state = ChannelState.CLOSING
            self.association.reset_streams([channel.id])

    def _receive_resets(self, outgoing: Collection[int], incoming: Collection[int]) -> None:
        outgoing, incoming = frozenset(outgoing), frozenset(incoming)
        self._early.discard(incoming)
        reset = outgoing | incoming
        for number in [number for number in self._channels if number in reset]:
            channel = self._channels[number]
            channel.outgoing_reset |= number in outgoing
            channel.incoming_reset |= number in incoming
            if channel.outgoing_reset and channel.incoming_reset:
                del self._channels[number]
                self._watched.discard(number)
                self._report(ChannelClosed(number))
            else:
                self._begin_closing(channel)

    def _report_low(self) -> None:
        low = [number for number in self._watched if self.buffered(number) <= LOW_BUFFERED]
        for number in low:
            self._watched.discard(number)
            self._report(BufferedAmountLow(number))


_USABLE = frozenset(
    {
        AssociationState.CLOSED,
        AssociationState.COOKIE_WAIT,
        AssociationState.COOKIE_ECHOED,
        AssociationState.ESTABLISHED,
    }
)


def _free_id(taken: Container[int], parity: int, streams: int) -> int:
    """Return the lowest free id of our parity (RFC 8832 §6); raise LocalProtocolError if there is none."""
    for number in range(parity, streams, 2):
        if number not in taken:
            return number
    raise LocalProtocolError("no free stream")


def _packet_size(mtu: int) -> int:
    if mtu < MIN_MTU:
        raise ValueError(f"an MTU of {mtu} bytes is less than {MIN_MTU}")
    return mtu - DTLS_OVERHEAD
