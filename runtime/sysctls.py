"""Sysctls of a pod: written from inside its namespaces, by way of the host's procfs.

``runtime.pod_namespaces`` has them written once the new namespaces are entered.

Invariant: only a sysctl that belongs to a namespace of the pod is ever written;
one of the host, or of a namespace that the pod shares with it, never is.
"""

from __future__ import annotations

import errno
import os
import re
import struct
from collections.abc import Collection, Mapping

from runtime.errors import FailedPrecondition, Fault, HostFault, InvalidArgument
from runtime.linux import files
from runtime.linux.libc import AT_FDCWD
from runtime.linux.script import Label, Script, Slot, load

_KEY = re.compile(r"[a-zA-Z0-9_][-a-zA-Z0-9_]*(?:[./][a-zA-Z0-9_][-a-zA-Z0-9_]*)+", re.ASCII)
_IPC = frozenset(
    {
        "kernel/auto_msgmni",
        "kernel/msg_next_id",
        "kernel/msgmax",
        "kernel/msgmnb",
        "kernel/msgmni",
        "kernel/sem",
        "kernel/sem_next_id",
        "kernel/shm_next_id",
        "kernel/shm_rmid_forced",
        "kernel/shmall",
        "kernel/shmmax",
        "kernel/shmmni",
    }
)
_UTS = frozenset({"kernel/domainname", "kernel/hostname"})
_KINDS: dict[int, type[Fault]] = {
    errno.EINVAL: InvalidArgument,
    errno.ERANGE: InvalidArgument,
    errno.ENOENT: FailedPrecondition,
}
_STEP = "set a sysctl"
_RESOLVE = files.RESOLVE_BENEATH | files.RESOLVE_NO_SYMLINKS | files.RESOLVE_NO_XDEV
_HOW = struct.pack("=QQQ", os.O_WRONLY | os.O_CLOEXEC, 0, _RESOLVE)


def sysctl_path(key: str) -> str:
    """The path of ``key`` below /proc/sys.

    As sysctl(8) reads it: the first of ``.`` and ``/`` to appear is the separator,
    so that ``net/ipv4/conf/eth0.1/forwarding`` can name an interface with a dot.

    Raises:
        InvalidArgument: it is no sysctl's name.
    """
    if not _KEY.fullmatch(key):
        raise InvalidArgument("not a sysctl name", step=_STEP, object=key[:100])
    slash, dot = key.find("/"), key.find(".")
    if dot < 0 or 0 <= slash < dot:
        return key
    return key.translate(str.maketrans("./", "/."))


def namespace_of(path: str) -> str | None:
    """The kind of namespace that the sysctl at ``path`` belongs to; None for the whole host."""
    if path.startswith("net/"):
        return "network"
    if path in _IPC or path.startswith("fs/mqueue/"):
        return "ipc"
    return "uts" if path in _UTS else None


def write_sysctls(
    script: Script, sysctls: Mapping[str, str], namespaces: Collection[str], owner: int | None = None
) -> None:
    """Write ``sysctls`` in the process's namespaces, of which ``namespaces`` are the pod's own. ``owner`` is the
    user, as the host counts, who is root of their user namespace, if that is another than the process's: since
    Linux 6.9 those of the IPC namespace are for nobody else to write, and before for nobody but the host's root.

    When it is carried out, a value that the kernel refuses is an InvalidArgument, a sysctl
    that it does not have a FailedPrecondition, any other reason a HostFault.

    Raises:
        InvalidArgument: a name or a value is malformed, or belongs to no namespace of the pod.
    """
    paths = {sysctl_path(key): value for key, value in sysctls.items()}
    for path, value in paths.items():
        if namespace_of(path) not in namespaces:
            raise InvalidArgument("not in a namespace of the pod", step=_STEP, object=path)
        if "\n" in value or "\0" in value:
            raise InvalidArgument("the value has a line break", step=_STEP, object=path)
    if not paths:
        return
    found = script.room(256)
    with script.step(_STEP, "/proc/sys"):
        root = script.opened("openat", AT_FDCWD, "/proc/sys", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, 0)
        script.call("fstatfs", root, found)
        script.expect(load(found), files.PROC_SUPER_MAGIC, HostFault, "is not on procfs", mask=0xFFFFFFFF)
    for path, value in paths.items():
        with script.step(_STEP, path):
            if owner is None:
                _write(script, root, path, value)
            else:
                _write_as(script, root, path, value, owner)
    script.close(root)


def _write(script: Script, root: Slot, path: str, value: str, denied: Label | None = None) -> None:
    """Go on at ``denied``, if that is given, where the process may not."""
    file, forgive = script.slot(), () if denied is None else (errno.EACCES,)
    opening = (root, path, _HOW, len(_HOW))
    script.call("openat2", *opening, to=file, forgive=forgive, otherwise=denied, refuse=_Refusals("openat2"))
    script.call("write", file, value, len(value.encode()), refuse=_Refusals("write"))
    script.close(file)


def _write_as(script: Script, root: Slot, path: str, value: str, owner: int) -> None:
    denied, done = Label(), Label()
    _write(script, root, path, value, denied)
    script.jump(done)
    script.here(denied)
    script.call("setresuid", -1, owner, -1)
    _write(script, root, path, value)
    script.call("setresuid", -1, 0, -1)
    script.here(done)


class _Refusals:
    def __init__(self, call: str) -> None:
        self._call = call

    def get(self, number: int, default: tuple[type[Fault], str]) -> tuple[type[Fault], str]:
        kind = _KINDS.get(number)
        if kind is None:
            return default
        return kind, f"{self._call}: {os.strerror(number).lower()} ({errno.errorcode[number]})"
