"""Which programs the kernel executes and which processes it makes, as its own records tell (perf_event_open(2)).

``Recorder`` asks for a record of each exec, each fork and each mapping of code, on every
processor, and reads them from the rings that the kernel writes. Nothing is traced and nobody is slowed
down. A program is named by the file whose code is mapped first: what is executed by way of a descriptor
has that descriptor's number as its name otherwise. Files that no path leads to are told by their inode.

Invariant: a record that the kernel had to drop is an error, so nothing is missed.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import struct
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}
SOFTWARE, DUMMY, CLOEXEC = 1, 9, 8
TID, TIME = 1 << 1, 1 << 2
FLAGS = {"mmap": 8, "comm": 9, "task": 13, "sample_id_all": 18, "mmap2": 23, "comm_exec": 24, "use_clockid": 25}
LOST, COMM, FORK, MMAP2 = 2, 3, 7, 10
COMM_EXEC = 1 << 13
PAGES = 512
"""Of a ring, a power of two: 2 MiB a processor."""
HEAD, TAIL = 1024, 1032
"""Where the ring's first page has the positions of the kernel and of the reader."""


@dataclass(frozen=True, slots=True)
class Record:
    """``kind`` is exec, fork or map, of process ``pid``; ``parent`` of a fork; ``name`` of a program or a file,
    ``inode`` of the file, after its device's numbers."""

    time: int
    kind: str
    pid: int
    parent: int = 0
    name: str = ""
    inode: tuple[int, int, int] = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class Seen:
    """``programs`` that were executed, by name, and ``forks``: the child and its parent. Of the family only."""

    programs: tuple[str, ...]
    forks: tuple[tuple[int, int], ...]


class Recorder:
    """Records from now on; ``close`` ends it. ``paths`` are of files that are executed without one.

    Raises:
        OSError: the kernel has no perf, or allows none.
    """

    def __init__(self, *paths: str) -> None:
        self._rings: list[Ring] = []
        self._records: list[Record] = []
        try:
            for processor in online_processors():
                self._rings.append(Ring(processor))
            self._inodes = {self._learn(path): path for path in paths}
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for ring in self._rings:
            ring.close()
        self._rings.clear()

    def seen(self, family: Collection[int]) -> Seen:
        """What ``family`` (pids that were there at the start) and all that descends from it have done so far."""
        self._read()
        known, named = set(family), dict[int, str]()
        programs, forks = list[str](), list[tuple[int, int]]()
        for record in self._records:
            if record.kind == "fork" and record.parent in known:
                known.add(record.pid)
                forks.append((record.pid, record.parent))
            elif record.kind == "exec" and record.pid in known:
                programs += [named.pop(record.pid)] if record.pid in named else []
                named[record.pid] = record.name
            elif record.kind == "map" and record.pid in named:
                programs.append(os.path.basename(self._inodes.get(record.inode, record.name)))
                del named[record.pid]
        return Seen(tuple(programs + list(named.values())), tuple(forks))

    def _read(self) -> None:
        for ring in self._rings:
            self._records += ring.read()
        self._records.sort(key=lambda record: record.time)

    def _learn(self, path: str) -> tuple[int, int, int]:
        """The inode by which the kernel tells the file; on an overlay it is another than stat has."""
        with open(path, "rb") as file:
            mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC).close()
        self._read()
        mapped = [record for record in self._records if record.kind == "map" and record.pid == os.getpid()]
        return [record.inode for record in mapped if os.path.basename(record.name) == os.path.basename(path)][-1]


class Ring:
    """The records of one processor."""

    def __init__(self, processor: int) -> None:
        self._fd = open_events(processor)
        try:
            self._map = mmap.mmap(self._fd, (1 + PAGES) * mmap.PAGESIZE)
        except BaseException:
            os.close(self._fd)
            raise

    def close(self) -> None:
        self._map.close()
        os.close(self._fd)

    def read(self) -> Iterator[Record]:
        """What has come since the last time; raises AssertionError if the kernel found no room for something."""
        (head,) = struct.unpack_from("=Q", self._map, HEAD)
        (at,) = struct.unpack_from("=Q", self._map, TAIL)
        while at < head:
            kind, misc, size = struct.unpack("=IHH", self._take(at, 8))
            yield from parse(kind, misc, self._take(at + 8, size - 8))
            at += size
        struct.pack_into("=Q", self._map, TAIL, at)

    def _take(self, at: int, size: int) -> bytes:
        whole = PAGES * mmap.PAGESIZE
        begin = at % whole
        first = min(size, whole - begin)
        page = mmap.PAGESIZE
        return self._map[page + begin : page + begin + first] + self._map[page : page + size - first]


def parse(kind: int, misc: int, body: bytes) -> Iterator[Record]:
    """The record in ``body``; its last 16 bytes say who and when (sample_id_all)."""
    assert kind != LOST, "the kernel had no room for a record"
    (moment,) = struct.unpack_from("=Q", body, len(body) - 8)
    pid, second, tid = struct.unpack_from("=IIi", body)
    if kind == COMM and misc & COMM_EXEC:
        yield Record(moment, "exec", pid, name=text(body[8:-16]))
    elif kind == FORK and tid == pid:  # else it is a thread
        yield Record(moment, "fork", pid, parent=second)
    elif kind == MMAP2:
        inode = struct.unpack_from("=IIQ", body, 32)
        yield Record(moment, "map", pid, name=text(body[64:-16]), inode=inode)


def text(padded: bytes) -> str:
    return padded.partition(b"\0")[0].decode(errors="replace")


def open_events(processor: int) -> int:
    """A descriptor from which the records of all processes on ``processor`` come."""
    attributes = ctypes.create_string_buffer(112)
    flags = sum(1 << bit for bit in FLAGS.values())
    struct.pack_into("=IIQQQQQ", attributes, 0, SOFTWARE, len(attributes), DUMMY, 0, TID | TIME, 0, flags)
    struct.pack_into("=i", attributes, 92, time.CLOCK_MONOTONIC)
    number = PERF_EVENT_OPEN[os.uname().machine]
    libc = ctypes.CDLL(None, use_errno=True)
    fd = int(libc.syscall(number, attributes, -1, processor, -1, CLOEXEC))
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "perf_event_open")
    return fd


def online_processors() -> Iterator[int]:
    for part in Path("/sys/devices/system/cpu/online").read_text().strip().split(","):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


def family_of(pid: int) -> set[int]:
    """``pid`` and all that descend from it, now."""
    parents = {}
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if name.isdigit():
                parents[int(name)] = int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found
