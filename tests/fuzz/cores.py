"""Targets of cores, with inputs of an attacker or a peer. A core must not raise, and must come to rest."""

import contextlib
from collections.abc import Callable
from math import inf
from random import Random
from typing import Any

from antiphon_backend.core import CallOffered, Slots, TransceiverConnection
from antiphon_common import frames, stun
from antiphon_common.control import Codec, Fingerprint, IceParameters, SctpParameters
from antiphon_common.core import Path
from antiphon_common.errors import DecodeError, LocalProtocolError
from antiphon_common.frame_connection import ConnectionCounters
from antiphon_common.link import LinkKeys, decode_message
from antiphon_common.rtp_extensions import ABSOLUTE_SEND_TIME, AUDIO_LEVEL, MID, TRANSPORT_SEQUENCE
from antiphon_transceiver.audio import JitterBuffer, OverrunError, Playout
from antiphon_transceiver.backends.call import BackendCounters
from antiphon_transceiver.backends.connection import BackendConnection
from antiphon_transceiver.call_router import CallEnded, CallRouter
from antiphon_transceiver.channels import CallChannels, read_event
from antiphon_transceiver.dtls import DtlsEndpoint, DtlsRole
from antiphon_transceiver.dtls.messages import HandshakeMessage
from antiphon_transceiver.dtls.record import ContentType, RecordLayer
from antiphon_transceiver.event_channels import EVENTS_LABEL
from antiphon_transceiver.ice import ControlledAgent
from antiphon_transceiver.media import AudioStream
from antiphon_transceiver.outcome import EndReason
from antiphon_transceiver.rtp import RtpOptions
from antiphon_transceiver.rtp.red import decode_red
from antiphon_transceiver.sctp import DataChannelEndpoint
from antiphon_transceiver.sctp.checksum import checksum
from antiphon_transceiver.srtp import SrtpProfile, SrtpSession, keying_material_length
from fuzz.driving import MAX_OUTPUT, REST_SECONDS, SOURCE, drain, drive, pieces, rest
from support.peers.certificates import certificate
from support.sim.memory_network import MemoryNetwork
from support.sim.relay_harness import LINK, forward_datagram, take_outboxes
from support.sim.transport_peers import TransportPeers
from support.sim.world import World

RED = 111
"""What RED repeats, in inputs that may be RED."""


def ice_agent(data: bytes) -> None:
    local, remote = IceParameters("local", "p" * 24), IceParameters("remote", "q" * 24)
    agent = ControlledAgent(local, remote, Random(0).randbytes)
    drive(agent, data)


def signed_ice_agent(data: bytes) -> None:
    """Fuzz an agent with checks that a caller signed with the right password."""
    local, remote = IceParameters("local", "p" * 24), IceParameters("remote", "q" * 24)
    agent = ControlledAgent(local, remote, Random(0).randbytes)
    now = 1.0
    for delay, attributes in pieces(data):
        now += delay
        unsigned = stun.Message(stun.MessageClass.REQUEST, bytes(12), {stun.AttributeType.USERNAME: b"local:remote"})
        head = unsigned.encode(fingerprint=False)
        body = head[:20] + head[20:] + attributes[: len(attributes) & ~3]
        try:
            message = stun.Message.decode(body[:2] + (len(body) - 20).to_bytes(2, "big") + body[4:])
        except DecodeError:
            continue
        agent.receive_datagram(message.encode(b"p" * 24), SOURCE, now)
        drain(agent)
        agent.handle_timeout(now)
        drain(agent)


def dtls_endpoint(role: DtlsRole) -> Callable[[bytes], None]:
    def target(data: bytes) -> None:
        expected = [Fingerprint("sha-256", ":".join(["00"] * 32))]
        endpoint = DtlsEndpoint(role, certificate("fuzz"), expected, tuple(SrtpProfile), Random(0).randbytes)
        endpoint.start(1.0)
        drain(endpoint)
        drive(endpoint, data)
        rest(endpoint, 100.0)

    return target


def _dtls_peers() -> MemoryNetwork[Any, Any]:
    ours, theirs, random = certificate("client"), certificate("server"), Random(0).randbytes
    client = DtlsEndpoint(DtlsRole.CLIENT, ours, [theirs.fingerprint()], tuple(SrtpProfile), random)
    server = DtlsEndpoint(DtlsRole.SERVER, theirs, [ours.fingerprint()], tuple(SrtpProfile), random)
    client.start(0.0)
    return MemoryNetwork(client, server)


def dtls_midway(data: bytes) -> None:
    """Fuzz unauthenticated input between the flights of a handshake: messages of any kind and number, alerts, bytes."""
    network = _dtls_peers()
    first, data = data[0] if data else 0, data[1:]
    endpoint = network.left.core if first & 1 else network.right.core
    network.drain()
    for _ in range(first >> 1 & 3):
        network.step()
    for delay, piece in pieces(data):
        kind, piece = piece[:1], piece[1:]
        if kind == b"\x16" and len(piece) >= 2:
            message = HandshakeMessage(piece[0], piece[1] & 7, piece[2:])
            piece = RecordLayer().encode(ContentType.HANDSHAKE, 0, message.encode())
        elif kind == b"\x15":
            piece = RecordLayer().encode(ContentType.ALERT, 0, piece)
        network.now += delay / 100
        endpoint.receive_datagram(piece, SOURCE, network.now)
        network.drain()
    network.run(limit=network.now + 40.0)
    assert endpoint.poll_timeout() == inf, "the handshake has neither succeeded nor failed"


def dtls_peer(data: bytes) -> None:
    """Fuzz the records of an authenticated peer."""
    network = _dtls_peers()
    network.run(lambda: network.left.core.connected and network.right.core.connected, limit=5.0)  # type: ignore[attr-defined]
    first, data = data[0] if data else 0, data[1:]
    sides: list[Any] = [network.left.core, network.right.core]
    endpoint, peer = sides if first & 1 else sides[::-1]
    for _, piece in pieces(data):
        kind = ContentType(20 + piece[0] % 4) if piece else ContentType.ALERT
        endpoint.receive_datagram(peer.records.encode(kind, 1, piece[1:]), None, network.now)
        drain(endpoint)
    rest(endpoint, network.now)


def srtp_session(data: bytes) -> None:
    profile = SrtpProfile.AEAD_AES_128_GCM
    session = SrtpSession(profile, bytes(keying_material_length(profile)), is_client=True)
    for _, datagram in pieces(data):
        for unprotect in (session.unprotect_rtp, session.unprotect_rtcp):
            with contextlib.suppress(DecodeError):
                unprotect(datagram)


def peer_transport(data: bytes) -> None:
    """Datagrams in the name of a connected peer, raw or protected with its keys, and what the transport then sends."""
    peers = TransportPeers().connect()
    network, peer, transport = peers.network, peers.left, peers.right
    assert peer.srtp is not None
    for delay, piece in pieces(data):
        kind, piece = piece[:1], piece[1:]
        network.now += delay
        with contextlib.suppress(LocalProtocolError):
            if kind == b"r":
                piece = peer.srtp.protect_rtp(piece)
            elif kind == b"c":
                piece = peer.srtp.protect_rtcp(piece)
            elif kind == b"d":
                peer.dtls.send_application_data(piece)
                peer.flush(network.now)
            elif kind == b"s":
                transport.send_rtp(piece)
                transport.send_rtcp(piece)
            transport.receive_datagram(piece, network.left.path if kind != b"x" else SOURCE, network.now)
        network.run(limit=network.now + delay)
    transport.close(network.now)
    network.run(limit=network.now + REST_SECONDS)
    assert transport.poll_timeout() == inf, "a closed transport never comes to rest"


def sctp_endpoint(data: bytes) -> None:
    endpoint = DataChannelEndpoint(is_dtls_client=True, random=Random(0).randbytes)
    endpoint.start(1.0)
    drain(endpoint)
    now = 1.0
    for delay, packet in pieces(data):
        now += delay
        if len(packet) >= 12:
            packet = packet[:8] + checksum(packet[:8] + bytes(4) + packet[12:]) + packet[12:]
        endpoint.receive_datagram(packet, SOURCE, now)
        drain(endpoint)
        endpoint.handle_timeout(now)
        drain(endpoint)
    rest(endpoint, now)


def data_channels(right: Any) -> MemoryNetwork[Any, Any]:
    left = DataChannelEndpoint(True, Random(1).randbytes)
    network = MemoryNetwork[Any, Any](left, right)
    left.start(0.0)
    right.start(0.0, None)
    channel = left.open_channel(EVENTS_LABEL)
    network.run(lambda: left.established, limit=1.0)
    left.send(channel, "{}")
    network.run(limit=network.now + 0.1)
    return network


def sctp_peer(data: bytes) -> None:
    """Fuzz chunks in packets that an established association accepts as its peer's."""
    endpoint = DataChannelEndpoint(False, Random(2).randbytes)
    network = data_channels(endpoint)
    header, now = network.left.sent[-1][:8], network.now
    for delay, chunks in pieces(data):
        now += delay
        if delay == 0.05:
            with contextlib.suppress(LocalProtocolError):
                endpoint.send(0, chunks)
        endpoint.receive_datagram(header + checksum(header + bytes(4) + chunks) + chunks, SOURCE, now)
        drain(endpoint)
        endpoint.handle_timeout(now)
        drain(endpoint)
    rest(endpoint, now)


def call_channels(data: bytes) -> None:
    """Messages of a caller on `oai-events` and another channel, which it may close, and events for it."""
    channels = CallChannels(SctpParameters(5000, 65_535), False, Random(2).randbytes)
    network = data_channels(channels)
    caller = network.left.core
    assert isinstance(caller, DataChannelEndpoint)
    other = caller.open_channel("other", ordered=False)
    for delay, piece in pieces(data):
        action, piece = piece[:1], piece[1:]
        with contextlib.suppress(DecodeError, LocalProtocolError):
            if action == b"e":
                channels.send(read_event(piece.decode("utf-8", "replace")))
            elif action == b"c":
                caller.close_channel(0)
            elif action == b"o":
                caller.open_channel(EVENTS_LABEL)
            else:
                text = piece if action == b"b" else piece.decode("utf-8", "replace")
                caller.send(other if action == b"x" else 0, text)
        network.run(limit=network.now + delay / 10)
    network.run(limit=network.now + 1.0)
    channels.finish(network.now)
    network.run(limit=network.now + 60.0)
    assert channels.finish(network.now)


def backend_link(data: bytes) -> None:
    link = BackendConnection(BackendCounters(), 0.0)
    link.receive_message(frames.encode([frames.BackendHello(frames.VERSION, 4, ("opus",))]), 0.0)
    audio_format = link.choose_format("opus")
    assert audio_format is not None
    link.open(audio_format, "call", "tenant", {}, {}, 0.0)
    for _, message in pieces(data):
        link.receive_message(message, 1.0)
        drain(link)


def backend_session(data: bytes) -> None:
    """What a transceiver may say to a backend, whose calls listen and speak."""
    session = TransceiverConnection(Slots(4), ("opus",), ConnectionCounters(), 0.0)
    session.receive_message(frames.encode([frames.BackendHello(frames.VERSION, 4, ("opus",))]), 0.0)
    calls = []
    for delay, message in pieces(data):
        session.receive_message(message.decode("latin-1") if delay == 2.55 else message, delay)
        while (event := session.poll_event()) is not None:
            if isinstance(event, CallOffered):
                event.call.accept()
                calls.append(event.call)
        for call in calls:
            call.send_audio(b"\xf8x")
            call.send_event({"type": "answer"})
        drain(session)
    session.lost()
    drain(session)
    assert session.calls == 0


def jitter_buffer(data: bytes) -> None:
    """Fuzz packets that may be RED. The frames released are in order."""
    buffer, now, position = JitterBuffer(), 1.0, 0
    for delay, packet in pieces(data):
        now += delay
        if len(packet) >= 6:
            sequence, timestamp = int.from_bytes(packet[:2], "big"), int.from_bytes(packet[2:6], "big")
            try:
                payload, repeated = decode_red(packet[6:], RED)
            except DecodeError:
                payload, repeated = packet[6:], []
            buffer.push(sequence, timestamp, payload, now, repeated)
        count = 0
        while (release := buffer.pop(now)) is not None:
            assert release.position >= position, "audio out of order"
            position = release.position + release.duration
            count += 1
            assert count < MAX_OUTPUT


def playout(data: bytes) -> None:
    buffer, now = Playout("opus"), 1.0
    for delay, audio in pieces(data):
        now += delay
        try:
            buffer.append(audio[0] if audio else 0, audio[1:])
            if delay == 1.0:
                buffer.clear(audio[0] if audio else 1)
        except (DecodeError, OverrunError):
            pass
        while buffer.poll(now) is not None:
            pass


def media_stream() -> AudioStream:
    """Return a stream with everything negotiated."""
    extensions = {MID: 1, AUDIO_LEVEL: 2, ABSOLUTE_SEND_TIME: 3, TRANSPORT_SEQUENCE: 4}
    options = RtpOptions(extensions, "0", ("nack", "transport-cc"), reduced_size=True)
    codec = Codec("opus", RED, 48_000, 2, redundancy=63)
    return AudioStream(codec, "pcm16/24000", "cname", Random(0).randbytes, 3.9e9, options)


def media(data: bytes) -> None:
    """Fuzz RTP and RTCP of an authenticated caller."""
    stream, now = media_stream(), 1.0
    stream.start(now)
    stream.playout.append(1, bytes(48_000))
    for delay, packet in pieces(data):
        now += delay
        if len(packet) > 1 and 192 <= packet[1] < 224:
            stream.receive_rtcp(packet, now)
        else:
            stream.receive_rtp(packet, now)
        for poll in (stream.poll_frame, stream.poll_rtp, stream.poll_rtcp, stream.poll_feedback):
            count = 0
            while poll(now) is not None:
                count += 1
                assert count < MAX_OUTPUT, "a stream never ends"
        stream.poll_timeout(sends=True)
    stream.statistics()
    stream.bye()


def relay_uplink(data: bytes) -> None:
    world = World(0)
    for _, datagram in pieces(data):
        world.send_to_relay(datagram, ("198.51.100.7", 7777))
    world.run(0.1)


def link(data: bytes) -> None:
    """Datagrams and messages with good tags on the link of a relay and of a transceiver, beside a live call."""
    world = World(0)
    client = world.call()
    world.run(1.0, lambda: client.connected)
    relay, router, keys = world.relays[0], world.transceivers[0].router, LinkKeys(world.keys.link)
    header, now = keys.header(Path.of(*client.address, ingress=1), 0, world.now), world.now
    for delay, piece in pieces(data):
        now += delay
        towards_relay, body = piece[:1] == b"r", piece[1:]
        try:
            message = decode_message(body)
        except DecodeError:
            message = None
        datagram = header + body if message is None else keys.encode(message, now)
        if towards_relay:
            forward_datagram(relay.core, datagram, Path.of(*world.transceivers[0].address, ingress=LINK), now)
            relay.core.handle_timeout(now, now)
            take_outboxes(relay.core)
        else:
            router.receive_datagram(datagram, relay.address, now)
            router.handle_timeout(now, now)
            take_events(router)


def call_router(data: bytes) -> None:
    """Fuzz link datagrams with valid headers and any content, beside a live call."""
    world = World(0)
    client = world.call()
    world.run(1.0, lambda: client.connected)
    header = LinkKeys(world.keys.link).header(Path.of(*client.address, ingress=1), 0, world.now)
    for delay, payload in pieces(data):
        world.run(delay / 10)
        there = world.transceivers[0]
        there.router.receive_datagram(header + payload, ("10.0.0.1", 7000), world.now)
        world.drain()
    world.run(0.1)
    for there in world.transceivers:
        for event in there.events:
            check_event(event)


def take_events(router: CallRouter) -> None:
    while (event := router.poll_event()) is not None:
        check_event(event)
    drain(router)


def check_event(event: object) -> None:
    """A failure of our own in a call ends that call alone, and would go unnoticed here."""
    assert not isinstance(event, CallEnded) or event.reason is not EndReason.INTERNAL_ERROR, event.detail
