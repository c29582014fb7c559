"""Data channels open and close, from either side."""

from collections.abc import Callable

import msgspec
import pytest

from antiphon_common.errors import LocalProtocolError
from antiphon_transceiver.sctp import ChannelClosed, ChannelOpened, DataChannelEndpoint, dcep
from antiphon_transceiver.sctp.chunks import Data, Init, Reconfig
from antiphon_transceiver.sctp.data_receiver import RECEIVE_BUFFER
from antiphon_transceiver.sctp.dcep import Open, PayloadProtocol
from antiphon_transceiver.sctp.early_messages import MAX_EARLY_BYTES, MAX_EARLY_MESSAGES
from antiphon_transceiver.sctp.endpoint import MAX_CHANNELS
from antiphon_transceiver.sctp.packet import SctpPacket
from antiphon_transceiver.sctp.parameters import ParameterType, ReconfigResponse, ReconfigResult
from support.net.impairment import Impairment
from support.peers.sctp_pair import SctpPeers, chunks_of, data_of, forge, last_data, make_sctp_peers, messages, opened

FAR = Impairment(delay=0.05)


def test_both_sides_open_channels_with_different_stream_ids() -> None:
    peers = make_sctp_peers(impairment=FAR).establish()
    ours = [peers.client.open_channel(f"c{number}") for number in range(3)]
    theirs = [peers.server.open_channel(f"s{number}") for number in range(3)]
    assert (ours, theirs) == ([0, 2, 4], [1, 3, 5])
    peers.run(1.0)
    for station, mine in ((peers.network.left, "c"), (peers.network.right, "s")):
        seen = {event.label: (event.id, event.by_peer) for event in opened(station)}
        expected = {f"c{n}": (2 * n, mine != "c") for n in range(3)} | {
            f"s{n}": (2 * n + 1, mine != "s") for n in range(3)
        }
        assert seen == expected


def test_a_channel_has_the_parameters_of_its_opener() -> None:
    peers = make_sctp_peers().establish()
    peers.client.open_channel("a", ordered=False, max_retransmits=4, protocol="p")
    peers.client.open_channel("ü", max_lifetime=0.25)
    peers.run(1.0)
    assert opened(peers.network.right) == [
        ChannelOpened(0, "a", "p", False, 4, None, True),
        ChannelOpened(2, "ü", "", True, None, 0.25, True),
    ]
    assert opened(peers.network.left)[0] == ChannelOpened(0, "a", "p", False, 4, None, False)


def test_messages_of_every_kind_are_delivered() -> None:
    peers = make_sctp_peers().establish()
    sent: list[str | bytes] = ["text", "", b"", b"\0", "ä€😀", bytes(262_144)]
    channel = peers.client.open_channel("test")
    for message in sent:
        peers.client.send(channel, message)
    peers.run(5.0)
    assert messages(peers.network.right) == sent


def test_a_negotiated_channel_sends_no_open() -> None:
    peers = make_sctp_peers(impairment=FAR)
    for endpoint in (peers.client, peers.server):
        assert endpoint.open_channel("both", id=7) == 7
    peers.establish()
    peers.client.send(7, "hello")
    peers.server.send(7, "hello")
    peers.run(1.0)
    for station in (peers.network.left, peers.network.right):
        assert [event.id for event in opened(station)] == [7]
        assert messages(station) == ["hello"]


@pytest.mark.parametrize("by_opener", [True, False])
def test_closing_a_channel_delivers_its_messages_first(by_opener: bool) -> None:
    peers = make_sctp_peers(impairment=FAR).establish()
    channel = peers.client.open_channel("test")
    peers.run(1.0)
    closer, other = (peers.client, peers.network.right) if by_opener else (peers.server, peers.network.left)
    closer.send(channel, bytes(100_000))
    closer.close_channel(channel)
    closer.close_channel(channel)
    with pytest.raises(LocalProtocolError):
        closer.send(channel, "too late")
    peers.run(5.0)
    assert messages(other) == [bytes(100_000)]
    for station in (peers.network.left, peers.network.right):
        assert station.events[-1] == ChannelClosed(channel)
        assert station.events.count(ChannelClosed(channel)) == 1


def test_both_sides_close_the_same_channel() -> None:
    peers = make_sctp_peers(impairment=FAR).establish()
    channel = peers.client.open_channel("test")
    peers.run(1.0)
    peers.client.close_channel(channel)
    peers.server.close_channel(channel)
    peers.run(1.0)
    for station in (peers.network.left, peers.network.right):
        assert station.events.count(ChannelClosed(channel)) == 1


@pytest.mark.parametrize("seed", range(20))
def test_ids_are_reused_over_a_lossy_network(seed: int) -> None:
    peers = make_sctp_peers(seed, Impairment(loss=0.2, delay=0.02, reordering=0.2, duplication=0.1)).establish()
    for turn in range(5):
        channel = peers.client.open_channel(f"turn {turn}")
        assert channel == 0
        peers.client.send(channel, f"message {turn}")
        peers.client.close_channel(channel)
        closed = closed_times(peers, turn + 1)
        assert peers.network.run(closed, limit=peers.network.now + 30.0), f"seed {seed}"
    assert messages(peers.network.right) == [f"message {turn}" for turn in range(5)], f"seed {seed}"
    assert [event.label for event in opened(peers.network.right)] == [f"turn {turn}" for turn in range(5)]


def closed_times(peers: SctpPeers, times: int) -> Callable[[], bool]:
    stations = (peers.network.left, peers.network.right)
    return lambda: all(station.events.count(ChannelClosed(0)) == times for station in stations)


def test_a_reset_request_in_progress_is_repeated() -> None:
    peers = make_sctp_peers().establish()
    channel = peers.client.open_channel("test")
    peers.run(1.0)
    peers.network.right.rewrite = answer_first_reset_with(ReconfigResult.IN_PROGRESS)
    peers.client.close_channel(channel)
    peers.run(3.0)
    assert ChannelClosed(channel) in peers.network.left.events


def answer_first_reset_with(result: ReconfigResult) -> Callable[[bytes], list[bytes]]:
    seen: list[ReconfigResponse] = []

    def rewrite(datagram: bytes) -> list[bytes]:
        packet = SctpPacket.decode(datagram)
        for chunk in packet.chunks:
            if isinstance(chunk, Reconfig) and chunk.parameters[0].type == ParameterType.RECONFIG_RESPONSE and not seen:
                response = ReconfigResponse.decode(chunk.parameters[0].value)
                seen.append(response)
                changed = Reconfig((ReconfigResponse(response.sequence, result).encode(),))
                return [packet._replace(chunks=[changed]).encode()]
        return [datagram]

    return rewrite


def rewriting_init(change: Callable[[Init], Init]) -> Callable[[bytes], list[bytes]]:
    """Change INIT and INIT ACK in flight."""

    def rewrite(datagram: bytes) -> list[bytes]:
        packet = SctpPacket.decode(datagram)
        changed = [change(chunk) if isinstance(chunk, Init) else chunk for chunk in packet.chunks]
        return [packet._replace(chunks=changed).encode()]

    return rewrite


def test_a_peer_without_re_config_gets_no_reset_request() -> None:
    peers = make_sctp_peers()

    def without_extensions(init: Init) -> Init:
        kept = tuple(parameter for parameter in init.parameters if parameter.type == ParameterType.STATE_COOKIE)
        return msgspec.structs.replace(init, parameters=kept)

    peers.network.right.rewrite = rewriting_init(without_extensions)
    peers.establish()
    channel = peers.client.open_channel("test", max_retransmits=0)
    peers.client.send(channel, "hello")
    peers.client.close_channel(channel)
    peers.run(3.0)
    assert messages(peers.network.right) == ["hello"]
    assert peers.network.left.events[-1] == ChannelClosed(channel)
    assert not any("Reconfig" in chunks_of(packet) for packet in peers.network.left.sent)


@pytest.mark.parametrize(
    ("stream", "payload"),
    [(2, b"\x03\x09" + bytes(10)), (0, b"\x03"), (4, Open("x" * 5000).encode())],
    ids=["bad type", "too short", "too long"],
)
def test_a_channel_that_cannot_be_opened_is_refused(stream: int, payload: bytes) -> None:
    peers = make_sctp_peers().establish()
    peers.client.association.send(stream, PayloadProtocol.DCEP, payload)
    peers.run(1.0)
    assert opened(peers.network.right) == []
    assert peers.server.counters.refused == 1
    reconfigs = [packet for packet in peers.network.right.sent if "Reconfig" in chunks_of(packet)]
    assert len(reconfigs) == 1  # it resets the stream, so that the channel of the opener closes


@pytest.mark.parametrize("stream", [0, 1, 2, 3])
@pytest.mark.parametrize("by_dtls_client", [True, False])
def test_a_peer_may_open_a_channel_on_a_stream_of_either_parity(stream: int, by_dtls_client: bool) -> None:
    """RFC 8832 §6 gives each role a parity and lets a peer refuse the other. Some clients always open stream 0."""
    peers = make_sctp_peers(impairment=FAR).establish()
    opener, taker, station = (
        (peers.client, peers.server, peers.network.right)
        if by_dtls_client
        else (peers.server, peers.client, peers.network.left)
    )
    opener.association.send(stream, PayloadProtocol.DCEP, Open("events").encode())
    opener.association.send(stream, PayloadProtocol.STRING, b"hello")
    peers.run(1.0)
    assert [(event.id, event.label, event.by_peer) for event in opened(station)] == [(stream, "events", True)]
    assert messages(station) == ["hello"]
    taker.send(stream, "back")
    own = taker.open_channel("ours")
    assert own != stream
    peers.run(1.0)
    assert taker.buffered(stream) == 0
    assert taker.counters.refused == 0


def test_both_sides_open_a_channel_on_the_same_stream() -> None:
    """OPEN messages cross on one stream. Both sides acknowledge them, so that it is one channel."""
    peers = make_sctp_peers(impairment=FAR).establish()
    channel = peers.client.open_channel("client's")
    peers.server.association.send(channel, PayloadProtocol.DCEP, Open("server's").encode())
    peers.client.send(channel, "hello")
    peers.server.association.send(channel, PayloadProtocol.STRING, b"hello")
    peers.run(1.0)
    assert [(event.id, event.label) for event in opened(peers.network.left)] == [(channel, "client's")]
    assert messages(peers.network.left) == messages(peers.network.right) == ["hello"]
    acknowledgements = [
        data for packet in peers.network.left.sent for data in data_of(packet) if data.payload == dcep.ACK
    ]
    assert [data.stream for data in acknowledgements] == [channel]


@pytest.mark.parametrize("acknowledgement", [b"\2", b"\2\0\0\0"])
def test_an_acknowledgement_opens_a_channel_even_if_it_is_padded(acknowledgement: bytes) -> None:
    peers = make_sctp_peers(impairment=FAR).establish()
    channel = peers.client.open_channel("test")
    peers.network.right.rewrite = without_acknowledgement
    peers.run(1.0)
    assert opened(peers.network.left) == []
    peers.network.right.rewrite = lambda datagram: [datagram]
    peers.server.association.send(channel, PayloadProtocol.DCEP, acknowledgement)
    peers.server.association.send(8, PayloadProtocol.DCEP, acknowledgement)  # of no channel
    peers.run(1.0)
    assert [event.id for event in opened(peers.network.left)] == [channel]


def test_a_channel_without_an_ack_carries_messages() -> None:
    """A peer that sends no ACK: messages go in order (RFC 8832 §6), and one from the peer opens the channel."""
    peers = make_sctp_peers(impairment=FAR).establish()
    channel = peers.client.open_channel("test", ordered=False)
    peers.network.right.rewrite = without_acknowledgement
    peers.client.send(channel, "hello")
    peers.run(0.2)
    assert messages(peers.network.right) == ["hello"]
    assert not any(data.unordered for packet in peers.network.left.sent for data in data_of(packet))
    assert opened(peers.network.left) == []
    peers.server.send(channel, "back")
    peers.run(1.0)
    assert [event.id for event in opened(peers.network.left)] == [channel]
    assert messages(peers.network.left) == ["back"]


def without_acknowledgement(datagram: bytes) -> list[bytes]:
    """Replace the ACK of a channel by an unknown DCEP message."""
    packet = SctpPacket.decode(datagram)
    changed = [
        msgspec.structs.replace(chunk, payload=b"\xff")
        if isinstance(chunk, Data) and chunk.payload == dcep.ACK
        else chunk
        for chunk in packet.chunks
    ]
    return [packet._replace(chunks=changed).encode()]


def test_a_channel_that_is_open_already_is_not_opened_again() -> None:
    peers = make_sctp_peers().establish()
    channel = peers.client.open_channel("first")
    peers.client.association.send(channel, PayloadProtocol.DCEP, Open("second").encode())
    peers.client.send(channel, "hello")
    peers.run(1.0)
    assert [event.label for event in opened(peers.network.right)] == ["first"]
    assert messages(peers.network.right) == ["hello"]
    assert peers.server.counters.unexpected == 1


def send_before_open(peers: SctpPeers, *texts: bytes, stream: int = 4) -> None:
    """Let unordered messages overtake the OPEN of their channel, like a stack that does not wait for the ACK."""
    for text in texts:
        peers.client.association.send(stream, PayloadProtocol.STRING, text, ordered=False)
    peers.run(0.5)


def test_unordered_messages_that_overtake_their_open_are_delivered_after_it() -> None:
    peers = make_sctp_peers(impairment=FAR).establish()
    send_before_open(peers, b"one", b"two", b"\xff not text")
    assert messages(peers.network.right) == []
    peers.client.association.send(4, PayloadProtocol.DCEP, Open("late", ordered=False).encode())
    peers.client.association.send(4, PayloadProtocol.STRING, b"three")
    peers.run(1.0)
    assert [type(event) for event in peers.network.right.events][:1] == [ChannelOpened]
    assert messages(peers.network.right) == ["one", "two", "three"]
    assert (peers.server.counters.unexpected, peers.server.counters.malformed) == (3, 1)


def test_messages_without_an_open_are_kept_in_a_bounded_number_and_size() -> None:
    peers = make_sctp_peers(impairment=FAR).establish()
    send_before_open(peers, *[b"%d" % number for number in range(MAX_EARLY_MESSAGES + 5)])
    send_before_open(peers, bytes(MAX_EARLY_BYTES + 1))
    send_before_open(peers, *[bytes(MAX_EARLY_BYTES // 2 + 1)] * 3, stream=6)
    peers.client.association.send(4, PayloadProtocol.DCEP, Open("late").encode())
    peers.client.association.send(6, PayloadProtocol.DCEP, Open("large").encode())
    peers.run(5.0)
    assert messages(peers.network.right, 4) == []
    assert len(messages(peers.network.right, 6)) == 1
    assert peers.server.association.receiver.a_rwnd == RECEIVE_BUFFER


def test_messages_without_an_open_are_dropped_when_their_stream_is_reset() -> None:
    peers = make_sctp_peers(impairment=FAR).establish()
    send_before_open(peers, b"of another time")
    peers.client.association.reset_streams([4])
    peers.run(1.0)
    peers.client.association.send(4, PayloadProtocol.DCEP, Open("new").encode())
    peers.run(1.0)
    assert [event.label for event in opened(peers.network.right)] == ["new"]
    assert messages(peers.network.right) == []


def test_the_number_of_channels_is_bounded() -> None:
    peers = make_sctp_peers().establish()
    for number in range(MAX_CHANNELS):
        peers.client.open_channel(str(number))
    with pytest.raises(LocalProtocolError):
        peers.client.open_channel("one more")
    peers.run(2.0)
    assert len(opened(peers.network.right)) == MAX_CHANNELS
    peers.client.association.send(2 * MAX_CHANNELS, PayloadProtocol.DCEP, Open("one more").encode())
    peers.run(2.0)
    assert len(opened(peers.network.right)) == MAX_CHANNELS
    assert peers.server.counters.refused == 1


def test_messages_on_no_channel_are_counted() -> None:
    peers = make_sctp_peers().establish()
    association = peers.client.association
    association.send(8, PayloadProtocol.STRING, b"nobody listens")
    channel = peers.client.open_channel("test")
    association.send(channel, PayloadProtocol.STRING, b"\xff not text")
    association.send(channel, 1234, b"of no protocol")
    peers.client.send(channel, "good")
    peers.run(1.0)
    assert messages(peers.network.right) == ["good"]
    assert (peers.server.counters.unexpected, peers.server.counters.malformed) == (1, 2)
    window = peers.server.association.receiver.a_rwnd
    assert window == 2 * 262_144  # all of it was released


def test_invalid_calls_raise_a_local_protocol_error() -> None:
    peers = make_sctp_peers()
    endpoint = DataChannelEndpoint(True, bytes, peer_max_message_size=1000)
    channel = endpoint.open_channel("test")
    with pytest.raises(LocalProtocolError):
        endpoint.send(channel, bytes(1001))
    with pytest.raises(LocalProtocolError):
        endpoint.open_channel("test", max_retransmits=1, max_lifetime=1.0)
    with pytest.raises(LocalProtocolError):
        endpoint.open_channel("x" * 5000)
    with pytest.raises(LocalProtocolError):
        endpoint.open_channel("test", id=channel)
    with pytest.raises(LocalProtocolError):
        peers.client.send(99, "nobody")
    with pytest.raises(LocalProtocolError):
        peers.client.close_channel(99)
    with pytest.raises(ValueError, match="MTU"):
        peers.client.set_mtu(100)


def test_channels_beyond_the_streams_of_the_peer_are_closed() -> None:
    peers = make_sctp_peers()

    peers.network.right.rewrite = rewriting_init(lambda init: msgspec.structs.replace(init, inbound_streams=4))
    for number in range(4):
        peers.client.open_channel(str(number))
    peers.establish()
    peers.run(1.0)
    events = peers.network.left.events
    assert [event.id for event in events if isinstance(event, ChannelClosed)] == [4, 6]
    assert [event.id for event in opened(peers.network.left)] == [0, 2]


def test_data_on_a_stream_beyond_the_limit_is_counted() -> None:
    peers = make_sctp_peers().establish()
    channel = peers.client.open_channel("test")
    peers.client.send(channel, "hello")
    peers.run(1.0)
    last = last_data(peers.network.left).tsn
    packet = forge(peers.network.left, Data((last + 1) & 0xFFFFFFFF, 60000, 0, PayloadProtocol.STRING, b"x"))
    peers.server.receive_datagram(packet, peers.network.left.path, peers.network.now)
    assert peers.server.association.receiver.counters.wrong_stream == 1
