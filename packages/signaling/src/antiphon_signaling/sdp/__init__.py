"""Offers and answers as session descriptions (RFC 8866, RFC 9429), without IO."""

from antiphon_signaling.sdp.answer import write_answer
from antiphon_signaling.sdp.description import MAX_SIZE, Attribute, MediaDescription, SessionDescription
from antiphon_signaling.sdp.offer import Offer, OfferError, read_offer

__all__ = [
    "MAX_SIZE",
    "Attribute",
    "MediaDescription",
    "Offer",
    "OfferError",
    "SessionDescription",
    "read_offer",
    "write_answer",
]
