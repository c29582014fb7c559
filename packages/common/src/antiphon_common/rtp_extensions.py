"""The RTP header extensions (RFC 8285) that are negotiated, by the URI that names each in SDP."""

MID = "urn:ietf:params:rtp-hdrext:sdes:mid"
"""Which media section a packet belongs to (RFC 9143 §15)."""

AUDIO_LEVEL = "urn:ietf:params:rtp-hdrext:ssrc-audio-level"
"""How loud a packet is, in -dBov, and whether it is speech (RFC 6464)."""

ABSOLUTE_SEND_TIME = "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time"
"""When a packet left: 24 bits, 2^18 to the second."""

TRANSPORT_SEQUENCE = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01"
"""A number for feedback on the whole transport, 16 bits, one up with each packet."""
