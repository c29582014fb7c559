"""Batches of datagrams over real sockets."""

import socket

import pytest

from antiphon_common.link import MAX_LINK_DATAGRAM
from antiphon_common.shell.system_calls import BATCH, PlainCalls, SystemCalls
from antiphon_common.shell.udp import BatchSocket
from antiphon_common.sockaddr import decode_address, encode_address

HOSTS = ["127.0.0.1", "::1"]


async def receive(sock: BatchSocket, count: int) -> list[tuple[bytes, tuple[str, int]]]:
    received: list[tuple[bytes, tuple[str, int]]] = []
    while len(received) < count:
        await sock.wait_readable()
        received += sock.receive_batch()
    return received


@pytest.mark.parametrize("host", HOSTS)
async def test_many_datagrams_arrive_in_order_with_their_source(host: str) -> None:
    with BatchSocket.open((host, 0)) as sender, BatchSocket.open((host, 0)) as receiver:
        expected = [(b"%d" % number * (number % 7), sender.address) for number in range(BATCH * 2 + 5)]
        for data, _ in expected:
            sender.queue(data, receiver.address)
        sender.flush()
        assert await receive(receiver, len(expected)) == expected
        assert receiver.receive_batch() == []
        assert sender.counters.sent == receiver.counters.received == len(expected)


@pytest.mark.parametrize("host", HOSTS)
async def test_datagrams_of_any_size_arrive(host: str) -> None:
    with BatchSocket.open((host, 0)) as sock, socket.socket(sock.socket.family, socket.SOCK_DGRAM) as other:
        for size in (0, MAX_LINK_DATAGRAM, MAX_LINK_DATAGRAM + 1, 1):
            other.sendto(bytes(size), sock.address)
        assert [len(data) for data, _ in await receive(sock, 3)] == [0, MAX_LINK_DATAGRAM, 1]
        assert sock.counters.oversize == 1


async def test_a_failed_send_is_counted_and_the_other_datagrams_are_sent() -> None:
    with BatchSocket.open(("127.0.0.1", 0)) as sock:
        for data, address in [
            (b"first", sock.address),
            (b"nowhere", ("127.0.0.1", 0)),
            (b"other family", ("::1", 9)),
            (bytes(MAX_LINK_DATAGRAM + 1), sock.address),
            (b"second", sock.address),
        ]:
            sock.queue(data, address)
        sock.flush()
        assert [data for data, _ in await receive(sock, 2)] == [b"first", b"second"]
        assert (sock.counters.sent, sock.counters.failed) == (2, 3)


async def test_an_unreachable_receiver_does_not_affect_other_datagrams() -> None:
    with BatchSocket.open(("127.0.0.1", 0)) as gone:
        address = gone.address
    with BatchSocket.open(("127.0.0.1", 0)) as sock:
        for _ in range(3):
            sock.queue(b"anybody?", address)
            sock.flush()
            assert sock.receive_batch() == []
        sock.queue(b"hello", sock.address)
        sock.flush()
        assert [data for data, _ in await receive(sock, 1)] == [b"hello"]


async def test_drops_of_the_kernel_are_counted() -> None:
    with BatchSocket.open(("127.0.0.1", 0)) as sender, BatchSocket.open(("127.0.0.1", 0)) as receiver:
        receiver.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        destination = encode_address(*receiver.address)
        sender.send([(bytes(1000), destination)] * 200)
        while receiver.receive():
            pass
        sender.send([(b"one more", destination)])
        assert len(receiver.receive()) == 1
        assert receiver.counters.overflowed == 201 - receiver.counters.received > 0


@pytest.mark.parametrize("host", HOSTS)
async def test_plain_calls_behave_like_message_vectors(host: str) -> None:
    with BatchSocket.open((host, 0)) as sock:
        plain: SystemCalls = PlainCalls(sock.socket, sock.counters)
        here = encode_address(*sock.address)
        plain.send([(b"one", here), (bytes(MAX_LINK_DATAGRAM + 1), here), (b"two", here)])
        await sock.wait_readable()
        assert plain.receive() == [(b"one", here), (b"two", here)]
        assert decode_address(here) == sock.address
        assert sock.counters.oversize == 1


def test_an_address_of_another_host_raises_an_error_that_names_it() -> None:
    with pytest.raises(OSError, match=r"cannot have UDP port 3478 of 192\.0\.2\.200"):
        BatchSocket.open(("192.0.2.200", 3478))
    with BatchSocket.open(("192.0.2.200", 0), freebind=True) as sock:
        assert sock.address[0] == "192.0.2.200"
