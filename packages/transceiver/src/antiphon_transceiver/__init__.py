"""Owns voice calls: ICE, DTLS, SRTP, Opus, playout, and the link to the inference backend.

The service is in `antiphon_transceiver.shell.service`. Nothing is imported here, so that whoever uses one protocol core
(`ice`, `dtls`, `srtp`, `rtp`, `rtcp`, `audio`) loads no other.
"""
