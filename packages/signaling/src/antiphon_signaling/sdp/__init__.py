"""Offers and answers as session descriptions (RFC 8866, RFC 9429), without IO."""

from antiphon_signaling.sdp.answer import write_answer
from antiphon_signaling.sdp.description import MAX_SIZE, Attribute, MediaDescription, SessionDescription
from antiphon_signaling.sdp.fragment import MEDIA_TYPE as FRAGMENT_TYPE
from antiphon_signaling.sdp.fragment import IceFragment, read_fragment, write_fragment
from antiphon_signaling.sdp.offer import Offer, OfferError, read_offer

__all__ = [
    "FRAGMENT_TYPE",
    "MAX_SIZE",
    "Attribute",
    "IceFragment",
    "MediaDescription",
    "Offer",
    "OfferError",
    "SessionDescription",
    "read_fragment",
    "read_offer",
    "write_answer",
    "write_fragment",
]
