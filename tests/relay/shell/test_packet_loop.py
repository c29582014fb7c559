"""The packet loop on real sockets, with a forwarder that fails on some packets."""

import logging
import os
import socket
import time
from collections.abc import Sequence
from ipaddress import ip_network

import pytest
import trio

from antiphon_common.keys import KeyRing
from antiphon_common.link import LinkKeys
from antiphon_common.routing import ClusterNetworks, RouteTokens
from antiphon_common.settings import Address
from antiphon_common.shell.udp import BatchSocket
from antiphon_relay.flows import Datagram, Ingress
from antiphon_relay.forwarder import Forwarder
from antiphon_relay.shell.packet_loop import PacketLoop
from antiphon_relay.shell.public_sockets import PublicSocket
from support.fakes.link_owner import LinkOwner
from support.sim.relay_harness import binding_request

POISON = b"\x80\x6fpoison"
RTP = b"\x80\x6frtp"


class Fragile(Forwarder):
    """A forwarder that raises on a packet with a filled outbox, or queues a datagram that no socket can send."""

    def forward_uplink(
        self, ingress: Ingress, batch: Sequence[Datagram], now: float, *, overloaded: bool = False
    ) -> None:
        super().forward_uplink(ingress, batch, now, overloaded=overloaded)
        if any(data == POISON for data, _ in batch):
            self.link_outbox.append((b"", b"an address of no family"))
        if any(data == POISON[:-1] for data, _ in batch):
            raise RuntimeError("planted")


@pytest.mark.parametrize("poison", [POISON, POISON[:-1]], ids=["an address that cannot be sent to", "an exception"])
async def test_an_exception_in_the_packet_loop_drops_one_batch_only(
    poison: bytes, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    keys = KeyRing.generate(os.urandom)
    with (
        BatchSocket.open(("127.0.0.1", 0)) as media,
        BatchSocket.open(("127.0.0.1", 0)) as link,
        BatchSocket.open(("127.0.0.1", 0)) as theirs,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        owner = LinkOwner(keys, theirs)
        nursery.start_soon(owner.run)
        ingress = Ingress(7, 16)
        forwarder = Fragile(
            [ingress],
            16,
            RouteTokens(keys.route),
            ClusterNetworks([(0, ip_network("127.0.0.0/24"), 1, 65535)]),
            LinkKeys(keys.link),
            os.urandom,
            unix_now=time.time(),
        )
        loop = PacketLoop(forwarder, [PublicSocket(ingress, media, Address(*media.address))], link, coalesce=False)
        nursery.start_soon(loop.run)
        client.setblocking(False)
        client.bind(("127.0.0.1", 0))

        async def comes_back(data: bytes) -> bool:
            client.sendto(data, media.address)
            with trio.move_on_after(5):
                while True:
                    await trio.lowlevel.wait_readable(client)
                    if client.recv(2048) == data:
                        return True
            return False

        assert await comes_back(binding_request(owner.token()))
        with caplog.at_level(logging.ERROR):
            for count in range(1, 4):
                client.sendto(poison, media.address)
                with trio.fail_after(5):
                    while forwarder.counters.failed_turns < count:
                        await trio.sleep(0.01)
                assert await comes_back(RTP)
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        assert loop.healthy()
        nursery.cancel_scope.cancel()
