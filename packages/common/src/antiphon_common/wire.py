"""Bounds-checked reading and writing of bytes in network order."""

from antiphon_common.errors import DecodeError


class Reader:
    """Reads integers and byte strings from a buffer, one after the other, with its `pull` methods.

    Each of them raises DecodeError when too few bytes are left.
    """

    __slots__ = ("_data", "_end", "_position")

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = bytes(data)
        self._position = 0
        self._end = len(data)

    @property
    def remaining(self) -> int:
        """Bytes not yet read."""
        return self._end - self._position

    def pull_bytes(self, length: int) -> bytes:
        """Read `length` bytes. Raises DecodeError when fewer are left."""
        start = self._position
        stop = start + length
        if stop > self._end:
            raise DecodeError(f"{length} bytes wanted, {self._end - start} left")
        self._position = stop
        return self._data[start:stop]

    def pull_rest(self) -> bytes:
        return self.pull_bytes(self.remaining)

    def pull_uint8(self) -> int:
        return self.pull_bytes(1)[0]

    def pull_uint16(self) -> int:
        return int.from_bytes(self.pull_bytes(2), "big")

    def pull_uint24(self) -> int:
        return int.from_bytes(self.pull_bytes(3), "big")

    def pull_uint32(self) -> int:
        return int.from_bytes(self.pull_bytes(4), "big")

    def pull_uint48(self) -> int:
        return int.from_bytes(self.pull_bytes(6), "big")

    def pull_uint64(self) -> int:
        return int.from_bytes(self.pull_bytes(8), "big")

    def pull_block(self, length_bytes: int) -> bytes:
        """Read a byte string behind its own length of `length_bytes` bytes (the vectors of RFC 8446 §3.4)."""
        return self.pull_bytes(int.from_bytes(self.pull_bytes(length_bytes), "big"))

    def expect_end(self) -> None:
        """Raise DecodeError if anything is left."""
        if self.remaining:
            raise DecodeError(f"{self.remaining} bytes too many")


class Writer:
    """Appends integers and byte strings with its `push` methods; `getvalue` returns them all."""

    __slots__ = ("_data",)

    def __init__(self) -> None:
        self._data = bytearray()

    def push_bytes(self, data: bytes) -> None:
        self._data += data

    def push_uint8(self, value: int) -> None:
        self._data.append(value)

    def push_uint16(self, value: int) -> None:
        self._data += value.to_bytes(2, "big")

    def push_uint24(self, value: int) -> None:
        self._data += value.to_bytes(3, "big")

    def push_uint32(self, value: int) -> None:
        self._data += value.to_bytes(4, "big")

    def push_uint48(self, value: int) -> None:
        self._data += value.to_bytes(6, "big")

    def push_uint64(self, value: int) -> None:
        self._data += value.to_bytes(8, "big")

    def push_block(self, data: bytes, length_bytes: int) -> None:
        """Write `data` behind its length in `length_bytes` bytes (the vectors of RFC 8446 §3.4)."""
        self._data += len(data).to_bytes(length_bytes, "big")
        self._data += data

    def __len__(self) -> int:
        return len(self._data)

    def getvalue(self) -> bytes:
        return bytes(self._data)
