"""Namespaces: setns(2), unshare(2), sethostname(2).

Python 3.11 has none of them. ``runtime.init`` and ``runtime.sandbox`` enter and
make namespaces; the daemon does so only in a thread of its own.

Invariant: the type is always given to setns, so a descriptor of another kind is
refused by the kernel and never joined by mistake.
"""

from __future__ import annotations

from ctypes import c_char_p, c_int, c_size_t

from runtime.linux import libc

CLONE_NEWNS = 0x20000
CLONE_NEWCGROUP = 0x2000000
CLONE_NEWUTS = 0x4000000
CLONE_NEWIPC = 0x8000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

FLAGS_BY_TYPE = {
    "mount": CLONE_NEWNS,
    "cgroup": CLONE_NEWCGROUP,
    "uts": CLONE_NEWUTS,
    "ipc": CLONE_NEWIPC,
    "user": CLONE_NEWUSER,
    "pid": CLONE_NEWPID,
    "network": CLONE_NEWNET,
}
"""The names that the OCI runtime specification gives to the kinds."""

_setns = libc.function("setns", c_int, c_int)
_unshare = libc.function("unshare", c_int)
_sethostname = libc.function("sethostname", c_char_p, c_size_t)


def setns(fd: int, nstype: int) -> None:
    """setns(2): join the namespace of ``fd``, which must be of the kind ``nstype``."""
    if _setns(fd, nstype) < 0:
        raise libc.failed("setns")


def unshare(flags: int) -> None:
    """unshare(2)."""
    if _unshare(flags) < 0:
        raise libc.failed("unshare")


def sethostname(name: str) -> None:
    """sethostname(2) in the UTS namespace of the caller."""
    encoded = libc.cstring(name)
    if _sethostname(encoded, len(encoded)) < 0:
        raise libc.failed("sethostname", name)
