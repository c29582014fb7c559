"""Offers and answers, credentials, placement, and the page to talk from."""

from antiphon_signaling.shell.service import SignalingPorts, serve_signaling

__all__ = ["SignalingPorts", "serve_signaling"]
