"""What is fuzzed: every decoder, and every core with whatever a stranger or a peer may send it.

A target takes bytes and returns, or raises what is a bug. Decoders may raise DecodeError and nothing else, and what
they decode must encode to something that decodes to the same. Cores may not raise at all, and must come to rest.
"""

import contextlib
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from antiphon_common import frames, stun
from antiphon_common.control import Fingerprint, IceParameters
from antiphon_common.core import Path
from antiphon_common.errors import DecodeError
from antiphon_common.formats import opus_duration
from antiphon_common.keys import KeyRing
from antiphon_common.link import LinkKeys, decode_message, encode_message
from antiphon_common.routing import RouteTokens
from antiphon_signaling.sdp import OfferError, SessionDescription, read_fragment, read_offer
from antiphon_transceiver.audio import JitterBuffer, OverrunError, Playout
from antiphon_transceiver.backends.link import BackendLink
from antiphon_transceiver.dtls import DtlsEndpoint, DtlsRole
from antiphon_transceiver.dtls.record import split_records
from antiphon_transceiver.ice import IceAgent
from antiphon_transceiver.rtcp import decode_rtcp, encode_rtcp
from antiphon_transceiver.rtp import decode_rtp
from antiphon_transceiver.sctp import DataChannelEndpoint
from antiphon_transceiver.sctp.checksum import checksum
from antiphon_transceiver.sctp.chunks import decode_chunks
from antiphon_transceiver.srtp import SrtpProfile, SrtpSession, keying_material_length
from support.certificates import certificate
from support.world import World

Target = Callable[[bytes], None]

KEYS = KeyRing.parse("0:" + "A" * 43 + "=")
SOURCE = Path.of("192.0.2.7", 5000, ingress=1)
MAX_OUTPUT = 10_000
"""Datagrams and events after which a core that was given one input has lost its way."""


def pieces(data: bytes) -> Iterator[tuple[float, bytes]]:
    """Cut an input into datagrams: each has a byte of delay in hundredths of a second and two of length before it."""
    while len(data) >= 3:
        delay, length = data[0] / 100, int.from_bytes(data[1:3], "big") % 2048
        yield delay, data[3 : 3 + length]
        data = data[3 + length :]


def drain(core: Any) -> None:
    """Take what a core has to say, which must end."""
    for poll in (core.poll_transmit, core.poll_event):
        count = 0
        while poll() is not None:
            count += 1
            assert count < MAX_OUTPUT, "a core never stops talking"


def drive(core: Any, data: bytes, now: float = 1.0) -> None:
    """Give a core datagrams and time."""
    for delay, datagram in pieces(data):
        now += delay
        core.receive_datagram(datagram, SOURCE, now)
        drain(core)
        deadline = core.poll_timeout()
        if deadline is not None and deadline <= now:
            core.handle_timeout(now)
            drain(core)


# Decoders


def stun_message(data: bytes) -> None:
    stun.peek_username(data)
    try:
        message = stun.Message.decode(data)
    except DecodeError:
        return
    again = stun.Message.decode(message.encode())
    assert dict(again.attributes) == dict(message.attributes)
    message.verify(b"password")
    for name in ("username", "priority", "xor_mapped_address", "error_code", "software", "unknown_required"):
        with contextlib.suppress(DecodeError):
            getattr(message, name)


def route_token(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        RouteTokens(KEYS.route).read(data, 0.0)


def link_message(data: bytes) -> None:
    LinkKeys(KEYS.link).verify(data, 0.0)
    try:
        message = decode_message(data)
    except DecodeError:
        return
    if message is not None:
        assert decode_message(encode_message(message)) == message


def backend_frames(data: bytes) -> None:
    try:
        decoded = list(frames.decode(data))
    except DecodeError:
        return
    good = [frame for frame in decoded if isinstance(frame, frames.Frame)]
    assert list(frames.decode(frames.encode(good))) == good


def rtp_packet(data: bytes) -> None:
    try:
        packet = decode_rtp(data)
        _ = packet.extensions
    except DecodeError:
        return


def rtcp_packet(data: bytes) -> None:
    try:
        packets = decode_rtcp(data)
    except DecodeError:
        return
    if packets:
        assert decode_rtcp(encode_rtcp(packets)) == packets


def dtls_records(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        list(split_records(data))


def sctp_chunks(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        list(decode_chunks(data))


def session_description(data: bytes) -> None:
    for read in (SessionDescription.decode, read_fragment, read_offer):
        with contextlib.suppress(DecodeError, OfferError):
            read(data)


def opus_packet(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        opus_duration(data)


# Cores


def ice_agent(data: bytes) -> None:
    local, remote = IceParameters("local", "p" * 24), IceParameters("remote", "q" * 24)
    agent = IceAgent(local, remote, Random(0).randbytes)
    drive(agent, data)


def signed_ice_agent(data: bytes) -> None:
    """The same, but with checks that a caller signed with the right password."""
    local, remote = IceParameters("local", "p" * 24), IceParameters("remote", "q" * 24)
    agent = IceAgent(local, remote, Random(0).randbytes)
    now = 1.0
    for delay, attributes in pieces(data):
        now += delay
        unsigned = stun.Message(stun.MessageClass.REQUEST, bytes(12), {stun.Attribute.USERNAME: b"local:remote"})
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


def dtls_endpoint(role: DtlsRole) -> Target:
    def target(data: bytes) -> None:
        expected = [Fingerprint("sha-256", ":".join(["00"] * 32))]
        endpoint = DtlsEndpoint(role, certificate("fuzz"), expected, tuple(SrtpProfile), Random(0).randbytes)
        endpoint.start(1.0)
        drain(endpoint)
        drive(endpoint, data)

    return target


def srtp_session(data: bytes) -> None:
    profile = SrtpProfile.AEAD_AES_128_GCM
    session = SrtpSession(profile, bytes(keying_material_length(profile)), is_client=True)
    for _, datagram in pieces(data):
        for unprotect in (session.unprotect_rtp, session.unprotect_rtcp):
            with contextlib.suppress(DecodeError):
                unprotect(datagram)


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


def backend_link(data: bytes) -> None:
    link = BackendLink(_counters(), 0.0)
    link.receive_message(frames.encode([frames.Hello(frames.VERSION, 4, ("opus",))]), 0.0)
    audio_format = link.choose_format("opus")
    assert audio_format is not None
    link.open(audio_format, "call", "tenant", {}, {}, lambda frame, now: None, 0.0)
    for _, message in pieces(data):
        link.receive_message(message, 1.0)
        drain(link)


def jitter_buffer(data: bytes) -> None:
    buffer, now = JitterBuffer(), 1.0
    for delay, packet in pieces(data):
        now += delay
        if len(packet) >= 6:
            sequence, timestamp = int.from_bytes(packet[:2], "big"), int.from_bytes(packet[2:6], "big")
            buffer.push(sequence, timestamp, packet[6:], now)
        count = 0
        while buffer.pop(now) is not None:
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


def relay_uplink(data: bytes) -> None:
    world = World(0)
    for _, datagram in pieces(data):
        world.send_to_relay(datagram, ("198.51.100.7", 7777))
    world.run(0.1)


def switchboard(data: bytes) -> None:
    """Link datagrams with good headers, and whatever behind them, beside a live call."""
    world = World(0)
    client = world.call()
    world.run(1.0, lambda: client.connected)
    header = LinkKeys(world.keys.link).header(Path.of(*client.address, ingress=1), 0, world.now)
    for delay, payload in pieces(data):
        world.run(delay / 10)
        there = world.transceivers[0]
        there.switchboard.receive_datagram(header + payload, ("10.0.0.1", 7000), world.now)
        world.drain()
    world.run(0.1)


def _counters() -> Any:
    from antiphon_transceiver.backends.call import LinkCounters

    return LinkCounters()


TARGETS: dict[str, Target] = {
    "stun": stun_message,
    "route_token": route_token,
    "link_message": link_message,
    "frames": backend_frames,
    "rtp": rtp_packet,
    "rtcp": rtcp_packet,
    "dtls_records": dtls_records,
    "sctp_chunks": sctp_chunks,
    "sdp": session_description,
    "opus": opus_packet,
    "ice_agent": ice_agent,
    "signed_ice_agent": signed_ice_agent,
    "dtls_client": dtls_endpoint(DtlsRole.CLIENT),
    "dtls_server": dtls_endpoint(DtlsRole.SERVER),
    "srtp": srtp_session,
    "sctp": sctp_endpoint,
    "backend_link": backend_link,
    "jitter_buffer": jitter_buffer,
    "playout": playout,
    "relay": relay_uplink,
    "switchboard": switchboard,
}
