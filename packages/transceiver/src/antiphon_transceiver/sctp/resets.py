"""Stream resets (RFC 6525): our requests, and the responses to those of the peer."""

from collections.abc import Collection, Container
from math import inf

from antiphon_common.errors import DecodeError
from antiphon_transceiver.sctp.parameters import (
    OutgoingResetRequest,
    Parameter,
    ParameterType,
    ReconfigResponse,
    ReconfigResult,
)
from antiphon_transceiver.sctp.rto import RetransmissionTimeout

MAX_STREAMS_PER_REQUEST = 128
"""Streams in one request: it has 272 bytes and fits any packet."""

_MASK = 0xFFFFFFFF


class StreamResets:
    """The stream resets of one association, in both directions.

    `add` streams to reset, and send the parameters that `request`, `receive` and `handle_timeout` return in RE-CONFIG
    chunks. `incoming` and `outgoing` collect the streams that have been reset; the caller empties them.
    """

    def __init__(self, initial_tsn: int, rto: RetransmissionTimeout) -> None:
        self.incoming: list[int] = []
        self.outgoing: list[int] = []
        self.deadline = inf
        self.unanswered = 0
        """Retransmissions of our request in a row."""
        self._rto = rto
        self._pending: dict[int, None] = {}
        """Streams to reset, in the order of `add`."""
        self._next_sequence = initial_tsn & _MASK
        self._request: OutgoingResetRequest | None = None
        self._peer_sequence = 0
        self._supported = True
        self._last_result = ReconfigResult.NOTHING_TO_DO

    def begin(self, peer_initial_tsn: int, *, supported: bool) -> None:
        """Expect the peer's requests. `supported` is False if the peer does not support RFC 6525."""
        self._peer_sequence = (peer_initial_tsn - 1) & _MASK
        self._supported = supported

    def add(self, streams: Collection[int]) -> None:
        """Reset these outgoing streams once their data is acknowledged."""
        self._pending.update(dict.fromkeys(streams))

    def request(self, busy: Container[int], cumulative_tsn: int, now: float) -> Parameter | None:
        """Return the next request, or None if none is due.

        `busy` has the streams with unacknowledged data. The data of all others is acknowledged up to `cumulative_tsn`,
        so the peer never has to answer that data is missing.
        """
        if self._request is not None or not self._pending:
            return None
        ready = [stream for stream in self._pending if stream not in busy][:MAX_STREAMS_PER_REQUEST]
        if not ready:
            return None
        for stream in ready:
            del self._pending[stream]
        if not self._supported:  # no request is sent, and these streams are not used again
            self.outgoing += ready
            self.incoming += ready
            return None
        last_tsn = cumulative_tsn & _MASK
        self._request = OutgoingResetRequest(self._next_sequence, self._peer_sequence, last_tsn, tuple(ready))
        self._next_sequence = self._next_sequence + 1 & _MASK
        self.deadline = now + self._rto.value
        return self._request.encode()

    def handle_timeout(self, now: float) -> Parameter | None:
        """Return the request again if its response is overdue."""
        if self._request is None or now < self.deadline:
            return None
        self.unanswered += 1
        self._rto.back_off()
        self.deadline = now + self._rto.value
        return self._request.encode()

    def receive(
        self, parameter: Parameter, cumulative_tsn: int, known_streams: Collection[int], now: float
    ) -> Parameter | None:
        """Handle a parameter of the peer's RE-CONFIG, and return our response if there is one.

        `cumulative_tsn` is that of the peer's data, unbounded. A request to reset all streams resets `known_streams`.

        Raises:
            DecodeError: The parameter is malformed.
        """
        match parameter.type:
            case ParameterType.RECONFIG_RESPONSE:
                self._receive_response(ReconfigResponse.decode(parameter.value), now)
                return None
            case ParameterType.OUTGOING_RESET_REQUEST:
                request = OutgoingResetRequest.decode(parameter.value)
                result = self._receive_request(request, cumulative_tsn, known_streams)
                return ReconfigResponse(request.sequence, result).encode()
            case (
                ParameterType.INCOMING_RESET_REQUEST
                | ParameterType.TSN_RESET_REQUEST
                | ParameterType.ADD_OUTGOING_STREAMS
                | ParameterType.ADD_INCOMING_STREAMS
            ):  # RFC 8831 does not use them
                if len(parameter.value) < 4:
                    raise DecodeError("a request without a number")
                sequence = int.from_bytes(parameter.value[:4], "big")
                return ReconfigResponse(sequence, self._answer(sequence, ReconfigResult.DENIED)).encode()
            case _:
                return None

    def _receive_request(
        self, request: OutgoingResetRequest, cumulative_tsn: int, known_streams: Collection[int]
    ) -> ReconfigResult:
        repeats = request.sequence == self._peer_sequence
        if repeats and self._last_result is not ReconfigResult.IN_PROGRESS:
            return self._last_result
        missing = (request.last_tsn - cumulative_tsn) & _MASK
        if 0 < missing < 1 << 31:  # RFC 6525 §5.2.2 E2: data of the streams is missing
            return self._answer(request.sequence, ReconfigResult.IN_PROGRESS)
        result = self._answer(request.sequence, ReconfigResult.PERFORMED)
        if result is ReconfigResult.PERFORMED:
            self.incoming += request.streams or known_streams
        return result

    def _answer(self, sequence: int, result: ReconfigResult) -> ReconfigResult:
        """Return the result of a request and keep it, unless its number is out of order (RFC 6525 §5.2.1)."""
        if sequence not in (self._peer_sequence, self._peer_sequence + 1 & _MASK):
            return ReconfigResult.BAD_SEQUENCE_NUMBER
        self._peer_sequence = sequence
        self._last_result = result
        return result

    def _receive_response(self, response: ReconfigResponse, now: float) -> None:
        if self._request is None or response.sequence != self._request.sequence:
            return
        self.unanswered = 0
        if response.result == ReconfigResult.IN_PROGRESS:
            self.deadline = now + self._rto.value
            return
        # A refusal ends the request as well: the peer accepts no more data on these streams.
        self.outgoing += self._request.streams
        self._request = None
        self.deadline = inf
