"""recvmmsg and sendmmsg (Linux) over arrays that are allocated once."""

import errno
import socket
import struct
from collections.abc import Sequence
from typing import Any

from cffi import FFI

from antiphon_common.link import MAX_LINK_DATAGRAM
from antiphon_common.shell.system_calls import BATCH, SO_RXQ_OVFL, UdpCounters
from antiphon_common.sockaddr import SIZE

_ffi = FFI()
_ffi.cdef("""
    struct iovec { void *iov_base; size_t iov_len; };
    struct msghdr {
        void *msg_name; unsigned int msg_namelen; struct iovec *msg_iov; size_t msg_iovlen;
        void *msg_control; size_t msg_controllen; int msg_flags;
    };
    struct mmsghdr { struct msghdr msg_hdr; unsigned int msg_len; };
    int recvmmsg(int fd, struct mmsghdr *messages, unsigned int length, int flags, void *timeout);
    int sendmmsg(int fd, struct mmsghdr *messages, unsigned int length, int flags);
""")
_libc: Any = _ffi.dlopen(None)

_RECEIVE_FLAGS = socket.MSG_DONTWAIT | socket.MSG_TRUNC
_SEND_FLAGS = socket.MSG_DONTWAIT
_CONTROL_SIZE = 64
_OVERFLOW = struct.Struct("@NiiI")
"""The control message of SO_RXQ_OVFL: cmsghdr (length, level, type), and the drops of the socket so far."""


_SO_MEMINFO, _MEMINFO_SIZE, _DROPS_AT = 55, 36, 32
_DROPS = struct.Struct("@I")
"""The drops of a socket so far (SK_MEMINFO_DROPS, since Linux 4.12), also of one that another process used before."""


class _Vector:
    """An array of `BATCH` messages, each with its own buffer and address, and views of their variable parts."""

    def __init__(self, name_size: int) -> None:
        self.name_size = name_size
        self.headers = _ffi.new("struct mmsghdr[]", BATCH)
        self._iovecs = _ffi.new("struct iovec[]", BATCH)
        self._names = _ffi.new("char[]", BATCH * name_size)
        self._buffers = _ffi.new("char[]", BATCH * MAX_LINK_DATAGRAM)
        for index in range(BATCH):
            iovec, header = self._iovecs[index], self.headers[index].msg_hdr
            iovec.iov_base = self._buffers + index * MAX_LINK_DATAGRAM
            iovec.iov_len = MAX_LINK_DATAGRAM
            header.msg_iov, header.msg_iovlen = self._iovecs + index, 1
            header.msg_name, header.msg_namelen = self._names + index * name_size, name_size
        self.names = _ffi.buffer(self._names)
        self.buffers = _ffi.buffer(self._buffers)
        stride = _ffi.sizeof("struct mmsghdr") // 4
        start = _ffi.offsetof("struct mmsghdr", "msg_len") // 4
        self.lengths = memoryview(_ffi.buffer(self.headers)).cast("B").cast("I")[start::stride]
        self.iov_lengths = memoryview(_ffi.buffer(self._iovecs)).cast("B").cast("L")[1::2]


class MessageVectors:
    """recvmmsg and sendmmsg on one socket. A `BatchSocket` calls them on Linux."""

    def __init__(self, sock: socket.socket, counters: UdpCounters) -> None:
        self._fd = sock.fileno()
        self._counters = counters
        self._name_size = SIZE[sock.family]
        self._in = _Vector(self._name_size)
        self._out = _Vector(self._name_size)
        self._first = self._in.headers[0].msg_hdr
        self._control = _ffi.new("char[]", _CONTROL_SIZE)
        self._first.msg_control = self._control
        self._dropped = _DROPS.unpack_from(sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO_SIZE), _DROPS_AT)[0]

    def receive(self) -> list[tuple[bytes, bytes]]:
        """Return the datagrams that wait, at most `BATCH`, with their encoded sources."""
        vector = self._in
        self._first.msg_controllen = _CONTROL_SIZE
        count = _libc.recvmmsg(self._fd, vector.headers, BATCH, _RECEIVE_FLAGS, _ffi.NULL)
        if count <= 0:
            return []  # nothing waits, or an earlier send has failed late, whose error is now cleared
        if self._first.msg_controllen:
            self._note_overflow()
        self._counters.received += count
        names, buffers, name_size = vector.names, vector.buffers, self._name_size
        batch: list[tuple[bytes, bytes]] = []
        name = start = 0
        for length in vector.lengths[:count].tolist():
            if length <= MAX_LINK_DATAGRAM:
                batch.append((buffers[start : start + length], names[name : name + name_size]))
            else:
                self._counters.oversize += 1
            name += name_size
            start += MAX_LINK_DATAGRAM
        return batch

    def send(self, datagrams: Sequence[tuple[bytes, bytes]]) -> None:
        """Send datagrams to encoded destinations; failures are counted."""
        for start in range(0, len(datagrams), BATCH):
            self._send(datagrams[start : start + BATCH])

    def _send(self, datagrams: Sequence[tuple[bytes, bytes]]) -> None:
        vector, name_size = self._out, self._name_size
        names, buffers, lengths = vector.names, vector.buffers, vector.iov_lengths
        index = name = start = 0
        for data, destination in datagrams:
            length = len(data)
            if length > MAX_LINK_DATAGRAM:
                self._counters.failed += 1
                continue
            buffers[start : start + length] = data
            names[name : name + name_size] = destination
            lengths[index] = length
            index += 1
            name += name_size
            start += MAX_LINK_DATAGRAM
        done = 0
        while done < index:
            sent = _libc.sendmmsg(self._fd, vector.headers + done, index - done, _SEND_FLAGS)
            if sent > 0:
                self._counters.sent += sent
                done += sent
            elif _ffi.errno in (errno.EAGAIN, errno.ENOBUFS):
                self._counters.failed += index - done
                return
            elif _ffi.errno != errno.EINTR:
                self._counters.failed += 1
                done += 1

    def _note_overflow(self) -> None:
        length, level, kind, drops = _OVERFLOW.unpack(bytes(_ffi.buffer(self._control, _OVERFLOW.size)))
        if length >= _OVERFLOW.size and (level, kind) == (socket.SOL_SOCKET, SO_RXQ_OVFL):
            self._counters.overflowed += (drops - self._dropped) & 0xFFFFFFFF
            self._dropped = drops
