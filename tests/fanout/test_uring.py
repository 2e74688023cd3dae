"""Many sends in one system call: what each socket takes, and what is said of it, is as with a send of its own."""

from __future__ import annotations

import mmap
import os
import platform
import socket
from array import array
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.fanout.uring import SENDS, NoUring, Uring
from tests.faults.host import unless_ci

KINDS = ("open", "open", "open", "narrow", "full", "lost", "none")


@pytest.fixture(scope="module")
def uring() -> Iterator[Uring]:
    try:
        uring = Uring()
    except NoUring as reason:
        unless_ci(f"io_uring is not to be had: {reason}")
    yield uring
    uring.close()


class Socket:
    """One of a kind: open, with room for little, full, without its other end, or none at all."""

    def __init__(self, kind: str, stack: ExitStack) -> None:
        self.kind = kind
        self.ours, self.theirs = map(stack.enter_context, socket.socketpair())
        self.ours.setblocking(False)
        self.theirs.setblocking(False)
        if kind == "narrow":
            self.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        if kind == "full":
            with suppress(BlockingIOError):
                while True:
                    self.ours.send(bytes(1 << 16))
        if kind == "lost":
            self.theirs.close()

    @property
    def fd(self) -> int:
        return -1 if self.kind == "none" else self.ours.fileno()

    def read(self) -> bytes:
        read = b""
        with suppress(BlockingIOError):
            while part := self.theirs.recv(1 << 20):
                read += part
        return read

    def as_alone(self, data: bytes) -> int:
        """How much it takes in a send of its own."""
        if self.kind == "none":
            return 0
        try:
            return self.ours.send(data, socket.MSG_DONTWAIT)
        except OSError:
            return 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(KINDS), max_size=12), st.sampled_from((1, 200, 5_000, 60_000)), st.integers(1, 5))
def test_each_socket_takes_what_it_takes_in_a_send_of_its_own(
    uring: Uring, kinds: list[str], size: int, times: int
) -> None:
    data = bytes(i % 251 for i in range(size))
    with ExitStack() as stack:
        sockets = [Socket(kind, stack) for kind in kinds]
        likes = [Socket(kind, stack) for kind in kinds]
        fds = array("i", [each.fd for each in sockets])
        for _ in range(times):
            short = uring.send(fds, data)
            alone = {place: like.as_alone(data) for place, like in enumerate(likes)}
            assert short == {place: sent for place, sent in alone.items() if sent < size}
        for each, like in zip(sockets, likes, strict=True):
            if each.kind != "lost":
                assert each.read() == like.read()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(KINDS), st.sampled_from((1, 200, 5_000, 60_000))), max_size=12))
def test_each_socket_is_sent_what_is_for_it(uring: Uring, wanted: list[tuple[str, int]]) -> None:
    frames = [bytes((place + i) % 251 for i in range(size)) for place, (_, size) in enumerate(wanted)]
    with ExitStack() as stack:
        sockets = [Socket(kind, stack) for kind, _ in wanted]
        likes = [Socket(kind, stack) for kind, _ in wanted]
        for _ in range(3):
            short = uring.send_each(array("i", [each.fd for each in sockets]), frames)
            alone = [like.as_alone(data) for like, data in zip(likes, frames, strict=True)]
            assert short == {place: sent for place, sent in enumerate(alone) if sent < len(frames[place])}
        for each, like in zip(sockets, likes, strict=True):
            if each.kind != "lost":
                assert each.read() == like.read()


def test_there_may_be_more_frames_than_one_call_takes(uring: Uring) -> None:
    with ExitStack() as stack:
        some = [Socket("open", stack) for _ in range(7)]
        frames = [b"%d;" % place for place in range(SENDS + 7)]
        none = [-1] * SENDS
        short = uring.send_each(array("i", [*none, *[each.fd for each in some]]), frames)
        assert short == dict.fromkeys(range(SENDS), 0)
        assert [each.read() for each in some] == frames[SENDS:]


@pytest.mark.parametrize("count", [1, SENDS - 1, SENDS, SENDS + 1, 3 * SENDS + 7])
def test_there_may_be_more_sockets_than_one_call_takes(uring: Uring, count: int) -> None:
    with ExitStack() as stack:
        one, full = Socket("open", stack), Socket("full", stack)
        fds = array("i", [one.fd, *[full.fd] * (count - 2), one.fd][:count])
        assert uring.send(fds, b"x") == dict.fromkeys(range(1, count - 1), 0)
        assert one.read() == b"x" * min(count, 2)


def test_the_queues_go_round(uring: Uring) -> None:
    with ExitStack() as stack:
        sockets = [Socket("open", stack) for _ in range(7)]
        fds = array("i", [each.fd for each in sockets])
        for turn in range(SENDS):  # seven times round the one, and three times and a half round the other
            assert not uring.send(fds, b"%d," % turn)
            assert {each.read() for each in sockets} == {b"%d," % turn}


@pytest.mark.parametrize("taken", [[-1], [0], [3, -1], [2, 1, -1], [5, 5]])
def test_what_the_kernel_does_not_take_is_never_sent(
    uring: Uring, monkeypatch: pytest.MonkeyPatch, taken: list[int]
) -> None:
    enter, left = uring._enter, iter(taken)

    def reluctant(submit: int, complete: int) -> int:
        count = next(left)
        return enter(count, count) if count > 0 else count

    with ExitStack() as stack:
        sockets = [Socket("open", stack) for _ in range(10)]
        fds = array("i", [each.fd for each in sockets])
        with monkeypatch.context() as patched:
            patched.setattr(uring, "_enter", reluctant)
            short = uring.send(fds, b"first")
        count = sum(each for each in taken if each > 0)
        assert short == dict.fromkeys(range(count, 10), 0)
        assert not uring.send(fds, b"then")
        assert [each.read() for each in sockets] == [b"firstthen"] * count + [b"then"] * (10 - count)


def test_a_signal_before_the_last_results_does_not_lose_them(uring: Uring, monkeypatch: pytest.MonkeyPatch) -> None:
    class Late:
        looks = 0

        def __getitem__(self, index: int, ready: memoryview = uring._ready) -> int:
            self.looks += 1
            return int(ready[index]) - (self.looks < 3)

    late = Late()
    monkeypatch.setattr(uring, "_ready", late)
    with ExitStack() as stack:
        sockets = [Socket("open", stack) for _ in range(3)]
        assert not uring.send(array("i", [each.fd for each in sockets]), b"x")
        assert [each.read() for each in sockets] == [b"x"] * 3
    assert late.looks == 3


def test_where_its_memory_is_not_to_be_had_there_is_none(uring: Uring, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(mmap, "mmap", refused)
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(NoUring, match="Operation not permitted"):
        Uring()
    assert set(os.listdir("/proc/self/fd")) <= before, "its descriptor is given back"


def test_no_other_system_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "alpha")
    with pytest.raises(NoUring, match="no system that it is known for"):
        Uring()
