"""A backend that sends junk to every transceiver that connects: `python -m support.floods.junk_backend`.

It prints `ready` and its URL. A line `KIND RATE SECONDS` makes it send messages of that kind, at a rate in bits per
second over all connections together. Then it prints a `JunkReport` as JSON. It exits when standard input ends.
"""

import sys
import time
from functools import partial

import msgspec
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

from antiphon_common import frames

HELLO = frames.BackendHello(frames.VERSION, 8, ("pcm16/24000", "opus"))
LATE = 4_000_000_000
"""The number of a call that no transceiver started."""

KINDS: dict[str, list[bytes]] = {
    "a million elements": [b"\xdd\x00\x0f\x00\x00" + b"\xc0" * 0xF0000],
    "4,096 tiny frames": [
        frames.encode([frames.Audio(LATE, b"")] * 4096),
        frames.encode([frames.ResponseEnded(LATE, 1)] * 4096),
        b"\xdc\x10\x00" + b"\x92\x7f\x00" * 4096,
    ],
    "nested frames": [
        b"\x91" + b"\x93\x11\x01\x81\xa1a" + b"\x91" * 900_000 + b"\xc0",
        b"\x91" * 900_000 + b"\xc0",
        b"\x92" + (b"\x93\x11\x01\x81\xa1a" + b"\x91" * 400_000 + b"\xc0") * 2,
    ],
    "pings": [frames.encode([frames.Ping(number)] * 10) for number in range(100)],
}


class JunkReport(msgspec.Struct):
    """What the backend sent, over how many connections, and its own processor time in seconds."""

    messages: int = 0
    bytes: int = 0
    connections: int = 0
    seconds: float = 0.0
    cpu: float = 0.0


class JunkBackend:
    """A backend that sends its Hello on each connection and answers only pings. `flood` sends junk to all of them."""

    def __init__(self) -> None:
        self.report = JunkReport()
        self._open: set[WebSocketConnection] = set()

    async def serve(self, request: WebSocketRequest) -> None:
        websocket = await request.accept()
        try:
            await websocket.send_message(frames.encode([HELLO]))
            self._open.add(websocket)
            self.report.connections += 1
            while True:
                for frame in frames.decode(_binary(await websocket.get_message())):
                    if isinstance(frame, frames.Ping):
                        await websocket.send_message(frames.encode([frames.Pong(frame.number)]))
        except ConnectionClosed:
            pass
        finally:
            self._open.discard(websocket)

    async def flood(self, kind: str, rate: float, seconds: float) -> JunkReport:
        """Send messages of one kind to every open connection, `rate` bits per second in total."""
        self.report = JunkReport(connections=len(self._open))
        began, cpu = time.monotonic(), time.process_time()
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                due, number = trio.current_time(), 0
                while True:
                    for websocket in list(self._open):
                        message = KINDS[kind][number % len(KINDS[kind])]
                        nursery.start_soon(self._send, websocket, message)
                        due = max(due + 8 * len(message) / rate, trio.current_time() - 0.1)
                        number += 1
                    await trio.sleep_until(max(due, trio.current_time() + 0.001))
        report = self.report
        report.seconds, report.cpu = time.monotonic() - began, time.process_time() - cpu
        return report

    async def _send(self, websocket: WebSocketConnection, message: bytes) -> None:
        try:
            await websocket.send_message(message)
        except ConnectionClosed:
            self._open.discard(websocket)
            return
        self.report.messages += 1
        self.report.bytes += len(message)


def _binary(message: str | bytes) -> bytes:
    assert isinstance(message, bytes)
    return message


async def main() -> None:
    backend = JunkBackend()
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve_websocket, backend.serve, "127.0.0.1", 0, None))
        print(f"ready ws://127.0.0.1:{server.port}", flush=True)
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            kind, rate, seconds = line.strip().rsplit(" ", 2)
            report = await backend.flood(kind, float(rate), float(seconds))
            print(msgspec.json.encode(report).decode(), flush=True)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
