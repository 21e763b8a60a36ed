"""What every process of a pod does on its way: init, exec and pause.

Leaving the monitor behind, joining control groups, standard streams, the working
directory; each function writes its part into the script. ``runtime.identity`` has
the last part of the way.

Invariant: of the monitor's descriptors a process keeps those that were meant for it.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import struct

from runtime.errors import HostFault, StartRefused
from runtime.linux.libc import AT_EMPTY_PATH, AT_FDCWD
from runtime.linux.script import ANY, At, Label, Loaded, Script, Slot, load
from runtime.linux.spawn import RELEASE
from runtime.lsm.exec_label import set_exec_label
from runtime.requests import CgroupDirs
from runtime.rootfs.resolve import EXACT, HOW_BYTES, how
from runtime.spec import Process

STDIO = ("stdin", "stdout", "stderr")
"""Names of the given descriptors that become 0, 1 and 2."""

STATX_BYTES = 256
_STATX_BASIC = 0x7FF
S_IFMT = 0o170000
_MODE, _RDEV = 28, 128  # of stx_mode, and of stx_rdev_major and _minor, in struct statx
_PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
_JOIN_SESSION_KEYRING = 1
_MFD_CLOEXEC = 1


def begin(
    script: Script, described: Process, cgroup: CgroupDirs, streams: tuple[Slot, Slot, Slot] | None = None
) -> None:
    """The first part of the way of what runs in a container: out of the monitor, into its cgroups, with the
    label that its program will have.

    ``streams`` as in ``take_stdio``.
    """
    with script.step("leave the monitor"):
        leave_monitor(script)
        take_stdio(script, streams)
    with script.step("join the control groups"):
        join_cgroups(script, cgroup)
    with script.step("set the oom score"):
        if "oomScoreAdj" in described:
            set_oom_score_adj(script, described["oomScoreAdj"])
    set_exec_label(script, described)


def leave_monitor(script: Script) -> None:
    """A session of its own, without keys, untraceable, that ends with the monitor.

    Modes are exact from here on (umask 0); the last step sets the program's own.
    """
    script.call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL.value)
    script.call("prctl", PR_SET_DUMPABLE, 0)
    script.call("setsid")
    # A kernel without keys, or a seccomp filter around all of us: what is executed meets the same.
    script.call("keyctl", _JOIN_SESSION_KEYRING, None, forgive=(errno.ENOSYS, errno.EPERM))
    script.call("umask", 0)


def take_stdio(script: Script, streams: tuple[Slot, Slot, Slot] | None = None) -> None:
    """Make ``streams`` the descriptors 0, 1 and 2 and keep no other of them; None puts the null device there."""
    if streams is None:
        null = open_null(script, os.O_RDWR)
        streams = (null, null, null)
    for number, stream in enumerate(streams):
        script.call("dup3", stream, number, 0)
    script.close(*dict.fromkeys(streams))


def given_stdio(script: Script) -> tuple[Slot, Slot, Slot]:
    """The slots of the given standard streams."""
    return script.given["stdin"], script.given["stdout"], script.given["stderr"]


def open_null(script: Script, flags: int) -> Slot:
    """A descriptor of /dev/null that is verified to be it, not what somebody has put there."""
    null = script.opened("openat", AT_FDCWD, "/dev/null", flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0, object="/dev/null")
    found = look_at(script, null)
    wrong = (HostFault, "is not the null device", "/dev/null")
    script.expect(file_type(found), stat.S_IFCHR, *wrong, mask=S_IFMT)
    script.expect(device_number(found), device(1, 3), *wrong)
    return null


def take_null(script: Script, root: Slot | int) -> None:
    """Put the null device of the container, whose root is ``root``, at descriptor 0.

    Through a descriptor of the host's the container could change its mode and owner. Where
    the container has none, or something else in its place, descriptor 0 is an empty file.
    """
    absent, wrong, done = Label(), Label(), Label()
    null = script.slot()
    arguments = (root, "dev/null", how(os.O_RDWR | os.O_NOCTTY, EXACT), HOW_BYTES)
    script.call("openat2", *arguments, to=null, forgive=ANY, otherwise=absent, object="/dev/null")
    found = look_at(script, null)
    script.jump_unless(file_type(found), stat.S_IFCHR, wrong, S_IFMT)
    script.jump_unless(device_number(found), device(1, 3), wrong)
    script.call("dup3", null, 0, 0)
    script.close(null)
    script.jump(done)
    script.here(wrong)
    script.close(null)
    script.here(absent)
    empty = script.opened("memfd_create", "stdin", _MFD_CLOEXEC)
    script.call("dup3", empty, 0, 0)
    script.close(empty)
    script.here(done)


def look_at(script: Script, fd: Slot, name: str = "", flags: int = AT_EMPTY_PATH) -> At:
    """statx(2): the room that it fills."""
    room = script.room(STATX_BYTES)
    script.call("statx", fd, name, flags, _STATX_BASIC, room, object=name)
    return room


def file_type(found: At) -> Loaded:
    """The mode in what ``look_at`` found; to be compared under the mask S_IFMT."""
    return load(found, _MODE)


def device_number(found: At) -> Loaded:
    """Major and minor in what ``look_at`` found; to be compared with ``device``."""
    return load(found, _RDEV)


def device(major: int, minor: int) -> int:
    return major | minor << 32


def wait_released(script: Script) -> None:
    """Stay until the monitor says that the process is wanted (``children.Child.release``).

    For a process that has given up its identity (``identity.become``), under its filter, which lets it
    read. Its report ends with the monitor, and so does it.
    """
    word = script.room(8)
    script.call("read", script.given["report"], word, 1)
    script.expect(load(word), ord(RELEASE), HostFault, "the monitor has let go of it", mask=0xFF)


def own_stdio(script: Script, uid: int, numbers: tuple[int, ...]) -> None:
    """Give those of 0, 1 and 2 that are pipes or a terminal to ``uid``, so that it can open /dev/stdout again."""
    for number in numbers:
        script.call("fchown", number, uid, -1)


def join_cgroups(script: Script, cgroup: CgroupDirs) -> None:
    """Join the v1 cgroups, where the thread's own write of 0 takes microseconds; the birth was in the v2 one."""
    for directory in cgroup["v1"]:
        write_file(script, f"{directory}/tasks", b"0")


def write_file(script: Script, path: str, content: bytes, forgive: tuple[int, ...] = ()) -> None:
    """Write ``content`` to the host's file ``path``, which exists."""
    file = script.opened("openat", AT_FDCWD, path, os.O_WRONLY | os.O_CLOEXEC, 0, object=path)
    script.call("write", file, content, len(content), forgive=forgive, object=path)
    script.close(file)


def set_oom_score_adj(script: Script, score: int) -> None:
    """What cannot be lowered without CAP_SYS_RESOURCE stays as it was inherited. Needs the host's /proc."""
    write_file(script, "/proc/self/oom_score_adj", b"%d" % score, forgive=(errno.EACCES, errno.EPERM))


def enter_cwd(script: Script, cwd: Slot) -> None:
    """Make ``cwd`` the working directory, if the root contains it (CVE-2024-21626)."""
    outside = "is outside of the container's root"
    path = script.room(4096)
    script.call("fchdir", cwd)
    script.close(cwd)
    # The kernel says "(unreachable)…" of what is outside, and ENOENT of what has been removed.
    script.call("getcwd", path, 4096, refuse={errno.ENOENT: (StartRefused, outside)})
    script.expect(load(path), ord("/"), StartRefused, outside, mask=0xFF)


def block_signals(script: Script, numbers: tuple[int, ...] = ()) -> None:
    """The signal mask from now on: exactly ``numbers``. Until here all are blocked."""
    mask = 0
    for number in numbers:
        mask |= 1 << (number - 1)
    script.call("rt_sigprocmask", signal.SIG_SETMASK.value, struct.pack("=Q", mask), None, 8)
