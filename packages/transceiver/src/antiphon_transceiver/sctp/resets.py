"""Stream resets (RFC 6525): asking the peer to start our streams over, and answering when it asks."""

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
"""Streams in one request: 272 bytes, so that it fits a packet of any size we allow."""

_MASK = 0xFFFFFFFF


class StreamResets:
    """Both directions of one association. What is told to the peer are parameters of RE-CONFIG chunks.

    After each call, `incoming` and `outgoing` hold the streams that have been reset since they were last emptied.
    """

    def __init__(self, initial_tsn: int, rto: RetransmissionTimeout) -> None:
        self.incoming: list[int] = []
        self.outgoing: list[int] = []
        self.deadline = inf
        self.unanswered = 0
        """Times in a row that our request went without an answer."""
        self._rto = rto
        self._pending: dict[int, None] = {}
        """Streams to reset, in the order of `add`."""
        self._next_sequence = initial_tsn & _MASK
        self._request: OutgoingResetRequest | None = None
        self._peer_sequence = 0
        self._supported = True
        self._last_result = ReconfigResult.NOTHING_TO_DO

    def begin(self, peer_initial_tsn: int, *, supported: bool) -> None:
        """Expect the peer's requests, if it knows RFC 6525 at all."""
        self._peer_sequence = (peer_initial_tsn - 1) & _MASK
        self._supported = supported

    def add(self, streams: Collection[int]) -> None:
        """Reset these outgoing streams once nothing of them is on the way."""
        self._pending.update(dict.fromkeys(streams))

    def request(self, busy: Container[int], cumulative_tsn: int, now: float) -> Parameter | None:
        """Return the next request, if there is one to make.

        `busy` has the streams with data that is not acknowledged yet. So the last TSN of any other is at most
        `cumulative_tsn`, which the peer has: it never has to answer that data is still missing.
        """
        if self._request is not None or not self._pending:
            return None
        ready = [stream for stream in self._pending if stream not in busy][:MAX_STREAMS_PER_REQUEST]
        if not ready:
            return None
        for stream in ready:
            del self._pending[stream]
        if not self._supported:  # then nobody is told, and these streams are never used again
            self.outgoing += ready
            self.incoming += ready
            return None
        last_tsn = cumulative_tsn & _MASK
        self._request = OutgoingResetRequest(self._next_sequence, self._peer_sequence, last_tsn, tuple(ready))
        self._next_sequence = self._next_sequence + 1 & _MASK
        self.deadline = now + self._rto.value
        return self._request.encode()

    def handle_timeout(self, now: float) -> Parameter | None:
        """Return the request again if its answer is overdue."""
        if self._request is None or now < self.deadline:
            return None
        self.unanswered += 1
        self._rto.back_off()
        self.deadline = now + self._rto.value
        return self._request.encode()

    def receive(
        self, parameter: Parameter, cumulative_tsn: int, known_streams: Collection[int], now: float
    ) -> Parameter | None:
        """Take a parameter of the peer's RE-CONFIG and return our answer, if it wants one; may raise DecodeError.

        `cumulative_tsn` is what came of the peer's data, unbounded; `known_streams` those that a reset of all means.
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
            ):  # nothing of RFC 8831 needs them
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
        if 0 < missing < 1 << 31:  # RFC 6525 §5.2.2 E2: some of its data is still on the way
            return self._answer(request.sequence, ReconfigResult.IN_PROGRESS)
        result = self._answer(request.sequence, ReconfigResult.PERFORMED)
        if result is ReconfigResult.PERFORMED:
            self.incoming += request.streams or known_streams
        return result

    def _answer(self, sequence: int, result: ReconfigResult) -> ReconfigResult:
        """Return and remember the result of a request, unless its number is out of order (RFC 6525 §5.2.1)."""
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
        # A refusal ends it as well: the peer will take nothing more on these streams.
        self.outgoing += self._request.streams
        self._request = None
        self.deadline = inf
