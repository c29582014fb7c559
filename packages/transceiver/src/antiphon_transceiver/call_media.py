"""The audio of one call on its transport: RTP and RTCP that arrive, paced RTP, reports and feedback that leave."""

from collections import deque
from math import inf
from typing import Any, Protocol

from antiphon_common.control import CallRequest
from antiphon_common.formats import TICKS_PER_MS
from antiphon_transceiver.audio import UplinkFrame
from antiphon_transceiver.backends.call import BackendCall
from antiphon_transceiver.budget import CONCEALED_MS, Budget
from antiphon_transceiver.events import CallEvent, MediaEnded, MediaMissing, MediaStarted
from antiphon_transceiver.media import AudioStream
from antiphon_transceiver.peer_transport import PeerTransport, TransportState

FIRST_MEDIA_TIMEOUT = 10.0
"""Seconds after the handshake at which a caller without audio is reported. The call goes on, since the caller may be
muted."""

MAX_BYES = 16
"""BYEs of a caller that are reported, each in a line of the log. A browser sends one BYE for each track. A caller that
sent one after each packet would fill the disk."""


class UplinkStage(Protocol):
    """A stage of the caller's audio on its way to the backend, such as noise suppression or speech detection.

    Append it to `CallMedia.uplink_stages`. Each frame passes all stages in order.
    """

    def process(self, frame: UplinkFrame) -> UplinkFrame:
        """Return the frame for the next stage, with the same position and the same number of samples."""


class CallMedia:
    """The audio stream of a call, driven over its transport. Times are seconds.

    Call `start` once the transport is connected. Pass on the RTP and RTCP that arrive, then call `send_uplink`. Call
    `handle_timeout` at `poll_timeout`. What happens is appended to `events`, which belongs to the call.
    """

    def __init__(
        self,
        request: CallRequest,
        stream: AudioStream,
        backend: BackendCall,
        transport: PeerTransport[Any],
        events: deque[CallEvent],
        budget: Budget,
        now: float,
    ) -> None:
        self.stream = stream
        self.backend = backend
        self.uplink_stages: list[UplinkStage] = []
        """Stages that each frame passes in order, between the decoder and the backend."""
        self.started = False
        self._transport = transport
        self._events = events
        self._budget = budget
        self._caller_sends = request.direction in ("sendrecv", "sendonly")
        self._caller_listens = request.direction in ("sendrecv", "recvonly")
        self._offered_at = now
        self._missing_at = inf
        """When the caller is reported if no audio has arrived; infinity once some has."""
        self._byes = 0
        self._feedback_due = False
        self.uplink_at = inf
        """When a frame of the caller's audio is due even if no packet arrives."""
        self._playout_at = self._feedback_at = self._report_at = inf

    @property
    def played(self) -> bool:
        """Whether all audio of the backend has been sent."""
        return self._playout_at == inf

    def start(self, now: float) -> None:
        """Begin to send reports and audio."""
        self.started = True
        if self._caller_sends:
            self._missing_at = now + FIRST_MEDIA_TIMEOUT
        self.stream.start(now)
        self._report_at = self.stream.reporter.poll_timeout()

    # From the caller

    def receive_rtp(self, packet: bytes, arrived: float, now: float) -> None:
        """Handle one RTP packet. It `arrived` before `now` if it waited for its SRTP keys."""
        if self._missing_at != inf:
            self._missing_at = inf
            self._events.append(MediaStarted(now - self._offered_at))
        if self.stream.receive_rtp(packet, arrived):
            self._feedback_due = True

    def receive_rtcp(self, packet: bytes, now: float) -> None:
        """Handle one RTCP packet, and retransmit the packets that it requests."""
        if self.stream.receive_rtcp(packet, now) and self._byes < MAX_BYES:
            self._byes += 1
            self._events.append(MediaEnded())
        while (again := self.stream.sender.poll_retransmission()) is not None:
            self._transport.send_protected(again)
        self._report_at = self.stream.reporter.poll_timeout()

    def send_uplink(self, now: float) -> None:
        """Send the caller's audio that is due to the backend, in order. Then send feedback to the caller, if it is due.

        Concealed audio is charged to the call's budget.
        """
        uplink, send_audio = self.stream.uplink, self.backend.send_audio
        while (frame := uplink.poll(now)) is not None:
            for stage in self.uplink_stages:
                frame = stage.process(frame)
            send_audio(frame.data, frame.position, frame.status)
        if uplink.concealed_ticks:
            self._budget.charge(CONCEALED_MS * uplink.concealed_ticks / TICKS_PER_MS, now)
            uplink.concealed_ticks = 0
        self.uplink_at = uplink.jitter.poll_timeout()
        if self._feedback_due:
            self._send_feedback(now)
        self._feedback_at = self.stream.receiver.deadline

    # From the backend

    def play(self, response: int, data: bytes) -> None:
        """Queue audio of a response.

        Raises:
            OverrunError: the backend exceeded its credit.
            DecodeError: `data` is no audio of the format.
        """
        self.stream.playout.append(response, data)
        self._playout_at = self.stream.playout.poll_timeout()

    def clear(self, response: int) -> int:
        """Drop the unsent audio of a response and of those before it. Return the milliseconds of it that were sent."""
        played = self.stream.playout.clear(response)
        self._playout_at = self.stream.playout.poll_timeout()
        return played

    def end_response(self, response: int) -> None:
        """Record that the backend has sent all audio of a response.

        Raises OverrunError when too many packets wait to be played.
        """
        self.stream.playout.end(response)
        self._playout_at = self.stream.playout.poll_timeout()

    # Time

    def handle_timeout(self, now: float) -> None:
        """Send the audio, reports and feedback that are due. Nothing is sent while the caller is disconnected."""
        if now >= self._missing_at:
            self._missing_at = inf
            self._events.append(MediaMissing())
        connected = self._transport.state is TransportState.CONNECTED
        if now >= self._report_at:
            if connected and (report := self.stream.poll_rtcp(now)) is not None:
                self._transport.send_rtcp(report)
            self._report_at = self.stream.reporter.poll_timeout()
        if connected:
            self._play(now)
            self._send_feedback(now)
            self._feedback_at = self.stream.receiver.deadline

    def poll_timeout(self) -> float:
        """Return when `handle_timeout` is due; infinity for never."""
        state = self._transport.state
        if state is TransportState.CONNECTED:
            return min(self.uplink_at, self._playout_at, self._feedback_at, self._report_at, self._missing_at)
        return min(self.uplink_at, self._missing_at) if state is TransportState.DISCONNECTED else inf

    def send_bye(self) -> None:
        """Send the BYE of our stream (RFC 3550 §6.6)."""
        self._transport.send_rtcp(self.stream.bye())

    def _play(self, now: float) -> None:
        stream, transport = self.stream, self._transport
        while (packet := stream.poll_rtp(now)) is not None:
            if self._caller_listens:
                stream.sender.sent(transport.send_rtp(packet), now)
        self._playout_at = stream.playout.poll_timeout()

    def _send_feedback(self, now: float) -> None:
        self._feedback_due = False
        connected = self._transport.state is TransportState.CONNECTED
        if connected and (feedback := self.stream.poll_feedback(now)) is not None:
            self._transport.send_rtcp(feedback)
