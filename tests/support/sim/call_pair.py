"""One call and its caller, both real cores, connected by a network in memory."""

from random import Random
from typing import Any

from antiphon.client.call import AudioReceived, ClientCall, ClientCallEvent, ClientConnected
from antiphon_common import frames
from antiphon_common.control import IceParameters
from antiphon_common.json_objects import pack
from antiphon_signaling.sdp import read_offer, write_answer
from antiphon_transceiver.call import Call
from antiphon_transceiver.event_bus import EventSource
from antiphon_transceiver.events import CallEvent
from antiphon_transceiver.ice import ice_password, ice_ufrag
from antiphon_transceiver.rtp import RtpOptions, feedback_statistics
from antiphon_transceiver.srtp import SrtpProfile
from support.fakes.recording_backend import RecordingBackend
from support.net.impairment import Impairment
from support.peers.certificates import certificate
from support.sim.memory_network import MemoryNetwork

FAR_AWAY = Impairment(delay=0.025)
FRAME_SECONDS, TICKS_PER_SECOND = 0.02, 48000


class CallPair:
    """A caller (left) and the call that answers it (right), connecting."""

    def __init__(
        self,
        seed: int = 0,
        impairment: Impairment = FAR_AWAY,
        *,
        presents: str = "client",
        profiles: tuple[SrtpProfile, ...] = tuple(SrtpProfile),
        options: RtpOptions | None = None,
        data_channels: bool = False,
    ) -> None:
        """`presents` names the certificate that the caller shows, which may differ from the one in its offer;
        `profiles`, `options` and `data_channels` are what it offers."""
        random = Random(seed).randbytes
        self.client = ClientCall(
            certificate("client"),
            random,
            0.0,
            srtp_profiles=profiles,
            options=options,
            data_channels=data_channels,
        )
        offer = read_offer(self.client.offer().encode())
        request = offer.call_request("rtc_1", "tenant", {})
        local = IceParameters(ice_ufrag(random), ice_password(random))
        self.backend = RecordingBackend(request.call_id)
        half: Any = self.backend
        self.call = Call(request, local, certificate("server"), half, random, 0.0, 0.0)
        self.accepted = self.call.answer
        self.sent = 0
        """Number of packets that each side has sent."""
        self.network: MemoryNetwork[ClientCallEvent, CallEvent] = MemoryNetwork(
            self.client, self.call, impairment, seed=seed
        )
        self.client.certificate = certificate(presents)
        path = self.network.right.path
        answer = write_answer(offer, self.accepted, [(path.host, path.port)], 1)
        self.client.accept(answer.encode().decode(), 0.0)

    def connect(self) -> "CallPair":
        assert self.network.run(
            lambda: any(isinstance(e, ClientConnected) for e in self.network.left.events), limit=5.0
        )
        self.network.run(limit=self.network.now + 0.2)
        return self

    def talk(self, seconds: float) -> None:
        """Let both sides send a numbered packet every 20 ms, and wait until the last has arrived."""
        for _ in range(round(seconds / FRAME_SECONDS)):
            packet = opus_packet(self.sent)
            self.client.send_audio(packet, round(self.network.now * TICKS_PER_SECOND), self.network.now)
            self.play(packet)
            self.network.drain()
            self.sent += 1
            self.network.run(limit=self.network.now + FRAME_SECONDS)
        self.network.run(limit=self.network.now + 0.2)

    @property
    def feedback_statistics(self) -> dict[str, Any]:
        """The statistics that the caller derives from feedback."""
        return feedback_statistics(self.client.sender, self.client.receiver)

    @property
    def caller_received(self) -> list[int]:
        """The numbers of the packets that the caller received, in order of arrival."""
        return [number_of(event.payload) for event in self.network.left.events if isinstance(event, AudioReceived)]

    @property
    def backend_received(self) -> list[int]:
        """The numbers of the packets sent to the backend, in order."""
        return [number_of(frame.data) for frame in self.backend.audio if frame.data]

    def play(self, packet: bytes) -> None:
        """Have the backend send a packet of its first response."""
        self.call.receive_frame(frames.Audio(1, packet, response=1), self.network.now)

    def send_event(self, event: dict[str, Any]) -> bool:
        """Have the backend send an event. Return True if no error was returned."""
        errors = len(self.backend.errors)
        self.call.bus.publish(EventSource.BACKEND, pack(event), self.network.now)
        self.call.handle_timeout(self.network.now)
        return len(self.backend.errors) == errors

    def hang_up(self) -> None:
        """Have the backend end the call once everything was played and delivered."""
        self.call.receive_frame(frames.HangUp(1), self.network.now)

    @property
    def statistics(self) -> dict[str, Any]:
        """The statistics of the call's status."""
        status = self.call.status()
        assert status is not None
        return status.statistics


def opus_packet(number: int) -> bytes:
    """Return a valid Opus packet of 20 ms (CELT, fullband, one frame) that contains a number."""
    return bytes((31 << 3,)) + number.to_bytes(4, "big") * 10


def number_of(packet: bytes) -> int:
    return int.from_bytes(packet[1:5], "big")
