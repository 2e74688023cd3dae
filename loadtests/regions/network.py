"""Regions as network namespaces, joined by an ocean: packets between two of them take their time, and some are lost.

The delay is made here, between TUN devices, and not by `tc netem`, a kernel module that many hosts do not have: TCP
above it is the kernel's own, with its acknowledgements and retransmissions. Namespaces have no names: each lives as
long as a child of this process and what runs in it, and so nothing is left, however this ends.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import random
import shutil
import struct
import subprocess
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from loadtests.bench.processes import Process

NETWORK = "198.18.77."  # of the range that is set aside for benchmarks (RFC 2544)
TUN = "/dev/net/tun"
TUNSETIFF = 0x400454CA  # linux/if_tun.h
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
CLONE_NEWNET = 0x40000000
MTU = 1500


class Unavailable(Exception):
    """Regions cannot be made on this host; the message says why."""


@dataclass(frozen=True)
class Region:
    """A namespace: `pid` is a process that is in it."""

    name: str
    pid: int
    address: str

    @property
    def environment(self) -> dict[str, str]:
        """What `loadtests.regions.inside` needs."""
        return {"REGION_PID": str(self.pid)}


def enter(pid: int) -> None:
    """This process, from now on, is in the namespace of that one. (os.setns came with Python 3.12.)"""
    descriptor = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(descriptor, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "cannot enter a network namespace")
    finally:
        os.close(descriptor)


def check() -> None:
    """Raises Unavailable where it can be seen without trying."""
    for tool in ("ip", "nsenter", "unshare"):
        if shutil.which(tool) is None:
            raise Unavailable(f"there is no {tool}")
    if not Path(TUN).exists():
        raise Unavailable(f"there is no {TUN}")
    if os.geteuid() != 0:
        raise Unavailable("network namespaces are made by root alone")


@asynccontextmanager
async def open_regions(
    names: Sequence[str], round_trips: Mapping[frozenset[str], float], loss: float, logs: Path
) -> AsyncIterator[tuple[list[Region], Ocean]]:
    """So many regions, with the seconds that a packet takes there and back, and the share of packets that is lost.

    Raises Unavailable.
    """
    check()
    async with AsyncExitStack() as stack:
        regions: list[Region] = []
        devices: list[int] = []
        for number, name in enumerate(names, 1):
            holder = await Process.start(["unshare", "--net", "sleep", "infinity"], logs / f"{name}.log")
            stack.push_async_callback(holder.stop)
            await _separate(holder)
            region = Region(name, holder.pid, f"{NETWORK}{number}")
            descriptor = _device(f"ocean{number}-{os.getpid()}"[:15], region)
            stack.callback(os.close, descriptor)
            regions.append(region)
            devices.append(descriptor)
        ocean = Ocean(devices, [[round_trips.get(frozenset((a, b)), 0.0) / 2 for b in names] for a in names], loss)
        ocean.open()
        stack.callback(ocean.close)
        yield regions, ocean


async def _separate(holder: Process) -> None:
    """Waits until the process is in a namespace of its own. Raises Unavailable."""
    ours = os.readlink("/proc/self/ns/net")
    for _ in range(500):
        with suppress(OSError):
            if os.readlink(f"/proc/{holder.pid}/ns/net") != ours:
                return
        if not holder.running:
            break
        await asyncio.sleep(0.01)
    raise Unavailable(f"network namespaces are not permitted: {holder.said()}")


def _device(name: str, region: Region) -> int:
    """A TUN device in a region; what is sent there is read from its descriptor. Raises Unavailable."""
    descriptor = -1
    inside = ["nsenter", "-t", str(region.pid), "-n", "ip"]
    try:
        descriptor = os.open(TUN, os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
        for command in (
            ["ip", "link", "set", name, "netns", str(region.pid)],
            [*inside, "address", "add", f"{region.address}/24", "dev", name],
            [*inside, "link", "set", name, "mtu", str(MTU), "txqueuelen", "1000", "up"],
            [*inside, "link", "set", "lo", "up"],
        ):
            subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        if descriptor >= 0:
            os.close(descriptor)
        raise Unavailable(f"a TUN device cannot be made: {getattr(error, 'stderr', '') or error}") from error
    return descriptor


class Ocean:
    """Carries packets between the devices, in order, each `delays[from][to]` seconds later; drops some."""

    def __init__(self, devices: Sequence[int], delays: Sequence[Sequence[float]], loss: float) -> None:
        self.carried = 0
        self.dropped = 0
        self._devices = devices
        self._delays = delays
        self._loss = loss
        self._loop = asyncio.get_running_loop()
        self._under_way: dict[tuple[int, int], deque[tuple[float, bytes]]] = {}

    def open(self) -> None:
        for number, descriptor in enumerate(self._devices):
            self._loop.add_reader(descriptor, self._take, number)

    def close(self) -> None:
        for descriptor in self._devices:
            self._loop.remove_reader(descriptor)
        for way in self._under_way.values():
            way.clear()  # those who were to deliver find nothing

    def _take(self, source: int) -> None:
        with suppress(BlockingIOError):
            while packet := os.read(self._devices[source], MTU):
                target = packet[19] - 1  # the last byte of IPv4's destination address
                if packet[0] >> 4 != 4 or not 0 <= target < len(self._devices):
                    continue  # the kernel also speaks IPv6, to nobody
                if random.random() < self._loss:
                    self.dropped += 1
                    continue
                way = self._under_way.setdefault((source, target), deque())
                way.append((self._loop.time() + self._delays[source][target], packet))
                if len(way) == 1:
                    self._loop.call_at(way[0][0], self._deliver, way, target)

    def _deliver(self, way: deque[tuple[float, bytes]], target: int) -> None:
        now = self._loop.time()
        while way and way[0][0] <= now:
            with suppress(BlockingIOError):  # a device whose queue is full drops packets, as others do
                os.write(self._devices[target], way.popleft()[1])
            self.carried += 1
        if way:
            self._loop.call_at(way[0][0], self._deliver, way, target)
