"""Targets of decoders. They may raise only DecodeError, and a decoded value survives encoding and decoding."""

import contextlib
from collections.abc import Callable
from typing import Any

import msgspec

from antiphon.client.descriptions import read_answer
from antiphon_common import control, frames, stun
from antiphon_common.control import (
    CallAccepted,
    CallRequest,
    IceParameters,
    IceUpdate,
    SctpParameters,
)
from antiphon_common.core import Path
from antiphon_common.errors import DecodeError
from antiphon_common.formats import opus_duration
from antiphon_common.keys import KeyRing, KeyRingError
from antiphon_common.link import LinkKeys, decode_message, encode_message
from antiphon_common.routing import RouteTokens
from antiphon_common.settings import SettingsError, values
from antiphon_common.stun.message import MAX_ATTRIBUTES
from antiphon_signaling.authentication import ApiKeys
from antiphon_signaling.refusals import RefusedError
from antiphon_signaling.sdp import OfferError, SessionDescription, read_fragment, read_offer, write_answer
from antiphon_signaling.shell.calls import read_session
from antiphon_transceiver.audio.g711 import G711Decoder
from antiphon_transceiver.audio.opus import OpusDecoder
from antiphon_transceiver.channels import UndeliverableError, read_event, write_event
from antiphon_transceiver.dtls import messages
from antiphon_transceiver.dtls.alerts import HandshakeError
from antiphon_transceiver.dtls.certificate import load_public_key
from antiphon_transceiver.dtls.extensions import decode_block, decode_uint16_list, decode_use_srtp
from antiphon_transceiver.dtls.record import split_records
from antiphon_transceiver.rtcp import decode_rtcp, encode_rtcp
from antiphon_transceiver.rtp import decode_rtp
from antiphon_transceiver.rtp.red import decode_red
from antiphon_transceiver.sctp.checksum import checksum
from antiphon_transceiver.sctp.chunks import decode_chunks
from antiphon_transceiver.sctp.dcep import Open
from antiphon_transceiver.sctp.dcep import decode_message as decode_channel_message
from antiphon_transceiver.sctp.dcep import encode_message as encode_channel_message
from antiphon_transceiver.sctp.packet import SctpPacket
from antiphon_transceiver.sctp.parameters import OutgoingResetRequest, ReconfigResponse, decode_parameters
from support.peers.certificates import certificate

KEYS = KeyRing.parse("0:" + "A" * 43 + "=")


def stun_message(data: bytes) -> None:
    stun.peek_username(data)
    try:
        message = stun.Message.decode(data)
    except DecodeError:
        return
    if len(message.attributes) < MAX_ATTRIBUTES:  # a FINGERPRINT is added
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


BODIES = (
    messages.ClientHello,
    messages.ServerHello,
    messages.HelloVerifyRequest,
    messages.CertificateChain,
    messages.ServerKeyExchange,
    messages.CertificateRequest,
    messages.ClientKeyExchange,
    messages.CertificateVerify,
)


def dtls_messages(data: bytes) -> None:
    for decode in (decode_uint16_list, decode_block, decode_use_srtp):
        with contextlib.suppress(DecodeError):
            decode(data)
    body: Any = BODIES[data[0] % len(BODIES)] if data else messages.ClientHello
    try:
        decoded = body.decode(data[1:])
    except DecodeError:
        return
    assert body.decode(decoded.encode()) == decoded


def dtls_certificate(data: bytes) -> None:
    with contextlib.suppress(HandshakeError):
        load_public_key(data)


def sctp_packet(data: bytes) -> None:
    if len(data) >= 12:
        data = data[:8] + checksum(data) + data[12:]
    try:
        packet = SctpPacket.decode(data)
    except DecodeError:
        return
    assert SctpPacket.decode(packet.encode()) == packet


def sctp_parameters(data: bytes) -> None:
    decoders: tuple[Callable[[bytes], object], ...] = (
        decode_parameters,
        OutgoingResetRequest.decode,
        ReconfigResponse.decode,
    )
    for decode in decoders:
        with contextlib.suppress(DecodeError):
            decode(data)


def channel_message(data: bytes) -> None:
    """A DATA_CHANNEL_OPEN, or a message behind the number of its protocol."""
    with contextlib.suppress(DecodeError):
        opened = Open.decode(data)
        assert Open.decode(opened.encode()) == opened
    with contextlib.suppress(DecodeError):
        message = decode_channel_message(data[0] if data else 0, data[1:])
        assert decode_channel_message(*encode_channel_message(message)) == message


def sctp_chunks(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        list(decode_chunks(data))


def session_description(data: bytes) -> None:
    for read in (SessionDescription.decode, read_fragment):
        with contextlib.suppress(DecodeError, OfferError):
            read(data)
    try:
        offer = read_offer(data)
    except (DecodeError, OfferError):
        return
    request = offer.call_request("call", "tenant", {})
    assert msgspec.json.decode(msgspec.json.encode(request), type=CallRequest) == request
    for sctp in (None, SctpParameters(5000, 1)):
        answer = write_answer(offer, _accepted(sctp), [("192.0.2.1", 3478), ("2001:db8::1", 3478)], 1).encode()
        assert SessionDescription.decode(answer).encode() == answer


def _accepted(sctp: SctpParameters | None) -> CallAccepted:
    ours = certificate("fuzz").fingerprint()
    return CallAccepted(IceParameters("ufrag", "p" * 24), "active", ours, 1, "cname", sctp)


def answer(data: bytes) -> None:
    """Fuzz an answer to the test client."""
    with contextlib.suppress(DecodeError):
        read_answer(data.decode("utf-8", "replace"))


def opus_packet(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        opus_duration(data)


def red_payload(data: bytes) -> None:
    if data:
        with contextlib.suppress(DecodeError):
            payload, repeated = decode_red(data[1:], data[0] & 0x7F)
            assert len(payload) + sum(len(block.payload) for block in repeated) < len(data)


def audio_packet(data: bytes) -> None:
    """Fuzz a packet for libopus, after a valid one, and for G.711."""
    for decoder in (OpusDecoder(24_000), G711Decoder("pcmu", 16_000), G711Decoder("pcma", 48_000)):
        with contextlib.suppress(DecodeError):
            decoder.decode(b"\xf8\xff\xfe")
        with contextlib.suppress(DecodeError):
            assert len(decoder.decode(data)) % 2 == 0
        with contextlib.suppress(DecodeError):
            decoder.recover(data, 480)
        decoder.conceal(480)


def event(data: bytes) -> None:
    """Fuzz an event of a caller over `oai-events`, and its way back from a backend."""
    try:
        decoded = read_event(data.decode("utf-8", "replace"))
    except DecodeError:
        return
    with contextlib.suppress(UndeliverableError):
        assert read_event(write_event(decoded).decode()) == decoded
    (frame,) = frames.decode(frames.encode([frames.ClientEvent(1, decoded)]))
    assert frame == frames.ClientEvent(1, decoded)


def control_body(data: bytes) -> None:
    """Fuzz a request to the control API."""
    kinds: tuple[Any, ...] = (CallRequest, IceUpdate)
    for kind in kinds:
        try:
            decoded = control.decode(data, kind)
        except DecodeError:
            continue
        assert control.decode(msgspec.json.encode(decoded), kind) == decoded


def session_object(data: bytes) -> None:
    for text in (data, data.decode("utf-8", "replace")):
        with contextlib.suppress(RefusedError):
            read_session(text, "model")


READERS: tuple[Callable[[str], Any], ...] = (
    values.read_text,
    values.read_host,
    values.read_address,
    values.read_advertised,
    values.read_media,
    values.read_backend,
    values.read_audio,
    values.read_network,
    values.read_cluster_network,
    values.read_cluster,
    values.read_count,
    values.read_workers,
    values.read_url,
    values.read_redis,
    values.read_seconds,
)


def setting(data: bytes) -> None:
    """Fuzz the text of a setting in the environment, and lines of key files."""
    text = data.decode("utf-8", "surrogateescape")
    for read in READERS:
        with contextlib.suppress(ValueError):
            value = read(text)
            assert read(str(value)) == value
    with contextlib.suppress(KeyRingError):
        ring = KeyRing.parse(text)
        assert KeyRing.parse(ring.format()).format() == ring.format()
    with contextlib.suppress(SettingsError):
        ApiKeys.parse(data.decode("utf-8", "replace"))


def path(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        decoded = Path.decode(data)
        assert decoded.encode() == data
        str(decoded)
