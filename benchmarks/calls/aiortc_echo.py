"""The yardstick: aiortc, which decodes what a caller says, encodes it again, and sends it back.

`python -m benchmarks.calls.aiortc_echo` prints `ready URL` and takes offers at /v1/realtime/calls.
"""

import asyncio
import os
import signal

from aiortc import MediaStreamTrack, RTCPeerConnection, RTCSessionDescription

peers: set[RTCPeerConnection] = set()


async def answer(offer: str) -> str:
    """Return the answer to an offer. All audio of that call is sent back."""
    peer = RTCPeerConnection()
    peers.add(peer)

    @peer.on("track")
    def echo(track: MediaStreamTrack) -> None:
        peer.addTrack(track)

    @peer.on("connectionstatechange")
    async def forget() -> None:
        if peer.connectionState in ("closed", "failed"):
            await peer.close()
            peers.discard(peer)

    await peer.setRemoteDescription(RTCSessionDescription(offer, "offer"))
    await peer.setLocalDescription(await peer.createAnswer())
    return str(peer.localDescription.sdp)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one HTTP connection of the load client."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            length = int(head.partition("content-length:")[2].split("\r")[0] or 0)
            body = (await answer((await reader.readexactly(length)).decode())).encode() if length else b""
            status = "201 Created" if body else "200 OK"
            writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
            await writer.drain()
    except asyncio.IncompleteReadError:
        writer.close()


async def main() -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    print(f"ready http://{host}:{port}", flush=True)
    # Exit at once: threads of running calls would delay it.
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, os._exit, 0)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
