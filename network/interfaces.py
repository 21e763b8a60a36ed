"""What went through the interfaces of a pod: the counters of its network namespace.

They are read through /proc of a process that lives in it, so nothing enters the
namespace and nothing of it is kept open, which would keep it alive. ``cri.sweep``
calls it for each pod.

Invariant: the counters are those of the namespace that was named, even if the pid has
meanwhile become another process's; the loopback and what belongs to other pods is left out.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from network.names import POD_INTERFACE

_BYTES = 1 << 20
"""A node with thousands of links stays below this."""
_OTHER_PODS = ("veth", "crp")
"""How the host's ends of pods' links begin: CNI's bridge plugin's, and ours (``network.names``)."""


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


Identity = tuple[int, int]
"""Device and inode: what a namespace is known by as long as something holds it."""


def identity(path: str) -> Identity | None:
    """Of the namespace at ``path`` (a pin, /proc/PID/ns/net), None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def read_interfaces(pid: int, namespace: Identity | None = None, proc_root: str = "/proc") -> tuple[Interface, ...]:
    """The interfaces that process ``pid`` sees, the default one first; none when they cannot be read.

    Args:
        namespace: the one that they have to be of, None if any will do.
    """
    try:
        text = _read(f"{proc_root}/{pid}/net/dev")
        if namespace is not None and identity(f"{proc_root}/{pid}/ns/net") != namespace:
            return ()
        found = parse_interfaces(text)
        first = POD_INTERFACE
        if len(found) > 1 and namespace is None:
            first = default_interface(_read(f"{proc_root}/{pid}/net/route"))
    except OSError:
        return ()
    return tuple(sorted(found, key=lambda each: each.name != first))


@lru_cache(maxsize=1024)
def parse_interfaces(text: bytes) -> tuple[Interface, ...]:
    """/proc/PID/net/dev: two lines of headings, then eight counters each way a line.

    What was parsed is kept: a pod that is idle says the same at the next sweep.
    """
    found = []
    for line in text.decode(errors="replace").splitlines()[2:]:
        name, _, counters = line.partition(":")
        name = name.strip()
        if name != "lo" and not name.startswith(_OTHER_PODS):
            fields = counters.split()
            found.append(Interface(name, *map(int, (*fields[0:4], *fields[8:12]))))
    return tuple(found)


def default_interface(routes: bytes) -> str:
    """Which interface has the default route of the smallest metric in /proc/PID/net/route; '' if none."""
    lines: Sequence[list[str]] = [line.split() for line in routes.decode(errors="replace").splitlines()[1:]]
    default = [(int(fields[6]), fields[0]) for fields in lines if fields[1] == fields[7] == "00000000"]
    return min(default)[1] if default else ""


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        chunks, size = [], 0
        while size < _BYTES and (chunk := os.read(fd, 65536)):
            chunks.append(chunk)
            size += len(chunk)
        return b"".join(chunks)
    finally:
        os.close(fd)
