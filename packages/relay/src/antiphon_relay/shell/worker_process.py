"""`python -m antiphon_relay.shell.worker_process`: a worker in a process of its own. It warms up, and then waits
for its supervisor to hand it the sockets of a place."""

import gc
import importlib
import os
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any

import trio
from cffi import FFI
from prometheus_client import CollectorRegistry

from antiphon_common import logs
from antiphon_common.keys import KeyRing
from antiphon_common.metrics import take_snapshot
from antiphon_common.settings import Address
from antiphon_common.settings.values import read_cluster_network
from antiphon_common.shell.udp import BatchSocket
from antiphon_common.sockaddr import SIZE
from antiphon_relay.flows import Ingress
from antiphon_relay.shell.public_sockets import MediaSocket
from antiphon_relay.shell.worker import Worker
from antiphon_relay.shell.worker_ipc import Adopt, Channel, Know, Rekey, Report

REPORT_SECONDS = 0.5
"""Between two reports of a worker to its supervisor."""

_PR_SET_PDEATHSIG = 1


def main(arguments: Sequence[str]) -> None:
    """Take the descriptor of the supervisor's socket, the form of the log, and modules to import beforehand."""
    descriptor, log, *modules = arguments
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # meant for the supervisor, with whom a worker ends
    _die_with_parent()
    logs.configure(log)
    for module in modules:
        importlib.import_module(module)
    gc.freeze()
    trio.run(_serve, Channel(socket.socket(fileno=int(descriptor))))


async def _serve(channel: Channel) -> None:
    received = await channel.receive()
    if received is None:
        return
    adopt, descriptors = received
    if not isinstance(adopt, Adopt):
        raise TypeError(f"{type(adopt).__name__} is not how a worker begins")
    os.sched_setaffinity(0, {adopt.core})
    *public, link = [BatchSocket(socket.socket(fileno=descriptor)) for descriptor in descriptors]
    media = [
        MediaSocket(Ingress(told.ingress, SIZE[sock.socket.family]), sock, Address(told.host, told.port))
        for told, sock in zip(adopt.media, public, strict=True)
    ]
    keys = KeyRing.parse(adopt.secrets)
    registry = CollectorRegistry()
    networks = [read_cluster_network(text) for text in adopt.networks]
    worker = Worker(media, link, networks, keys, registry, cluster=adopt.cluster, redis=adopt.redis)
    worker.forwarder.know(adopt.known)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.run)
        nursery.start_soon(_report, channel, worker, registry)
        while (received := await channel.receive()) is not None:
            message, _ = received
            if isinstance(message, Know):
                worker.loop.know(message.addresses)
            elif isinstance(message, Rekey):
                keys.replace(KeyRing.parse(message.secrets))
        nursery.cancel_scope.cancel()


async def _report(channel: Channel, worker: Worker, registry: CollectorRegistry) -> None:
    while True:
        channel.send(Report(worker.loop.healthy(), worker.uplink(), take_snapshot(registry)))
        await trio.sleep(REPORT_SECONDS)


def _die_with_parent() -> None:
    """Have the kernel end this process with the one that started it, however that ends."""
    ffi = FFI()
    ffi.cdef("int prctl(int option, ...);")
    libc: Any = ffi.dlopen(None)
    libc.prctl(_PR_SET_PDEATHSIG, ffi.cast("unsigned long", signal.SIGKILL))


if __name__ == "__main__":
    main(sys.argv[1:])
