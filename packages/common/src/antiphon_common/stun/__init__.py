"""STUN (RFC 8489) with the attributes of ICE (RFC 8445 §16.1)."""

from antiphon_common.stun.peek import peek_username

__all__ = ["peek_username"]
