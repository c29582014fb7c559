"""CRC32c against the published vectors."""

import json
from pathlib import Path

import pytest

from antiphon_transceiver.sctp.checksum import checksum, crc32c

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "crc32c_rfc3720.json").read_text())["vectors"]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["crc32c"])
def test_published_vectors(vector: dict[str, str]) -> None:
    assert crc32c(bytes.fromhex(vector["data"])).hex() == vector["crc32c"]


def test_the_checksum_field_counts_as_zero() -> None:
    head, body = bytes(range(8)), bytes(range(100))
    assert checksum(head + b"\xff\xff\xff\xff" + body) == crc32c(head + bytes(4) + body)
