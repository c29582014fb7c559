"""Delivery and order with packet losses on reliable, unordered and partially reliable channels."""

from collections.abc import Callable

import pytest

from antiphon_transceiver.sctp import DEFAULT_MTU
from antiphon_transceiver.sctp.chunks import ForwardTsn
from antiphon_transceiver.sctp.endpoint import DTLS_OVERHEAD, MIN_MTU
from antiphon_transceiver.sctp.packet import SctpPacket
from support.net.impairment import Impairment
from support.peers.sctp_pair import SctpPeers, data_of, make_sctp_peers, messages

FAR = Impairment(delay=0.05)


def lose(peers: SctpPeers, *payloads: bytes, times: int = 1) -> None:
    """Lose each chunk of the client that begins with one of `payloads` the given number of times."""
    left = dict.fromkeys(payloads, times)

    def rewrite(datagram: bytes) -> list[bytes]:
        for data in data_of(datagram):
            for payload in payloads:
                if data.payload.startswith(payload) and left[payload]:
                    left[payload] -= 1
                    return []
        return [datagram]

    peers.network.left.rewrite = rewrite


def send_apart(peers: SctpPeers, channel: int, *payloads: bytes) -> None:
    """Send each message in a separate packet."""
    for payload in payloads:
        peers.client.send(channel, payload)
        peers.run(0.001)


def open_channel(peers: SctpPeers, **options: object) -> int:
    channel = peers.client.open_channel("test", **options)  # type: ignore[arg-type]
    peers.run(1.0)
    return channel


def test_ordered_messages_wait_for_a_lost_one() -> None:
    peers = make_sctp_peers(impairment=FAR).establish()
    channel = open_channel(peers)
    lose(peers, b"2")
    send_apart(peers, channel, b"1", b"2", b"3", b"4", b"5")
    peers.run(0.06)
    assert messages(peers.network.right) == [b"1"]
    peers.run(1.0)
    assert messages(peers.network.right) == [b"1", b"2", b"3", b"4", b"5"]
    assert peers.client.association.sender.counters.timeouts == 0  # SACKs reported the loss


def test_unordered_messages_do_not_wait_for_a_lost_one() -> None:
    peers = make_sctp_peers(impairment=FAR).establish()
    channel = open_channel(peers, ordered=False)
    lose(peers, b"2")
    send_apart(peers, channel, b"1", b"2", b"3")
    peers.run(1.0)
    assert messages(peers.network.right) == [b"1", b"3", b"2"]


def test_channels_do_not_wait_for_each_other() -> None:
    peers = make_sctp_peers(impairment=FAR).establish()
    first, second = open_channel(peers), open_channel(peers)
    lose(peers, b"a1")
    send_apart(peers, first, b"a1")
    send_apart(peers, second, b"b1")
    send_apart(peers, first, b"a2")
    peers.run(1.0)
    assert messages(peers.network.right) == [b"b1", b"a1", b"a2"]


@pytest.mark.parametrize(("limit", "arrives"), [(0, False), (1, False), (2, True)])
def test_a_message_is_retransmitted_up_to_the_limit_of_its_channel(limit: int, arrives: bool) -> None:
    peers = make_sctp_peers(impairment=FAR).establish()
    channel = open_channel(peers, max_retransmits=limit)
    lose(peers, b"x", times=2)
    send_apart(peers, channel, b"1", b"x", b"2")
    peers.run(5.0)
    assert messages(peers.network.right) == ([b"1", b"x", b"2"] if arrives else [b"1", b"2"])
    assert peers.client.association.sender.idle
    assert peers.client.buffered(channel) == 0


def test_a_message_is_abandoned_when_its_lifetime_ends() -> None:
    peers = make_sctp_peers(impairment=FAR).establish()
    channel = open_channel(peers, max_lifetime=0.2)
    lose(peers, b"x", times=100)
    send_apart(peers, channel, b"1", b"x", b"2")
    peers.run(2.0)
    assert messages(peers.network.right) == [b"1", b"2"]
    send_apart(peers, channel, b"3")
    peers.run(1.0)
    assert messages(peers.network.right) == [b"1", b"2", b"3"]


def test_an_abandoned_long_message_is_freed() -> None:
    peers = make_sctp_peers(impairment=FAR).establish()
    channel = open_channel(peers, max_lifetime=0.08)
    long = bytes(200_000)
    peers.client.send(channel, long)  # takes several round trips, of 100 ms each
    peers.client.send(channel, b"after")
    peers.run(0.2)
    other = peers.client.open_channel("other")
    peers.client.send(other, b"more")
    peers.run(2.0)
    assert messages(peers.network.right) == [b"more"]
    assert peers.client.association.sender.counters.abandoned == 2
    assert peers.server.association.receiver.reassembler.size == 0
    peers.client.send(channel, b"again")
    peers.run(1.0)
    assert messages(peers.network.right, channel) == [b"again"]


def test_a_lost_forward_tsn_is_retransmitted() -> None:
    peers = make_sctp_peers(impairment=FAR).establish()
    channel = open_channel(peers, max_retransmits=0)
    lose_once = lose_first_forward_tsn(peers)
    lose(peers, b"x")
    dropping = peers.network.left.rewrite
    peers.network.left.rewrite = lambda datagram: [d for kept in dropping(datagram) for d in lose_once(kept)]
    send_apart(peers, channel, b"x")
    peers.run(3.0)
    assert peers.client.association.sender.idle
    send_apart(peers, channel, b"2")
    peers.run(1.0)
    assert messages(peers.network.right) == [b"2"]


def lose_first_forward_tsn(peers: SctpPeers) -> Callable[[bytes], list[bytes]]:
    seen: list[bytes] = []

    def rewrite(datagram: bytes) -> list[bytes]:
        if any(isinstance(chunk, ForwardTsn) for chunk in SctpPacket.decode(datagram).chunks) and not seen:
            seen.append(datagram)
            return []
        return [datagram]

    return rewrite


@pytest.mark.parametrize("seed", range(30))
def test_limited_channels_deliver_in_order_and_never_twice(seed: int) -> None:
    impairment = Impairment(loss=0.15, delay=0.02, reordering=0.2, duplication=0.1)
    peers = make_sctp_peers(seed, impairment).establish()
    channels = [
        peers.client.open_channel("reliable"),
        peers.client.open_channel("counted", max_retransmits=seed % 3),
        peers.client.open_channel("timed", max_lifetime=0.1),
    ]
    sent = [bytes([number]) * (50 + number * 100) for number in range(60)]
    for number, message in enumerate(sent):
        peers.client.send(channels[number % 3], message)
        peers.run(0.02)
    assert peers.network.run(lambda: peers.client.association.sender.idle, limit=120.0), f"seed {seed}"
    peers.run(1.0)
    for index, channel in enumerate(channels):
        got, expected = messages(peers.network.right, channel), sent[index::3]
        assert got == [message for message in expected if message in got], f"seed {seed}"
        assert got == expected or index, f"seed {seed}"
    inbound = peers.server.association.receiver
    assert (inbound.reassembler.size, inbound.reassembler.chunks) == (0, 0), f"seed {seed}"


@pytest.mark.parametrize("mtu", [MIN_MTU, 1000, DEFAULT_MTU, 1200, 1400])
def test_no_datagram_exceeds_the_mtu(mtu: int) -> None:
    peers = make_sctp_peers(3, Impairment(loss=0.05, delay=0.01, mtu=mtu - DTLS_OVERHEAD), mtu=mtu).establish()
    for sender in (peers.client, peers.server):
        channel = sender.open_channel("x" * 500)
        sender.send(channel, bytes(262_144))
        for size in range(1, 2000, 7):
            sender.send(channel, bytes(size))
    peers.run(60.0)
    expected = [262_144, *range(1, 2000, 7)]
    for station in (peers.network.left, peers.network.right):
        assert [len(message) for message in messages(station)] == expected
        assert station.link.too_long == 0


def test_the_mtu_may_change_during_a_transfer() -> None:
    peers = make_sctp_peers(impairment=FAR).establish()
    channel = open_channel(peers)
    peers.client.send(channel, bytes(100_000))
    peers.run(0.06)
    sent = len(peers.network.left.sent)
    peers.client.set_mtu(700)
    peers.run(5.0)
    assert max(map(len, peers.network.left.sent[sent:])) <= 700 - DTLS_OVERHEAD
    assert messages(peers.network.right) == [bytes(100_000)]
