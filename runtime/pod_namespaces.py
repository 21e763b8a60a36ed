"""The namespaces that a pod has for itself: made and set up by a child of its monitor.

The scripts of ``pause`` make them, or enter those of a blank pod, which gets its name
then. The monitor only holds descriptors, which ``container`` hands to each
container's init. With a user namespace (``runtime.user_namespace``) that is made first, and
all others in it, so that they belong to its root.

Invariant: the monitor itself is in the host's namespaces, always.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence

from runtime import user_namespace
from runtime.errors import InvalidArgument
from runtime.linux import namespaces
from runtime.linux.libc import AT_FDCWD
from runtime.linux.script import Script, Slot
from runtime.spec import IdMapping
from runtime.sysctls import write_sysctls

_FILES = {
    "user": "/proc/self/ns/user",
    "network": "/proc/self/ns/net",
    "ipc": "/proc/self/ns/ipc",
    "uts": "/proc/self/ns/uts",
    "pid": "/proc/self/ns/pid",
}
_ROUTING = (socket.AF_NETLINK.value, socket.SOCK_RAW.value | socket.SOCK_CLOEXEC.value, socket.NETLINK_ROUTE)


def create(
    script: Script, kinds: Sequence[str], hostname: str, sysctls: Mapping[str, str], ids: IdMapping | None = None
) -> list[Slot]:
    """Enter new namespaces of ``kinds`` and set them up; the process was born in the new "pid" one, if that is
    listed. ``ids`` is the mapping of a new "user" one; then it goes on as another process if "pid" is listed too.

    A descriptor of each, in order, and one more if the network is among them: a
    routing socket (AF_NETLINK) inside it.

    Raises:
        InvalidArgument: a sysctl is not the pod's, or a pod has no namespace of such a kind.
    """
    flags = 0
    for kind in kinds:
        if kind not in ("pid", "user"):
            flags |= _flag(kind)
    if ids is None:
        if "user" in kinds:
            raise InvalidArgument("a user namespace needs a mapping", object="user")
        script.call("unshare", flags)
        set_up(script, kinds, hostname, sysctls)
    else:
        _create_owned(script, kinds, flags, hostname, sysctls, ids)
    paths, opening = [_FILES[kind] for kind in kinds], os.O_RDONLY | os.O_CLOEXEC
    made = [script.opened("openat", AT_FDCWD, path, opening, 0, object=path) for path in paths]
    if "network" in kinds:
        made.append(script.opened("socket", *_ROUTING))
    return made


def _create_owned(
    script: Script, kinds: Sequence[str], flags: int, hostname: str, sysctls: Mapping[str, str], ids: IdMapping
) -> None:
    """In a new user namespace. Sysctls are set from outside: its root may not set all that the host's may."""

    def from_outside(outside: Script, directory: Slot) -> None:
        for kind in kinds:
            if kind not in ("pid", "user"):
                name = _FILES[kind].removeprefix("/proc/self/")
                fd = outside.opened("openat", directory, name, os.O_RDONLY | os.O_CLOEXEC, 0, object=name)
                outside.call("setns", fd, _flag(kind), object=kind)
                outside.close(fd)
        set_up(outside, kinds, hostname, sysctls, ids["host"])

    outside = user_namespace.create(script, ids, from_outside)
    script.call("unshare", flags)
    outside.finish()
    if "pid" in kinds:
        user_namespace.be_reborn(script)


def enter(script: Script, held: Sequence[str], hostname: str, sysctls: Mapping[str, str]) -> None:
    """Enter the given namespaces ``held``, set them up, and close their descriptors.

    Raises: as :func:`create`.
    """
    for kind in held:
        script.call("setns", script.given[kind], _flag(kind), object=kind)
        script.close(script.given[kind])
    set_up(script, held, hostname, sysctls)


def _flag(kind: str) -> int:
    if kind not in _FILES:
        raise InvalidArgument("is no kind of namespace that a pod has for itself", object=kind[:100])
    return namespaces.FLAGS_BY_TYPE[kind]


def set_up(
    script: Script, kinds: Sequence[str], hostname: str, sysctls: Mapping[str, str], owner: int | None = None
) -> None:
    """Give the namespaces ``kinds``, in which the process is, their name and sysctls; ``owner`` is the host's id of
    the root of their user namespace.

    Raises: as :func:`create`.
    """
    if "uts" in kinds and hostname:
        script.call("sethostname", hostname, len(hostname.encode()), object=hostname)
    write_sysctls(script, sysctls, kinds, owner)
