"""The choice of the data channel that carries the events of a call, with any label and kind of channel."""

from random import Random

import pytest

from antiphon_common.control import SctpParameters
from antiphon_transceiver.channels import MAX_ERRORS, OURS, CallChannels
from antiphon_transceiver.event_channels import OPENING_DELAY
from antiphon_transceiver.events import EventReceived, MessageRefused
from antiphon_transceiver.sctp import ChannelClosed, DataChannelEndpoint, DataChannelEvent, MessageReceived
from antiphon_transceiver.sctp.chunks import Data
from antiphon_transceiver.sctp.dcep import Open, PayloadProtocol
from antiphon_transceiver.sctp.packet import SctpPacket
from support.net.impairment import Impairment
from support.peers.sctp_pair import forge, last_data
from support.sim.memory_network import MemoryNetwork
from support.sim.work_counter import work_of

FAR = Impairment(delay=0.02)
EVENT = '{"type":"response.create"}'


class ChannelsPair:
    """A client's endpoint (left) and the channels of its call (right)."""

    def __init__(
        self,
        peer: SctpParameters = OURS,
        *,
        impairment: Impairment = FAR,
        client_is_dtls_client: bool = True,
    ) -> None:
        random = Random(1).randbytes
        self.client = DataChannelEndpoint(
            client_is_dtls_client, random, local_port=peer.port, remote_port=OURS.port, peer_max_message_size=1 << 18
        )
        self.channels = CallChannels(peer, not client_is_dtls_client, random)
        self.network: MemoryNetwork[DataChannelEvent, EventReceived | MessageRefused] = MemoryNetwork(
            self.client, self.channels, impairment, seed=1
        )

    def start(self) -> "ChannelsPair":
        self.client.start(self.network.now)
        self.channels.start(self.network.now, None)
        self.run(0.5)
        return self

    def run(self, seconds: float = 1.0) -> None:
        self.network.run(limit=self.network.now + seconds)

    def client_sends(self, channel: int, message: str | bytes = EVENT) -> None:
        self.client.send(channel, message)
        self.run()

    def server_sends(self, name: str) -> None:
        self.channels.send({"type": name})
        self.run()

    @property
    def taken(self) -> int:
        """Return the number of events that the call has received from its client."""
        return sum(isinstance(event, EventReceived) for event in self.network.right.events)

    @property
    def received(self) -> list[tuple[int, str | bytes]]:
        """Return the messages that the client received, with their channels."""
        return [(event.id, event.data) for event in self.network.left.events if isinstance(event, MessageReceived)]


def event(name: str) -> str:
    return f'{{"type":"{name}"}}'


@pytest.mark.parametrize("label", ["oai-events", "", "realtime-channel", "oai", "OAI-EVENTS", "oai-events\0", "é"])
def test_the_only_channel_carries_the_events_whatever_its_label(label: str) -> None:
    call = ChannelsPair().start()
    channel = call.client.open_channel(label)
    call.client_sends(channel)
    call.server_sends("session.created")
    assert call.taken == 1
    assert call.received == [(channel, event("session.created"))]
    assert call.channels.statistics()["open"]


@pytest.mark.parametrize("label", [b"caf\xe9", b"\xff\xfe", b"\xc3"])
def test_a_channel_may_have_a_label_that_is_not_utf_8(label: bytes) -> None:
    call = ChannelsPair().start()
    opening = bytearray(Open("x" * len(label)).encode())
    opening[-len(label) :] = label
    call.client.association.send(2, PayloadProtocol.DCEP, bytes(opening))
    call.client.association.send(2, PayloadProtocol.STRING, EVENT.encode())
    call.run()
    assert call.taken == 1


@pytest.mark.parametrize("client_is_dtls_client", [True, False])
@pytest.mark.parametrize("stream", [0, 1, 5])
def test_the_channel_may_be_on_a_stream_of_either_parity(stream: int, client_is_dtls_client: bool) -> None:
    call = ChannelsPair(client_is_dtls_client=client_is_dtls_client).start()
    call.client.association.send(stream, PayloadProtocol.DCEP, Open("").encode())
    call.client.association.send(stream, PayloadProtocol.STRING, EVENT.encode())
    call.run()
    assert call.taken == 1
    sent = len(call.network.right.sent)
    call.server_sends("session.created")
    assert any(b"session.created" in packet for packet in call.network.right.sent[sent:])


@pytest.mark.parametrize("others_first", [True, False])
def test_oai_events_carries_the_events_among_several_channels(others_first: bool) -> None:
    call = ChannelsPair().start()
    call.channels.send({"type": "session.created"})
    labels = ["chat", "", "oai-events"] if others_first else ["oai-events", "chat", ""]
    channels = {label: call.client.open_channel(label) for label in labels}
    call.run()
    for channel in channels.values():
        call.client_sends(channel)
    call.server_sends("session.updated")
    assert call.taken == 1
    assert call.channels.counters.ignored == 2
    named = channels["oai-events"]
    assert call.received == [(named, event("session.created")), (named, event("session.updated"))]


def test_the_first_of_several_channels_with_other_labels_carries_the_events() -> None:
    call = ChannelsPair().start()
    first, second = call.client.open_channel("a"), call.client.open_channel("b")
    call.run()
    call.client_sends(second)
    call.client_sends(first)
    call.server_sends("session.created")
    assert (call.taken, call.channels.counters.ignored) == (1, 1)
    assert call.received == [(first, event("session.created"))]


def test_events_wait_for_oai_events_when_another_channel_is_opened_right_before() -> None:
    """The OPEN messages have separate packets, so the first channel is the only one for a moment."""
    call = ChannelsPair().start()
    call.channels.send({"type": "session.created"})
    other = call.client.open_channel("chat")
    call.run(OPENING_DELAY / 2)
    assert call.received == []
    named = call.client.open_channel("oai-events")
    call.run()
    assert call.received == [(named, event("session.created"))]
    assert other != named


def test_events_leave_over_a_channel_with_another_label_after_a_moment() -> None:
    call = ChannelsPair().start()
    call.channels.send({"type": "session.created"})
    channel = call.client.open_channel("chat")
    call.run(0.02 + OPENING_DELAY / 2)
    assert call.received == []
    call.run(OPENING_DELAY)
    assert call.received == [(channel, event("session.created"))]


def test_an_event_of_the_client_ends_the_wait() -> None:
    call = ChannelsPair().start()
    call.channels.send({"type": "session.created"})
    channel = call.client.open_channel("chat")
    call.client.send(channel, EVENT)
    call.run(0.05)
    assert call.received == [(channel, event("session.created"))]


@pytest.mark.parametrize("how", ["finish", "abort"])
def test_queued_events_are_sent_before_the_call_ends(how: str) -> None:
    """The call ends while events wait for a channel."""
    call = ChannelsPair().start()
    channel = call.client.open_channel("chat")
    call.run(0.03)
    call.channels.send({"type": "error"})
    if how == "finish":
        call.channels.finish(call.network.now)
    else:
        call.channels.abort(call.network.now)
    call.run()
    assert call.received == [(channel, event("error"))]


def test_a_late_oai_events_channel_carries_the_events_until_it_closes() -> None:
    call = ChannelsPair().start()
    unnamed = call.client.open_channel("")
    call.client_sends(unnamed)
    call.server_sends("one")
    named = call.client.open_channel("oai-events")
    call.run()
    call.client_sends(unnamed)
    call.client_sends(named)
    call.server_sends("two")
    assert (call.taken, call.channels.counters.ignored) == (2, 1)
    call.client.close_channel(named)
    call.run()
    assert ChannelClosed(named) in call.network.left.events
    call.client_sends(unnamed)
    call.server_sends("three")
    assert call.taken == 3
    assert call.received == [(unnamed, event("one")), (named, event("two")), (unnamed, event("three"))]


def test_events_wait_while_every_channel_is_closed() -> None:
    call = ChannelsPair().start()
    channel = call.client.open_channel("")
    call.client_sends(channel)
    call.client.close_channel(channel)
    call.run()
    call.server_sends("waits")
    assert not call.channels.statistics()["open"]
    assert call.received == []
    again = call.client.open_channel("")
    call.run()
    assert call.received == [(again, event("waits"))]


@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"ordered": False},
        {"ordered": False, "max_retransmits": 0},
        {"max_lifetime": 0.5},
        {"protocol": "json"},
    ],
    ids=["reliable", "unordered", "no retransmissions", "limited in time", "with a protocol"],
)
def test_a_channel_of_any_kind_carries_events(kind: dict[str, object]) -> None:
    call = ChannelsPair().start()
    channel = call.client.open_channel("", **kind)  # type: ignore[arg-type]
    call.client_sends(channel)
    call.server_sends("session.created")
    assert call.taken == 1
    assert call.received == [(channel, event("session.created"))]


def test_events_may_be_sent_as_bytes() -> None:
    """Some stacks send every message as binary (PPID 53). We always send text."""
    call = ChannelsPair().start()
    channel = call.client.open_channel("oai-events")
    call.client_sends(channel, '{"type":"conversation.item.create","text":"héllo"}'.encode())
    call.client_sends(channel, b'{"type":"\xff"}')
    call.client_sends(channel, b"")
    assert call.taken == 1
    assert call.channels.counters.malformed == 2
    assert all(isinstance(data, str) for _, data in call.received)


@pytest.mark.parametrize(
    "peer", [SctpParameters(5001, 1 << 18), SctpParameters(5000, 0), SctpParameters(5000, 1 << 30)]
)
def test_port_and_maximum_message_size_of_the_offer_are_used(peer: SctpParameters) -> None:
    """`a=max-message-size:0` means that any size will do (RFC 8841 §6)."""
    call = ChannelsPair(peer).start()
    channel = call.client.open_channel("oai-events")
    call.client_sends(channel)
    call.channels.send({"type": "x" * 100_000})
    call.run(5.0)
    assert call.taken == 1
    assert [len(data) for _, data in call.received] == [100_011]


def test_an_event_that_arrives_before_the_open_of_its_channel_is_delivered() -> None:
    call = ChannelsPair().start()
    call.client.association.send(2, PayloadProtocol.STRING, EVENT.encode(), ordered=False)
    call.run()
    assert call.taken == 0
    call.client.association.send(2, PayloadProtocol.DCEP, Open("oai-events", ordered=False).encode())
    call.run()
    assert call.taken == 1


def test_the_errors_for_malformed_events_of_one_packet_are_bounded() -> None:
    """A packet full of one-byte messages. Each error is two hundred times as long."""
    call = ChannelsPair().start()
    channel = call.client.open_channel("oai-events")
    call.run()
    last = last_data(call.network.left)
    chunks = [Data(last.tsn + n & 0xFFFFFFFF, channel, n, PayloadProtocol.STRING, b"x") for n in range(1, 59)]
    datagram = forge(call.network.left, *chunks)
    work = work_of(lambda: call.channels.receive_datagram(datagram, None, call.network.now))
    assert work.calls < 4_000
    call.run()
    assert len(SctpPacket.decode(datagram).chunks) == call.channels.counters.malformed == 58
    assert len(call.received) == MAX_ERRORS
