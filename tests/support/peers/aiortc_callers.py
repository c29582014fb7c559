"""aiortc callers in a separate process, which count packets. Their speech is encoded beforehand.

`python -m support.peers.aiortc_callers URL CALLS` makes the calls and prints `ready`. It sends audio until standard
input ends, waits for packets in flight, and prints the `Counts` of all calls.
"""

import asyncio
import fractions
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import httpx
from aiortc import MediaStreamTrack, RTCPeerConnection, RTCSessionDescription
from av.packet import Packet

from antiphon.client.speech import RecordedSpeech
from antiphon.shell.load_run import LINGER

CONNECT_SECONDS = 30.0
TICKS = 960
CLOCK_RATE = 48_000


class Counts(NamedTuple):
    """Numbers of RTP packets, and of all datagrams except STUN."""

    rtp_sent: int
    rtp_received: int
    sent: int
    received: int


class EncodedSpeaker(MediaStreamTrack):
    """Plays Opus packets of 20 ms in a loop in real time, until `silent` is set."""

    kind = "audio"

    def __init__(self, packets: Sequence[bytes]) -> None:
        super().__init__()
        self.silent = False
        self._packets = packets
        self._played = 0
        self._began = time.monotonic()

    async def recv(self) -> "Packet[Any]":
        if self.silent:
            await asyncio.Future()
        await asyncio.sleep(max(0.0, self._began + self._played * TICKS / CLOCK_RATE - time.monotonic()))
        packet = Packet(self._packets[self._played % len(self._packets)])
        packet.time_base = fractions.Fraction(1, CLOCK_RATE)
        packet.pts = self._played * TICKS
        self._played += 1
        return packet


class AiortcCaller:
    """One call of aiortc. `connect` makes it; `counts` reads its counters."""

    def __init__(self, speech: RecordedSpeech) -> None:
        self.call_id = ""
        self.speaker = EncodedSpeaker(speech.packets)
        self.peer = RTCPeerConnection()
        self.peer.addTrack(self.speaker)

    async def connect(self, http: httpx.AsyncClient) -> None:
        """Make the call. Return once it is connected."""
        connected = asyncio.Event()
        peer = self.peer
        peer.on("connectionstatechange", lambda: connected.set() if peer.connectionState == "connected" else None)
        await peer.setLocalDescription(await peer.createOffer())
        headers = {"Content-Type": "application/sdp"}
        answer = await http.post("/v1/realtime/calls", content=peer.localDescription.sdp, headers=headers)
        assert answer.status_code == httpx.codes.CREATED, answer.text
        self.call_id = answer.headers["Location"].rpartition("/")[2]
        await peer.setRemoteDescription(RTCSessionDescription(answer.text, "answer"))
        await asyncio.wait_for(connected.wait(), CONNECT_SECONDS)

    async def counts(self) -> Counts:
        report = {entry.type: entry for entry in (await self.peer.getStats()).values()}
        rtp_sent, rtp_received = report["outbound-rtp"].packetsSent, report["inbound-rtp"].packetsReceived
        return Counts(rtp_sent, rtp_received, report["transport"].packetsSent, report["transport"].packetsReceived)


async def main(url: str, calls: int) -> None:
    speech = RecordedSpeech.shipped()
    callers = [AiortcCaller(speech) for _ in range(calls)]
    async with httpx.AsyncClient(base_url=url, timeout=CONNECT_SECONDS) as http:
        for caller in callers:
            await caller.connect(http)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for caller in callers:
        caller.speaker.silent = True
    await asyncio.sleep(LINGER)
    counts = [await caller.counts() for caller in callers]
    print(*map(sum, zip(*counts, strict=True)), flush=True)
    for caller in callers:
        await caller.peer.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
