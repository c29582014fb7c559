"""`python -m antiphon_relay.shell.worker_process`: a worker in a process of its own.

It warms up, and stands by until its supervisor passes it the sockets of a slot.
"""

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
from antiphon_relay.shell.public_sockets import PublicSocket
from antiphon_relay.shell.worker import Worker
from antiphon_relay.shell.worker_ipc import SetKeys, SetTransceivers, StartWorker, WorkerChannel, WorkerStatus

STATUS_SECONDS = 0.5
"""Between two status messages of a worker to its supervisor."""

_PR_SET_PDEATHSIG = 1


def main(arguments: Sequence[str]) -> None:
    """Run with the descriptor of the supervisor's socket, the format of the log, and modules to import beforehand."""
    descriptor, log, *modules = arguments
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # meant for the supervisor, which ends its workers
    _die_with_parent()
    logs.configure(log)
    for module in modules:
        importlib.import_module(module)
    gc.freeze()
    trio.run(_serve, WorkerChannel(socket.socket(fileno=int(descriptor))))


async def _serve(channel: WorkerChannel) -> None:
    received = await channel.receive()
    if received is None:
        return
    start, descriptors = received
    if not isinstance(start, StartWorker):
        raise TypeError(f"the first message to a worker is StartWorker, not {type(start).__name__}")
    os.sched_setaffinity(0, {start.core})
    *public, link = [BatchSocket(socket.socket(fileno=descriptor)) for descriptor in descriptors]
    public_sockets = [
        PublicSocket(Ingress(ingress, SIZE[sock.socket.family]), sock, Address(host, port))
        for (ingress, host, port), sock in zip(start.public, public, strict=True)
    ]
    keys = KeyRing.parse(start.secrets)
    registry = CollectorRegistry()
    networks = [read_cluster_network(text) for text in start.networks]
    worker = Worker(public_sockets, link, networks, keys, registry, cluster=start.cluster, redis=start.redis)
    worker.forwarder.set_transceivers(start.transceivers)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.run)
        nursery.start_soon(_send_status, channel, worker, registry)
        while (received := await channel.receive()) is not None:
            message, _ = received
            if isinstance(message, SetTransceivers):
                worker.loop.set_transceivers(message.addresses)
            elif isinstance(message, SetKeys):
                keys.replace(KeyRing.parse(message.secrets))
        nursery.cancel_scope.cancel()


async def _send_status(channel: WorkerChannel, worker: Worker, registry: CollectorRegistry) -> None:
    while True:
        channel.send(WorkerStatus(worker.loop.healthy(), worker.uplink(), take_snapshot(registry)))
        await trio.sleep(STATUS_SECONDS)


def _die_with_parent() -> None:
    """Have the kernel end this process when its parent ends, however that happens (PR_SET_PDEATHSIG, prctl(2))."""
    ffi = FFI()
    ffi.cdef("int prctl(int option, ...);")
    libc: Any = ffi.dlopen(None)
    libc.prctl(_PR_SET_PDEATHSIG, ffi.cast("unsigned long", signal.SIGKILL))


if __name__ == "__main__":
    main(sys.argv[1:])
