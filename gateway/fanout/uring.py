"""io_uring(7), as much of it as it takes to send to many sockets in one system call.

A `send` takes some 4 µs, a quarter of which is the way into the kernel and out again; here a thousand sends share one
way. Each says MSG_DONTWAIT: as with `socket.send`, all is over when the call returns, and the kernel keeps nothing.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import socket
import struct
import sys
from array import array
from collections.abc import Sequence
from contextlib import suppress
from itertools import accumulate
from typing import Final

SENDS: Final = 1_024  # in one system call; a power of two

# What follows is from linux/io_uring.h. The numbers of the two calls are the same on both machines.
_MACHINES: Final = ("x86_64", "aarch64")
_SETUP: Final = 425
_ENTER: Final = 426
_GETEVENTS: Final = 1  # return when so many have been completed

# struct io_uring_params: both queues' lengths, and the features; where head, tail and array of the submission queue
# are; where head, tail and entries of the completion queue are.
_PARAMS: Final = struct.Struct("=II12xI16x II16xI12x II12xI16x")
_SINGLE_MMAP: Final = 1  # of the features: both queues are in one piece of memory
_ENTRIES_AT: Final = 0x1000_0000  # the entries that submissions are made of are a piece of their own

# struct io_uring_sqe: opcode, fd, addr, len, msg_flags, user_data; and the places of three of them, of all entries.
_ENTRY: Final = struct.Struct("=B3xi8xQIIQ24x")
_SEND: Final = 26  # the opcode
_FD: Final = slice(1, None, 16)  # of int
_ADDR: Final = slice(2, None, 8)  # of long long
_LEN: Final = slice(6, None, 16)  # of int

# struct io_uring_cqe: user_data, res, flags.
_COMPLETION: Final = struct.Struct("=QiI")
_RES: Final = slice(2, None, 4)  # of int

_WRAP: Final = 0xFFFF_FFFF  # heads and tails are counts that only grow, of 32 bits


class NoUring(Exception):
    """io_uring is not to be had here; the message says why."""


class BrokenOff(Exception):
    """A call that failed on its way.

    The sockets before `known` have their outcome: `short` has those that did not take everything, as `Uring.send` gives
    them. The kernel took the sockets from `known` to before `taken`, and their outcome is unknown. It never saw the
    others.
    """

    def __init__(self, short: dict[int, int], known: int, taken: int) -> None:
        super().__init__(f"of {taken} sockets {known} have an outcome")
        self.short = short
        self.known = known
        self.taken = taken


class Uring:
    """An io_uring, for one thread. Raises NoUring where the kernel has none, or lacks the operations used here."""

    def __init__(self) -> None:
        if sys.platform != "linux" or platform.machine() not in _MACHINES:
            raise NoUring("this is no system that it is known for")
        self._taken = 0  # by the kernel, of the call that is under way
        self._kept = b""
        libc = ctypes.CDLL(None, use_errno=True)
        setup = libc["syscall"]
        setup.argtypes = (ctypes.c_long, ctypes.c_uint, ctypes.c_char_p)
        self._syscall = libc["syscall"]
        self._syscall.argtypes = (ctypes.c_long, *[ctypes.c_uint] * 4, ctypes.c_void_p, ctypes.c_size_t)
        params = ctypes.create_string_buffer(_PARAMS.size)
        self._fd: int = setup(_SETUP, SENDS, params)
        if self._fd < 0:
            raise NoUring(os.strerror(ctypes.get_errno()))
        try:
            self._map(params.raw)
            self._try()
        except OSError as error:
            self.close()
            raise NoUring(str(error)) from error
        except NoUring:
            self.close()
            raise

    def close(self) -> None:
        """Gives the descriptor back; the memory goes with the object."""
        os.close(self._fd)

    def send(self, fds: array[int], data: bytes) -> dict[int, int]:
        """Sends `data` to each socket, as `socket.send` does on a socket that does not block.

        Returns the sockets that did not take all of it, by their place in `fds`: how many bytes each took, and 0 where
        the socket was full or lost. Raises BrokenOff; then this object must not be used again.
        """
        count = len(fds)
        return self._send_all(fds, data, array("Q", (_address(data),)) * count, array("I", (len(data),)) * count)

    def send_each(self, fds: array[int], frames: Sequence[bytes]) -> dict[int, int]:
        """Sends to each socket what is for it, at its place in `frames`. A socket may be there once. Otherwise as
        `send`.
        """
        joined, lengths = b"".join(frames), array("I", map(len, frames))  # so there is one address to ask for
        addresses = array("Q", accumulate(lengths, initial=_address(joined)))
        return self._send_all(fds, joined, addresses, lengths)

    def _send_all(self, fds: array[int], data: bytes, addresses: array[int], lengths: array[int]) -> dict[int, int]:
        short: dict[int, int] = {}
        for start in range(0, len(fds), SENDS):
            self._taken = 0
            part = slice(start, start + SENDS)
            try:
                found = self._send(memoryview(fds)[part], memoryview(addresses)[part], memoryview(lengths)[part])
            except Exception as error:
                self._kept = data  # the kernel may look at it still
                raise BrokenOff(short, start, start + self._taken) from error
            for place, sent in found.items():
                short[start + place] = sent
        return short

    def _map(self, params: bytes) -> None:
        """Maps the queues into memory, and writes the fields that all submissions share."""
        sends, completions, features, _, tail, order, done, ready, results = _PARAMS.unpack(params)
        if not features & _SINGLE_MMAP:
            raise NoUring("this is a Linux before 5.4")
        size = max(order + 4 * sends, results + _COMPLETION.size * completions)
        queues = memoryview(mmap.mmap(self._fd, size))
        self._tail = queues[tail : tail + 4].cast("I")
        self._order = queues[order : order + 4 * sends].cast("I")
        self._done = queues[done : done + 4].cast("I")
        self._ready = queues[ready : ready + 4].cast("I")
        self._completions = queues[results : results + _COMPLETION.size * completions]
        self._results = self._completions.cast("i")[_RES]

        entries = memoryview(mmap.mmap(self._fd, SENDS * _ENTRY.size, offset=_ENTRIES_AT))
        flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
        for place in range(SENDS):
            _ENTRY.pack_into(entries, place * _ENTRY.size, _SEND, -1, 0, 0, flags, place)
        self._fds = entries.cast("i")[_FD]
        self._addresses = entries.cast("Q")[_ADDR]
        self._lengths = entries.cast("I")[_LEN]
        self._places = memoryview(array("I", range(SENDS)))

    def _send(self, fds: memoryview, addresses: memoryview, lengths: memoryview) -> dict[int, int]:
        """Sends to as many sockets as one system call takes."""
        count = len(fds)
        self._fds[:count] = fds
        self._addresses[:count] = addresses[:count]
        self._lengths[:count] = lengths
        sent = self._submit(count)
        return self._short(sent, lengths) | dict.fromkeys(range(sent, count), 0)

    def _submit(self, count: int) -> int:
        """Submits the first entries to the kernel. It takes fewer, if any, when it is out of memory."""
        tail = self._tail[0]
        at = tail % SENDS
        to_end = min(count, SENDS - at)
        self._order[at : at + to_end] = self._places[:to_end]
        self._order[: count - to_end] = self._places[to_end:count]
        self._tail[0] = (tail + count) & _WRAP
        sent = 0
        while sent < count and (taken := self._enter(count - sent, count - sent)) > 0:
            sent += taken
            self._taken = sent
        self._tail[0] = (tail + sent) & _WRAP
        return sent

    def _short(self, sent: int, lengths: memoryview) -> dict[int, int]:
        """Takes in so many results; gives the place and the result of those that are not what they should be."""
        done, length = self._done[0], len(self._results)
        while (self._ready[0] - done) & _WRAP < sent:  # they are all there, unless a signal came
            if self._enter(0, sent) < 0 and ctypes.get_errno() != errno.EINTR:
                raise OSError(ctypes.get_errno(), "io_uring does not complete what it has taken")
        at = done % length
        to_end = min(sent, length - at)
        results = self._results[at : at + to_end].tobytes() + self._results[: sent - to_end].tobytes()
        short: dict[int, int] = {}
        if results != lengths[:sent].tobytes():
            for i in range(done, done + sent):
                place, result, _ = _COMPLETION.unpack_from(self._completions, i % length * _COMPLETION.size)
                if result != lengths[place]:
                    short[place] = max(result, 0)
        self._done[0] = (done + sent) & _WRAP
        return short

    def _enter(self, submit: int, complete: int) -> int:
        """io_uring_enter(2): how many submissions it took, or -1."""
        taken: int = self._syscall(_ENTER, self._fd, submit, complete, _GETEVENTS, None, 0)
        return taken

    def _try(self) -> None:
        """Finds out whether it sends, and whether it leaves a socket that is full alone."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            fd = array("i", (ours.fileno(),))
            if self.send(fd, b"sent") or theirs.recv(8) != b"sent":
                raise NoUring("it does not send")
            with suppress(BlockingIOError):
                while True:
                    ours.send(bytes(1 << 16))
            if self.send(fd, b"sent") != {0: 0}:
                raise NoUring("it does not know a full socket")


def _address(data: bytes) -> int:
    address = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value
    assert address is not None
    return address
