"""The fuzzing targets: every decoder, and every core with inputs of an attacker or a peer.

A target takes bytes. An exception that it raises is a bug.
"""

from collections.abc import Callable

from antiphon_transceiver.dtls import DtlsRole
from fuzz import cores, decoders

Target = Callable[[bytes], None]

TARGETS: dict[str, Target] = {
    "stun": decoders.stun_message,
    "route_token": decoders.route_token,
    "path": decoders.path,
    "link_message": decoders.link_message,
    "frames": decoders.backend_frames,
    "control": decoders.control_body,
    "session_object": decoders.session_object,
    "setting": decoders.setting,
    "sdp": decoders.session_description,
    "answer": decoders.answer,
    "rtp": decoders.rtp_packet,
    "rtcp": decoders.rtcp_packet,
    "red": decoders.red_payload,
    "opus": decoders.opus_packet,
    "audio": decoders.audio_packet,
    "dtls_records": decoders.dtls_records,
    "dtls_messages": decoders.dtls_messages,
    "dtls_certificate": decoders.dtls_certificate,
    "sctp_chunks": decoders.sctp_chunks,
    "sctp_packet": decoders.sctp_packet,
    "sctp_parameters": decoders.sctp_parameters,
    "channel_message": decoders.channel_message,
    "event": decoders.event,
    "ice_agent": cores.ice_agent,
    "signed_ice_agent": cores.signed_ice_agent,
    "dtls_client": cores.dtls_endpoint(DtlsRole.CLIENT),
    "dtls_server": cores.dtls_endpoint(DtlsRole.SERVER),
    "dtls_midway": cores.dtls_midway,
    "dtls_peer": cores.dtls_peer,
    "srtp": cores.srtp_session,
    "peer_transport": cores.peer_transport,
    "sctp": cores.sctp_endpoint,
    "sctp_peer": cores.sctp_peer,
    "call_channels": cores.call_channels,
    "media": cores.media,
    "jitter_buffer": cores.jitter_buffer,
    "playout": cores.playout,
    "backend_link": cores.backend_link,
    "backend_session": cores.backend_session,
    "relay": cores.relay_uplink,
    "link": cores.link,
    "call_router": cores.call_router,
}
