"""Encoded addresses equal those of the kernel, and decoding inverts encoding."""

import socket
import sys

import pytest

from antiphon_common.core import Path
from antiphon_common.sockaddr import decode_address, encode_address, from_port_and_address, port_and_address


@pytest.mark.parametrize(
    ("host", "family", "size"), [("192.0.2.1", socket.AF_INET, 16), ("2001:db8::1", socket.AF_INET6, 28)]
)
def test_decoding_inverts_encoding_of_socket_addresses(host: str, family: int, size: int) -> None:
    encoded = encode_address(host, 3478)
    assert (len(encoded), int.from_bytes(encoded[:2], sys.byteorder)) == (size, family)
    assert decode_address(encoded) == (host, 3478)
    assert from_port_and_address(port_and_address(encoded)) == encoded
    assert Path.of(host, 3478).encode().endswith(port_and_address(encoded))
