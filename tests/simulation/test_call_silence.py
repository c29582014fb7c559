"""A caller that returns after seconds of silence: anything authenticated reconnects it at once."""

import itertools
from collections.abc import Callable

import pytest

from antiphon.client.call import AudioReceived
from antiphon_common.demux import Protocol, classify
from antiphon_transceiver.ice import Disconnected, Reconnected
from support.sim.call_pair import CallPair, opus_packet

SHORT, LONG = 6.0, 27.0


def silent_for(gap: float, *, data_channels: bool = False) -> CallPair:
    """Return a connected pair after `gap` seconds without a datagram of the caller. The network works again."""
    pair = CallPair(data_channels=data_channels).connect()
    pair.talk(1.0)
    pair.network.left.rewrite = pair.network.right.rewrite = lambda datagram: []
    pair.network.run(limit=pair.network.now + gap)
    assert pair.call.state == "disconnected"
    pair.network.left.rewrite = pair.network.right.rewrite = lambda datagram: [datagram]
    return pair


def send_audio(pair: CallPair) -> None:
    pair.client.send_audio(opus_packet(pair.sent), round(pair.network.now * 48000), pair.network.now)


def send_report(pair: CallPair) -> None:
    assert pair.client.transport is not None
    pair.client.transport.send_rtcp(pair.client.reporter.wrap(()))


def send_message(pair: CallPair) -> None:
    pair.client.send_message("{}")
    pair.client.handle_timeout(pair.network.now)


def send_check(pair: CallPair) -> None:
    assert pair.client.transport is not None
    pair.client.agent.nominate(pair.network.right.path, pair.network.now)
    pair.client.transport.flush(pair.network.now)


SIGNS = [
    (Protocol.RTP, send_audio),
    (Protocol.RTCP, send_report),
    (Protocol.DTLS, send_message),
    (Protocol.STUN, send_check),
]


@pytest.mark.parametrize("gap", [SHORT, 20.0, 24.0, LONG])
@pytest.mark.parametrize(("protocol", "send"), SIGNS, ids=[protocol.name for protocol, _ in SIGNS])
def test_one_authenticated_packet_of_any_kind_reconnects_the_call(
    protocol: Protocol, send: Callable[[CallPair], None], gap: float
) -> None:
    pair = silent_for(gap, data_channels=True)
    now = pair.network.now
    while pair.client.poll_transmit() is not None:
        continue
    send(pair)
    sent = [transmit.data for transmit in iter(pair.client.poll_transmit, None)]
    (datagram, *_) = (data for data in sent if classify(data) == protocol)
    pair.call.receive_datagram(datagram, pair.network.left.path, now)
    assert pair.call.state == "connected"
    assert Reconnected() in list(iter(pair.call.poll_event, None))


@pytest.mark.parametrize("gap", [SHORT, LONG])
def test_a_caller_that_returns_with_media_only_receives_audio_within_two_frames(gap: float) -> None:
    """Checks and reports are late, and answers to our checks are lost."""
    pair = silent_for(gap)
    pair.network.left.rewrite = lambda datagram: [datagram] if classify(datagram) == Protocol.RTP else []
    back, before = pair.network.now, len(pair.caller_received)
    while len(pair.caller_received) == before:
        send_audio(pair)
        pair.play(opus_packet(pair.sent))
        pair.sent += 1
        pair.network.drain()
        pair.network.run(
            lambda: isinstance(pair.network.left.events[-1], AudioReceived) and len(pair.caller_received) > before,
            limit=pair.network.now + 0.02,
        )
        assert pair.network.now - back <= 0.05 + 2 * 0.02, "a round trip and two frames"


def test_data_channel_messages_keep_a_muted_caller_connected() -> None:
    """A muted caller sends no media. Its data channel packets are authenticated too."""
    pair = CallPair(data_channels=True).connect()
    pair.network.left.rewrite = lambda datagram: [datagram] if classify(datagram) == Protocol.DTLS else []
    for _ in range(20):
        pair.client.send_message("{}")
        pair.client.handle_timeout(pair.network.now)
        pair.network.drain()
        pair.network.run(limit=pair.network.now + 1.0)
    assert pair.call.ended is None
    assert not any(isinstance(event, Disconnected) for event in pair.network.right.events)


@pytest.mark.parametrize("lost", [False, True])
def test_a_caller_that_sends_media_receives_a_check_every_few_seconds(lost: bool) -> None:
    """Some embedded clients hang up after 10 s without a check. Every second check may be lost."""
    pair = CallPair().connect()
    times: list[float] = [pair.network.now]
    checks = 0

    def count(datagram: bytes) -> list[bytes]:
        nonlocal checks
        if datagram[:2] == b"\0\1":
            checks += 1
            if lost and checks % 2:
                return []
            times.append(pair.network.now)
        return [datagram]

    pair.network.right.rewrite = count
    for _ in range(60):
        pair.talk(0.8)
    times.append(pair.network.now)
    assert max(later - earlier for earlier, later in itertools.pairwise(times)) < 10.0
    assert pair.call.state == "connected"


def test_unauthenticated_datagrams_do_not_reconnect_a_caller() -> None:
    pair = silent_for(SHORT)
    for junk in (b"\x80\x6f" + bytes(60), b"\x80\xc9" + bytes(60), b"\x17\xfe\xfd\0\1" + bytes(60), bytes(60)):
        pair.call.receive_datagram(junk, pair.network.left.path, pair.network.now)
    assert pair.call.state == "disconnected"
