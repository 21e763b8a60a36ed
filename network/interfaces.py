"""What went through the interfaces of a pod: the counters of its network namespace.

They are read through /proc of a process that lives in it, so nothing enters the
namespace. ``cri.sweep`` asks for each pod.

Invariant: the counters are those of the namespace that was named, even if the pid has
meanwhile become another process's, and nothing is kept open that would keep a namespace
alive; the loopback is left out, and of the node what belongs to pods.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from network.names import POD_INTERFACE

_BYTES = 1 << 20
"""A node with thousands of links stays below this."""
MOST = 256
"""Interfaces that are told of one network: how many it has is up to its pod, and one answer is for all pods."""
_OF_PODS = ("veth", "crp")
"""How the host's ends of pods' links begin: CNI's bridge plugin's, and ours (``network.names``)."""
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class Interface(NamedTuple):
    """Counters since the interface was made, seen from inside."""

    name: str
    rx_bytes: int
    rx_packets: int
    rx_errors: int
    rx_dropped: int
    tx_bytes: int
    tx_packets: int
    tx_errors: int
    tx_dropped: int


class PodInterfaces:
    """The interfaces of many pods. Of each it keeps a descriptor of its process's /proc/PID/net, which belongs
    to that process whoever has its pid later, and shows nothing once it is gone."""

    def __init__(self, proc_root: str = "/proc") -> None:
        self._proc = proc_root
        self._folders: dict[str, tuple[int, int]] = {}

    def read(self, id: str, pid: int, namespace: str) -> tuple[Interface, ...]:
        """Those of pod ``id``, the default one first; none when they cannot be read, or if process ``pid``
        does not live in the namespace that ``namespace`` is the pin of."""
        try:
            known = self._folders.get(id)
            if known is None or known[0] != pid:
                self.forget(id)
                known = self._folders[id] = pid, open_folder(f"{self._proc}/{pid}", namespace)
            return parse_interfaces(_read("dev", known[1]), POD_INTERFACE)
        except OSError:
            self.forget(id)
            return ()

    def forget(self, id: str) -> None:
        """The pod has ended."""
        _, folder = self._folders.pop(id, (0, -1))
        if folder >= 0:
            os.close(folder)

    def close(self) -> None:
        for id in list(self._folders):
            self.forget(id)


def open_folder(process: str, namespace: str) -> int:
    """A descriptor of ``process``'s net, both looked up below the one process. Raises OSError."""
    found = os.open(process, _FOLDER)
    try:
        lives, pin = os.stat("ns/net", dir_fd=found), os.stat(namespace)
        if (lives.st_dev, lives.st_ino) != (pin.st_dev, pin.st_ino):
            raise FileNotFoundError(errno.ENOENT, "lives in another network namespace", process)
        return os.open("net", _FOLDER, dir_fd=found)
    finally:
        os.close(found)


def read_node(process: str = "/proc/self") -> tuple[Interface, ...]:
    """The interfaces of the network that ``process`` lives in, the default one first; none when they cannot be read."""
    try:
        default = default_interface(_read(f"{process}/net/route"))
        return parse_interfaces(_read(f"{process}/net/dev"), default, leave_out=_OF_PODS)
    except OSError:
        return ()


@lru_cache(maxsize=1024)
def parse_interfaces(text: bytes, first: str, *, leave_out: tuple[str, ...] = ()) -> tuple[Interface, ...]:
    """/proc/PID/net/dev: two lines of headings, then eight counters each way a line. ``first`` is to come first;
    ``leave_out`` are beginnings of names. MOST at most.

    What was parsed is kept: a pod that is idle says the same at the next sweep.
    """
    found = []
    for line in text.decode(errors="replace").splitlines()[2:]:
        name, _, counters = line.partition(":")
        name = name.strip()
        if name != "lo" and not name.startswith(leave_out):
            fields = counters.split()
            found.append(Interface(name, *map(int, (*fields[0:4], *fields[8:12]))))
    return tuple(sorted(found, key=lambda each: each.name != first)[:MOST])


def default_interface(routes: bytes) -> str:
    """Which interface has the default route of the smallest metric in /proc/PID/net/route; '' if none."""
    lines: Sequence[list[str]] = [line.split() for line in routes.decode(errors="replace").splitlines()[1:]]
    default = [(int(fields[6]), fields[0]) for fields in lines if fields[1] == fields[7] == "00000000"]
    return min(default)[1] if default else ""


def _read(path: str, folder: int | None = None) -> bytes:
    """Below ``folder``, if there is one."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    try:
        chunks, size = [], 0
        while size < _BYTES and (chunk := os.read(fd, 65536)):
            chunks.append(chunk)
            size += len(chunk)
        return b"".join(chunks)
    finally:
        os.close(fd)
