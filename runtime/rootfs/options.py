"""Mount options as mount(8) and the OCI runtime specification spell them, parsed.

Pure: ``runtime.rootfs.mounts`` acts on the result.

Invariant: an option that is not known here is kept as data for the file system,
which refuses what it does not know; nothing is ignored. Options never give a bind
mount more than its source has: ``rw``, ``suid``, ``dev`` and ``exec`` only cancel
what stood before them in the list.
"""

from __future__ import annotations

from collections.abc import Iterable

from runtime.errors import InvalidArgument
from runtime.linux.mount import (
    MOUNT_ATTR__ATIME,
    MOUNT_ATTR_NOATIME,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NODIRATIME,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_NOSYMFOLLOW,
    MOUNT_ATTR_RDONLY,
    MOUNT_ATTR_RELATIME,
    MOUNT_ATTR_STRICTATIME,
    MS_PRIVATE,
    MS_SHARED,
    MS_SLAVE,
    MS_UNBINDABLE,
)

_SET = {
    "ro": MOUNT_ATTR_RDONLY,
    "nosuid": MOUNT_ATTR_NOSUID,
    "nodev": MOUNT_ATTR_NODEV,
    "noexec": MOUNT_ATTR_NOEXEC,
    "nodiratime": MOUNT_ATTR_NODIRATIME,
    "nosymfollow": MOUNT_ATTR_NOSYMFOLLOW,
}
_CANCEL = {
    "rw": MOUNT_ATTR_RDONLY,
    "suid": MOUNT_ATTR_NOSUID,
    "dev": MOUNT_ATTR_NODEV,
    "exec": MOUNT_ATTR_NOEXEC,
    "diratime": MOUNT_ATTR_NODIRATIME,
    "symfollow": MOUNT_ATTR_NOSYMFOLLOW,
}
_ATIME = {
    "relatime": MOUNT_ATTR_RELATIME,
    "noatime": MOUNT_ATTR_NOATIME,
    "strictatime": MOUNT_ATTR_STRICTATIME,
}
_PROPAGATION = {
    "private": MS_PRIVATE,
    "slave": MS_SLAVE,
    "shared": MS_SHARED,
    "unbindable": MS_UNBINDABLE,
}


class MountOptions:
    """What a list of options asks for; see the attributes.

    ``set`` and ``clear`` are MOUNT_ATTR_* bits of the mount itself, ``set_below``
    and ``clear_below`` those of it and of all mounts below it. ``propagation`` is
    an MS_* flag or 0, ``propagation_below`` whether it is for the mounts below
    too. ``recursive``: a bind takes the mounts below its source along. ``idmap``: it
    shows the ids of its files through the container's user namespace, and with
    ``idmap_below`` so do the mounts below it. ``data`` are options of the file system,
    ``key=value`` or flags.
    """

    __slots__ = (
        "bind",
        "clear",
        "clear_below",
        "data",
        "idmap",
        "idmap_below",
        "propagation",
        "propagation_below",
        "recursive",
        "set",
        "set_below",
    )

    def __init__(self) -> None:
        self.bind = self.recursive = self.propagation_below = self.idmap = self.idmap_below = False
        self.set = self.clear = self.set_below = self.clear_below = self.propagation = 0
        self.data: list[str] = []


def parse_options(options: Iterable[str]) -> MountOptions:
    """Parse ``options``; where two contradict each other the later one counts.

    Raises:
        InvalidArgument: ``remount``, which no container mount can mean.
    """
    parsed = MountOptions()
    for option in options:
        if option in ("bind", "rbind"):
            parsed.bind, parsed.recursive = True, option == "rbind"
        elif option in ("idmap", "ridmap"):
            parsed.idmap, parsed.idmap_below = True, option == "ridmap"
        elif option == "remount":
            raise InvalidArgument("mount option 'remount' is not possible here")
        elif option.removeprefix("r") in _PROPAGATION:
            parsed.propagation = _PROPAGATION[option.removeprefix("r")]
            parsed.propagation_below = option.startswith("r")
        elif not _parse_attribute(parsed, option) and option != "defaults":
            parsed.data.append(option)
    return parsed


def _parse_attribute(parsed: MountOptions, option: str) -> bool:
    """Whether ``option`` was an attribute of the mount (``ro``), or of all below too (``rro``)."""
    if option in _SET or option in _CANCEL or option in _ATIME:
        parsed.set, parsed.clear = _changed(parsed.set, parsed.clear, option)
        return True
    below = option.removeprefix("r")
    if below != option and (below in _SET or below in _CANCEL or below in _ATIME):
        parsed.set_below, parsed.clear_below = _changed(parsed.set_below, parsed.clear_below, below)
        return True
    return False


def _changed(set_bits: int, clear: int, option: str) -> tuple[int, int]:
    if option in _ATIME:  # a field of three bits: the kernel wants all of it cleared first
        return set_bits & ~MOUNT_ATTR__ATIME | _ATIME[option], clear | MOUNT_ATTR__ATIME
    if option in _SET:
        return set_bits | _SET[option], clear
    return set_bits & ~_CANCEL[option], clear
