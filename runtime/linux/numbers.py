"""The numbers of the system calls that a script may hold, by their kernel names.

Source: the kernel's arch/x86/entry/syscalls/syscall_64.tbl and
include/uapi/asm-generic/unistd.h, which aarch64 uses.

Invariant: a call that this machine's table does not have is an error when the
script is written, never another call.
"""

from __future__ import annotations

import os

X86_64 = {
    "capset": 126,
    "chdir": 80,
    "clone": 56,
    "close": 3,
    "dup3": 292,
    "execve": 59,
    "execveat": 322,
    "exit_group": 231,
    "fchdir": 81,
    "fchown": 93,
    "fchownat": 260,
    "fstatfs": 138,
    "getcwd": 79,
    "getpid": 39,
    "ioctl": 16,
    "keyctl": 250,
    "memfd_create": 319,
    "mkdirat": 258,
    "mknodat": 259,
    "mount": 165,
    "openat": 257,
    "pivot_root": 155,
    "prctl": 157,
    "prlimit64": 302,
    "read": 0,
    "recvmsg": 47,
    "rt_sigprocmask": 14,
    "seccomp": 317,
    "sendmsg": 46,
    "sendto": 44,
    "setgroups": 116,
    "sethostname": 170,
    "setns": 308,
    "setresgid": 119,
    "setresuid": 117,
    "setsid": 112,
    "socket": 41,
    "socketpair": 53,
    "statx": 332,
    "symlinkat": 266,
    "umask": 95,
    "umount2": 166,
    "unlinkat": 263,
    "unshare": 272,
    "wait4": 61,
    "write": 1,
}

AARCH64 = {
    "capset": 91,
    "chdir": 49,
    "clone": 220,
    "close": 57,
    "dup3": 24,
    "execve": 221,
    "execveat": 281,
    "exit_group": 94,
    "fchdir": 50,
    "fchown": 55,
    "fchownat": 54,
    "fstatfs": 44,
    "getcwd": 17,
    "getpid": 172,
    "ioctl": 29,
    "keyctl": 219,
    "memfd_create": 279,
    "mkdirat": 34,
    "mknodat": 33,
    "mount": 40,
    "openat": 56,
    "pivot_root": 41,
    "prctl": 167,
    "prlimit64": 261,
    "read": 63,
    "recvmsg": 212,
    "rt_sigprocmask": 135,
    "seccomp": 277,
    "sendmsg": 211,
    "sendto": 206,
    "setgroups": 159,
    "sethostname": 161,
    "setns": 268,
    "setresgid": 149,
    "setresuid": 147,
    "setsid": 157,
    "socket": 198,
    "socketpair": 199,
    "statx": 291,
    "symlinkat": 36,
    "umask": 166,
    "umount2": 39,
    "unlinkat": 35,
    "unshare": 97,
    "wait4": 260,
    "write": 64,
}

EVERYWHERE = {
    "close_range": 436,
    "fsconfig": 431,
    "fsmount": 432,
    "fsopen": 430,
    "mount_setattr": 442,
    "move_mount": 429,
    "open_tree": 428,
    "openat2": 437,
    "pidfd_open": 434,
}
"""Since Linux 5.0 a call has one number on all machines."""

NUMBERS = {**{"x86_64": X86_64, "aarch64": AARCH64}.get(os.uname().machine, {}), **EVERYWHERE}
"""Those of this machine."""
