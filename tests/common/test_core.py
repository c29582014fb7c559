import pytest

from antiphon_common.core import PATH_SIZE, Path
from antiphon_common.errors import DecodeError


@pytest.mark.parametrize(
    ("host", "shown"),
    [("192.0.2.1", "192.0.2.1:5000"), ("2001:db8::1", "[2001:db8::1]:5000"), ("::ffff:192.0.2.1", "192.0.2.1:5000")],
)
def test_decoding_inverts_encoding_of_a_path(host: str, shown: str) -> None:
    path = Path.of(host, 5000, ingress=0xABCD)
    encoded = path.encode()
    assert len(encoded) == PATH_SIZE
    assert Path.decode(encoded) == path
    assert str(path) == shown


def test_an_encoded_path_has_the_documented_layout() -> None:
    assert Path.of("192.0.2.1", 0x1234, ingress=0xABCD).encode().hex() == "1100abcd123400000000000000000000ffffc0000201"


def test_a_path_contains_no_scope() -> None:
    assert Path.of("fe80::1%eth0", 1) == Path.of("fe80::1", 1)


@pytest.mark.parametrize("data", [b"", bytes(PATH_SIZE - 1), bytes(PATH_SIZE + 1), b"\x11\x01" + bytes(20)])
def test_malformed_paths_are_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        Path.decode(data)
