"""Measures a network from inside, by the monotonic clock that all namespaces of a machine share.

`python -m support.net.udp_probe echo HOST PORT` answers each datagram with its arrival time and source.
`probe HOST PORT COUNT INTERVAL SIZE` sends numbered datagrams and prints the responses as a JSON list of `Echo`.
"""

import select
import socket
import struct
import sys
import time
from contextlib import suppress

import msgspec

from support.net.router import run_at_once

LINGER = 0.5
"""Seconds to wait for responses after the last datagram."""

_SENT = struct.Struct("!Id")
_ANSWER = struct.Struct("!d")


class Echo(msgspec.Struct, frozen=True):
    """A datagram that came back: its number, seconds up and down, and its source address at the echo server."""

    number: int
    up: float
    down: float
    seen: str


def echo(host: str, port: int) -> None:
    with socket.socket(_family(host), socket.SOCK_DGRAM) as sock:
        sock.bind((host, port))
        print("ready", flush=True)
        while True:
            data, source = sock.recvfrom(65536)
            seen = f"{source[0]}:{source[1]}".encode()
            sock.sendto(data[: _SENT.size] + _ANSWER.pack(time.monotonic()) + seen.ljust(len(data), b"\0"), source)


def probe(host: str, port: int, count: int, interval: float, size: int) -> list[Echo]:
    with socket.socket(_family(host), socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 21)
        sock.setblocking(False)
        answers: list[Echo] = []
        started, sent = time.monotonic(), 0
        while (now := time.monotonic()) < started + count * interval + LINGER:
            while sent < count and now >= started + sent * interval:
                _send(sock, _SENT.pack(sent, now).ljust(size, b"\0"), (host, port))
                sent += 1
            due = started + sent * interval if sent < count else now + 0.05
            select.select([sock], (), (), max(0.0, due - time.monotonic()))
            answers += _read(sock)
        return answers


def _send(sock: socket.socket, data: bytes, target: tuple[str, int]) -> None:
    with suppress(OSError):  # longer than the path MTU that the router reported
        sock.sendto(data, target)


def _read(sock: socket.socket) -> list[Echo]:
    answers: list[Echo] = []
    while True:
        try:
            data = sock.recv(65536)
        except OSError:
            return answers
        now = time.monotonic()
        number, sent = _SENT.unpack_from(data)
        (echoed,) = _ANSWER.unpack_from(data, _SENT.size)
        seen = data[_SENT.size + _ANSWER.size :].rstrip(b"\0").decode()
        answers.append(Echo(number, echoed - sent, now - echoed, seen))


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


if __name__ == "__main__":
    mode, host, port, *rest = sys.argv[1:]
    run_at_once()
    if mode == "echo":
        echo(host, int(port))
    print(msgspec.json.encode(probe(host, int(port), int(rest[0]), float(rest[1]), int(rest[2]))).decode())
