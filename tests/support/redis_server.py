"""A real redis-server on a free port of loopback: killed, stopped and started again as tests need it."""

import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from support.ports import free_port

START_SECONDS = 10.0


class RedisServer:
    """One redis-server that keeps nothing on disk."""

    def __init__(self, port: int) -> None:
        self.url = f"redis://127.0.0.1:{port}/0"
        self.port = port
        self.start()

    def start(self) -> None:
        """Start it, with nothing in it, and wait until it can be reached."""
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
        """Let it answer nothing, with its connections open."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)


@contextmanager
def redis_server() -> Iterator[RedisServer]:
    """Run a server as long as the block."""
    server = RedisServer(free_port())
    try:
        yield server
    finally:
        server.kill()
