"""Which mounts of the host cannot be idmapped, found out by doing it to a copy that is mounted nowhere.

``cri.idmapped`` has a worker of the zygote do it for the sources of a container's mounts: a
server that has one of them may not answer, and then the worker can be killed.

Invariant: nothing is mounted, and nothing changed.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Sequence
from typing import Any

from runtime.errors import HostFault
from runtime.linux import mount
from runtime.linux.libc import AT_FDCWD, AT_RECURSIVE, SyscallError

_ESCAPED = re.compile(r"\\([0-7]{3})")


def find_refusals(args: dict[str, Any], fds: Sequence[int]) -> dict[str, Any]:
    """The worker's entry: ``refused`` has for each of ``args["paths"]`` what ``find_refusal`` says of it, for the
    user namespace ``fds[0]``.

    Raises:
        OSError: one cannot be looked at.
    """
    return {"refused": [find_refusal(fds[0], path) for path in args["paths"]]}


def find_refusal(user: int, path: str) -> str:
    """Which mount at or below ``path`` cannot be idmapped by the namespace ``user``, and its type; "" for none.

    What is missing of ``path`` would be made on the mount of its deepest directory.

    Raises:
        OSError: it cannot be looked at.
    """
    while not os.path.lexists(path):
        path = os.path.dirname(path.rstrip("/")) or "/"
    if _can_be_idmapped(user, path, AT_RECURSIVE):
        return ""
    inner, place = os.path.realpath(path), _mount_of(path)
    for at, kind in [place, *((at, kind) for at, kind in _mounts() if at.startswith(f"{inner.rstrip('/')}/"))]:
        if not _can_be_idmapped(user, path if at == place[0] else at, 0):
            return f"{at} is {kind}"
    return f"{path} is idmapped already"


def _can_be_idmapped(user: int, path: str, flags: int) -> bool:
    tree = mount.open_tree(AT_FDCWD, path, mount.OPEN_TREE_CLONE | flags)
    try:
        mount.mount_setattr(tree, recursive=bool(flags), user=user)
    except SyscallError as error:
        if error.errno == errno.EINVAL:
            return False
        raise
    finally:
        os.close(tree)
    return True


def _mount_of(path: str) -> tuple[str, str]:
    """Where the mount that ``path`` is on is mounted, and its type."""
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
            number = next(line.split()[1] for line in file if line.startswith("mnt_id:"))
    finally:
        os.close(fd)
    for fields in _mountinfo():
        if fields[0] == number:
            return _place_of(fields)
    raise HostFault("is on no mount of this namespace", step="look at a mount", object=path)


def _mounts() -> list[tuple[str, str]]:
    return [_place_of(fields) for fields in _mountinfo()]


def _mountinfo() -> list[list[str]]:
    """proc_pid_mountinfo(5)."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return [line.split() for line in file]


def _place_of(fields: list[str]) -> tuple[str, str]:
    return _ESCAPED.sub(lambda found: chr(int(found[1], 8)), fields[4]), fields[fields.index("-") + 1]
