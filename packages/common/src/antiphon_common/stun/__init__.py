"""STUN (RFC 8489) with the attributes of ICE (RFC 8445 §16.1)."""

from antiphon_common.stun.attributes import (
    AttributeType,
    ErrorCode,
    decode_address,
    decode_error_code,
    decode_unknown_attributes,
    decode_xor_address,
    encode_address,
    encode_error_code,
    encode_unknown_attributes,
    encode_xor_address,
)
from antiphon_common.stun.message import (
    BINDING,
    HEADER_SIZE,
    TRANSACTION_ID_SIZE,
    Message,
    MessageClass,
    error_response,
    success_response,
)
from antiphon_common.stun.peek import peek_username
from antiphon_common.stun.transaction import Transaction

__all__ = [
    "BINDING",
    "HEADER_SIZE",
    "TRANSACTION_ID_SIZE",
    "AttributeType",
    "ErrorCode",
    "Message",
    "MessageClass",
    "Transaction",
    "decode_address",
    "decode_error_code",
    "decode_unknown_attributes",
    "decode_xor_address",
    "encode_address",
    "encode_error_code",
    "encode_unknown_attributes",
    "encode_xor_address",
    "error_response",
    "peek_username",
    "success_response",
]
