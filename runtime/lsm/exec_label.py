"""The label that a process has once it has executed its program: AppArmor's profile, SELinux's context.

``runtime.child`` has it written into the script of whatever runs in a container, while the
process still sees the host's /proc: the word to the kernel counts for the execve that is to
come. Source: aa_change_onexec(2), setexeccon(3), proc_pid_attr(5).

Invariant: the word goes to the process's own file on procfs, or the process ends. Nothing
else may lie there: what is written to instead would be taken for a label that was set
(CVE-2019-16884, CVE-2025-52881).
"""

from __future__ import annotations

import errno
import os
import struct

from runtime.errors import FailedPrecondition, HostFault
from runtime.linux import files
from runtime.linux.libc import AT_FDCWD
from runtime.linux.script import Script, load
from runtime.spec import Process

_STATFS_BYTES = 256
_RESOLVE = files.RESOLVE_BENEATH | files.RESOLVE_NO_XDEV | files.RESOLVE_NO_MAGICLINKS


def set_exec_label(script: Script, described: Process) -> None:
    """Have the label of ``described`` be that of the program; nothing is done where it has none.

    Needs the host's /proc.
    """
    profile, context = described.get("apparmorProfile", ""), described.get("selinuxLabel", "")
    if profile:
        missing = {errno.ENOENT: (FailedPrecondition, "the AppArmor profile is not loaded")}
        with script.step("set the AppArmor profile", profile):
            _write(script, "thread-self/attr/apparmor/exec", f"exec {profile}", missing)
    if context:
        invalid = {errno.EINVAL: (FailedPrecondition, "the SELinux policy has no such context")}
        with script.step("set the SELinux context", context):
            _write(script, "thread-self/attr/exec", context, invalid)


def _write(script: Script, path: str, word: str, refuse: dict[int, tuple[type[FailedPrecondition], str]]) -> None:
    found = script.room(_STATFS_BYTES)
    proc = script.opened("openat", AT_FDCWD, "/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, 0, object="/proc")
    script.call("fstatfs", proc, found)
    script.expect(load(found), files.PROC_SUPER_MAGIC, HostFault, "is not procfs", "/proc", mask=0xFFFFFFFF)
    how = struct.pack("=QQQ", os.O_WRONLY | os.O_CLOEXEC, 0, _RESOLVE)
    file = script.opened("openat2", proc, path, how, len(how), object=f"/proc/{path}")
    script.call("write", file, word, len(word.encode()), refuse=refuse)
    script.close(file, proc)
