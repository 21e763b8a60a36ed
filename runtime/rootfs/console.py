"""A container's terminal, taken from its own devpts.

Shared by the scripts of a container's init and of a tty exec.

Invariant: the other end of the pair comes from the kernel (TIOCGPTPEER), never
from a name below /dev/pts that the image could have replaced.
"""

from __future__ import annotations

import errno
import os
import stat
import struct

from runtime.child import S_IFMT, device, device_number, file_type, look_at
from runtime.errors import HostFault, StartRefused
from runtime.linux import files, mount, trees
from runtime.linux.passing import hand_over
from runtime.linux.script import Script, Slot, load
from runtime.rootfs.resolve import make_file_in_root, open_exactly

_TIOCSPTLCK = 0x40045431
_TIOCGPTPEER = 0x5441
_TIOCSCTTY = 0x540E
_PTMX = device(5, 2)
_NO_DEVPTS = (StartRefused, "there is no devpts to take a terminal from")
_STATFS_BYTES = 256


def open_terminal(script: Script, root: Slot) -> tuple[Slot, Slot]:
    """A new pseudo terminal of the devpts at dev/pts below ``root``: (master, peer), close-on-exec.

    Refused where there is no devpts.
    """
    name = "/dev/pts/ptmx"
    missing = dict.fromkeys((errno.ENOENT, errno.ENOTDIR, errno.ELOOP), _NO_DEVPTS)
    master = open_exactly(script, root, name, os.O_RDWR | os.O_NOCTTY, refuse=missing)
    found = script.room(_STATFS_BYTES)
    script.call("fstatfs", master, found)
    wrong = (StartRefused, "is not the multiplexer of a devpts", name)
    script.expect(load(found), files.DEVPTS_SUPER_MAGIC, *wrong, mask=0xFFFFFFFF)
    script.expect(device_number(look_at(script, master)), _PTMX, *wrong)
    script.call("ioctl", master, _TIOCSPTLCK, struct.pack("=q", 0))
    peer = script.slot()
    script.call("ioctl", master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC, to=peer)
    looked, none = look_at(script, peer), (HostFault, "is not a terminal", "/dev/pts")
    script.expect(file_type(looked), stat.S_IFCHR, *none, mask=S_IFMT)
    script.expect(device_number(looked), 136, *none, mask=0xFFFFFFF8)  # the majors are 136 to 143
    return master, peer


def bind_console(script: Script, root: Slot, peer: Slot) -> None:
    """Make ``peer`` the container's /dev/console."""
    target = make_file_in_root(script, root, "dev/console", 0o600)
    tree = trees.open_tree(script, peer, "", mount.OPEN_TREE_CLONE)
    trees.move_mount(script, tree, target, "/dev/console")
    script.close(tree, target)


def take(script: Script, master: Slot, peer: Slot) -> None:
    """Give the master to the monitor; the peer becomes 0, 1, 2 and the controlling terminal of the session."""
    hand_over(script, b"console", [master])
    script.close(master)
    script.call("ioctl", peer, _TIOCSCTTY, 0)
    for number in range(3):
        script.call("dup3", peer, number, 0)
    script.close(peer)
