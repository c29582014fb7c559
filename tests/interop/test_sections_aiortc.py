"""A sendonly and a recvonly audio section, as aiortc offers them with two transceivers."""

import asyncio
from typing import Any, Literal

import httpx
import pytest
from aiortc import RTCPeerConnection, RTCSessionDescription
from aiortc.contrib.media import MediaBlackhole

from antiphon.client.speech import RecordedSpeech
from support.peers.aiortc_callers import CONNECT_SECONDS, EncodedSpeaker
from support.peers.asynchronous import run_in_thread
from support.processes.services import all_in_one

ENOUGH = 25
"""RTP packets, of 20 ms each."""

Order = tuple[Literal["sendonly", "recvonly"], ...]


@pytest.mark.parametrize("order", [("sendonly", "recvonly"), ("recvonly", "sendonly")])
def test_two_sections_of_one_direction_each_carry_one_call(order: Order) -> None:
    with all_in_one("--audio", "opus") as deployment:
        counts = run_in_thread(_converse(deployment.url, order))
    assert counts["received"] >= ENOUGH
    assert counts["played"] >= ENOUGH


async def _converse(url: str, order: Order) -> dict[str, Any]:
    """Send audio until both sides have received enough. Return the packets received by the server and by us."""
    peer, sink = RTCPeerConnection(), MediaBlackhole()
    connected = asyncio.Event()
    peer.on("connectionstatechange", lambda: connected.set() if peer.connectionState == "connected" else None)
    peer.on("track", sink.addTrack)
    for direction in order:
        source = EncodedSpeaker(RecordedSpeech.shipped().packets) if direction == "sendonly" else "audio"
        peer.addTransceiver(source, direction=direction)
    await peer.setLocalDescription(await peer.createOffer())
    async with httpx.AsyncClient(base_url=url, timeout=CONNECT_SECONDS) as http:
        headers = {"Content-Type": "application/sdp"}
        answer = await http.post("/v1/realtime/calls", content=peer.localDescription.sdp, headers=headers)
        assert answer.status_code == httpx.codes.CREATED, answer.text
        await peer.setRemoteDescription(RTCSessionDescription(answer.text, "answer"))
        await asyncio.wait_for(connected.wait(), CONNECT_SECONDS)
        await sink.start()
        counts = {"received": 0, "played": 0}
        for _ in range(int(CONNECT_SECONDS * 10)):
            await asyncio.sleep(0.1)
            stats = (await http.get(f"{answer.headers['Location']}/stats")).json()["statistics"]
            inbound = [entry for entry in (await peer.getStats()).values() if entry.type == "inbound-rtp"]
            counts = {"received": stats["received_packets"], "played": sum(entry.packetsReceived for entry in inbound)}
            if min(counts.values()) >= ENOUGH:
                break
    await sink.stop()
    await peer.close()
    return counts
