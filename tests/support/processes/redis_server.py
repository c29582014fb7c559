"""A real redis-server on a free port of loopback, which tests can kill, stall and start again."""

import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial

import trio

from support.processes.ports import free_port

START_SECONDS = 10.0


class RedisServer:
    """One redis-server without persistence. It runs from its construction until `kill`."""

    def __init__(self, port: int) -> None:
        self.url = f"redis://127.0.0.1:{port}/0"
        self.port = port
        self.start()

    def start(self) -> None:
        """Start it empty, and wait until it accepts connections."""
        command = ["redis-server", "--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--dir", "/tmp"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
            except ConnectionRefusedError:
                assert time.monotonic() < deadline, "redis-server did not start"
                time.sleep(0.01)
            else:
                return

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def stall(self) -> None:
        """Stop the process, so that it does not respond while its connections stay open."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)


@contextmanager
def redis_server() -> Iterator[RedisServer]:
    """Run a server for the length of the block."""
    server = RedisServer(free_port())
    try:
        yield server
    finally:
        server.kill()


class Garbler:
    """A proxy in front of a Redis. While `garbles` is true, it answers one command itself, with invalid bytes."""

    def __init__(self, port: int, command: bytes, answer: bytes) -> None:
        self.url = f"redis://127.0.0.1:{port}/0"
        self.garbles = True
        self._command, self._answer = command, answer

    async def handle(self, redis: RedisServer, client: trio.SocketStream) -> None:
        async with await trio.open_tcp_stream("127.0.0.1", redis.port) as server, trio.open_nursery() as nursery:
            nursery.start_soon(self._copy, server, client)
            with suppress(trio.BrokenResourceError):
                async for data in client:
                    if self.garbles and self._command in data:
                        await client.send_all(self._answer)
                    else:
                        await server.send_all(data)
            nursery.cancel_scope.cancel()

    async def _copy(self, source: trio.SocketStream, target: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            async for data in source:
                await target.send_all(data)


@asynccontextmanager
async def garbling(redis: RedisServer, command: bytes, answer: bytes) -> AsyncIterator[Garbler]:
    """Run a `Garbler` in front of `redis` for the length of the block."""
    async with trio.open_nursery() as nursery:
        listener, *_ = await trio.open_tcp_listeners(0, host="127.0.0.1")
        garbler = Garbler(listener.socket.getsockname()[1], command, answer)
        nursery.start_soon(trio.serve_listeners, partial(garbler.handle, redis), [listener])
        yield garbler
        nursery.cancel_scope.cancel()
