"""A caller of aiortc, over HTTP or WebSocket, which plays known speech and records the audio that it receives."""

import asyncio
import fractions
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, Literal, NamedTuple, Self, TypeVar
from urllib.parse import urlsplit

import httpx
import numpy as np
from aiortc import MediaStreamTrack, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError
from av import AudioFrame
from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import AcceptConnection, CloseConnection, Event, Ping, RejectConnection, Request, TextMessage

from support.audio.correlation import RATE, Samples

FRAME = RATE // 50
CONNECT_SECONDS = 15.0
SLACK = 40.0
"""Seconds by which a recording may take longer than its length on a busy machine."""

CALLS = "/v1/realtime/calls"

Way = Literal["http", "websocket"]

T = TypeVar("T")


class PeerRecording(NamedTuple):
    """The audio received, and the audio sent meanwhile, sample for sample on the same clock."""

    received: Samples
    sent: Samples
    statistics: dict[str, Any]
    """The server's statistics of the call, shortly before its end."""


class Speaker(MediaStreamTrack):
    """Plays known speech in a loop in real time. `began` is the time of its first frame."""

    kind = "audio"

    def __init__(self, known: Samples) -> None:
        super().__init__()
        self.began = 0.0
        self._pcm = (known * 32767).astype("<i2")
        self._position = 0

    async def recv(self) -> AudioFrame:
        if not self._position:
            self.began = time.monotonic()
        await asyncio.sleep(max(0.0, self.began + self._position / RATE - time.monotonic()))
        samples = np.take(self._pcm, range(self._position, self._position + FRAME), mode="wrap")
        frame = AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate = RATE
        frame.time_base = fractions.Fraction(1, RATE)
        frame.pts = self._position
        self._position += FRAME
        return frame


class TrackRecorder:
    """Records a remote track. Audio is placed by its timestamp, so that a gap stays a gap."""

    def __init__(self) -> None:
        self.began = 0.0
        self._frames: list[tuple[int, Samples]] = []

    async def run(self, track: MediaStreamTrack) -> None:
        """Record until the track ends."""
        try:
            while True:
                frame = await track.recv()
                assert isinstance(frame, AudioFrame)
                assert frame.pts is not None
                if not self._frames:
                    self.began = time.monotonic()
                pcm = frame.to_ndarray().reshape(-1, len(frame.layout.channels))[:, 0]
                self._frames.append((frame.pts, (pcm / 32768).astype(np.float32)))
        except MediaStreamError:
            pass

    @property
    def seconds(self) -> float:
        """Length of the recording so far, in seconds."""
        return (self._frames[-1][0] - self._frames[0][0] + FRAME) / RATE if self._frames else 0.0

    def samples(self) -> Samples:
        if not self._frames:
            return np.zeros(0, np.float32)
        first = self._frames[0][0]
        received = np.zeros(max(pts - first + len(pcm) for pts, pcm in self._frames), np.float32)
        for pts, pcm in self._frames:
            if pts >= first:
                received[pts - first : pts - first + len(pcm)] = pcm
        return received


async def call(url: str, known: Samples, seconds: float, way: Way) -> PeerRecording:
    """Call a running Antiphon, send speech for `seconds` or until the server hangs up, and hang up."""
    peer, speaker, recorder = RTCPeerConnection(), Speaker(known), TrackRecorder()
    connected = asyncio.Event()
    tracks: list[MediaStreamTrack] = []
    peer.on("track", tracks.append)
    peer.on("connectionstatechange", lambda: connected.set() if peer.connectionState == "connected" else None)
    peer.addTrack(speaker)
    await peer.setLocalDescription(await peer.createOffer())
    signal = _over_http if way == "http" else _over_websocket
    try:
        async with signal(url, peer.localDescription.sdp) as (call_id, answer):
            await peer.setRemoteDescription(RTCSessionDescription(answer, "answer"))
            await asyncio.wait_for(connected.wait(), CONNECT_SECONDS)
            async with asyncio.timeout(seconds + SLACK):
                recording = asyncio.create_task(recorder.run(tracks[0]))
                while recorder.seconds < seconds and not recording.done():
                    await asyncio.sleep(0.05)
            statistics = await _statistics(url, call_id)
    finally:
        await peer.close()
    await recording
    received = recorder.samples()
    return PeerRecording(received, _sent(known, speaker.began, recorder.began, len(received)), statistics)


def call_in_thread(url: str, known: Samples, seconds: float, way: Way) -> PeerRecording:
    return run_in_thread(lambda: call(url, known, seconds, way))


def run_in_thread(function: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine in another thread, because this one may have an event loop of Playwright."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(function())).result()


def _sent(known: Samples, speaker_began: float, recorder_began: float, count: int) -> Samples:
    offset = round((recorder_began - speaker_began) * RATE)
    return np.take(known, range(offset, offset + count), mode="wrap")


async def _statistics(url: str, call_id: str) -> dict[str, Any]:
    async with httpx.AsyncClient(timeout=CONNECT_SECONDS) as client:
        answer = await client.get(f"{url}{CALLS}/{call_id}/stats")
        assert answer.status_code == 200, answer.text
        statistics: dict[str, Any] = answer.json()["statistics"]
        return statistics


@asynccontextmanager
async def _over_http(url: str, offer: str) -> AsyncIterator[tuple[str, str]]:
    async with httpx.AsyncClient(base_url=url, timeout=CONNECT_SECONDS) as client:
        headers = {"Content-Type": "application/sdp"}
        answer = await client.post(CALLS, content=offer, headers=headers)
        assert answer.status_code == 201, answer.text
        yield answer.headers["location"].rpartition("/")[2], answer.text
        ended = await client.delete(answer.headers["location"])
        assert ended.status_code == 200, ended.text


@asynccontextmanager
async def _over_websocket(url: str, offer: str) -> AsyncIterator[tuple[str, str]]:
    socket = await AsyncioWebSocket.open(url, "/v1/signaling")
    try:
        await socket.send({"type": "offer", "sdp": offer})
        answer = await socket.receive()
        assert answer["type"] == "answer", answer
        yield answer["call_id"], answer["sdp"]
        if socket.is_open:
            await socket.send({"type": "hangup"})
        ended = await socket.receive()
        assert ended["type"] == "ended", ended
        assert ended["call_id"] == answer["call_id"]
    finally:
        await socket.close()


class AsyncioWebSocket:
    """A WebSocket client under asyncio for JSON messages. Use `open` to connect."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._protocol = WSConnection(ConnectionType.CLIENT)
        self._text = ""
        self._messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._opened = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def open(cls, url: str, path: str) -> Self:
        address = urlsplit(url)
        socket = cls(*await asyncio.open_connection(address.hostname, address.port))
        socket._write(Request(address.netloc, path))
        return socket

    @property
    def is_open(self) -> bool:
        return self._protocol.state is ConnectionState.OPEN

    async def send(self, message: dict[str, Any]) -> None:
        await self._opened.wait()
        self._write(TextMessage(json.dumps(message)))
        await self._writer.drain()

    async def receive(self) -> dict[str, Any]:
        """Return the next message. An empty type means that the server closed the connection."""
        async with asyncio.timeout(CONNECT_SECONDS):
            return await self._messages.get()

    async def close(self) -> None:
        if self.is_open:
            self._write(CloseConnection(1000))
        self._reading.cancel()
        self._writer.close()
        await self._writer.wait_closed()

    def _write(self, event: Event) -> None:
        self._writer.write(self._protocol.send(event))

    async def _read(self) -> None:
        """Read until the server closes, and answer pings at any time."""
        while data := await self._reader.read(65536):
            self._protocol.receive_data(data)
            for event in self._protocol.events():
                self._handle(event)

    def _handle(self, event: Event) -> None:
        match event:
            case AcceptConnection():
                self._opened.set()
            case TextMessage(data=text, message_finished=finished):
                self._text += text
                if finished:
                    self._messages.put_nowait(json.loads(self._text))
                    self._text = ""
            case Ping():
                self._write(event.response())
            case RejectConnection() | CloseConnection():
                self._opened.set()
                self._messages.put_nowait({"type": "", "closed": str(event)})
