"""The jail's seccomp filter: calls that a worker never makes are refused.

``jail`` loads it last. It is a short list of what would matter after a bug in a
codec (programs, sockets, mounts, other processes, loading code into the kernel),
not of all that exists: files and memory stay as they are.

Invariant: another architecture's calls, x32's included, are refused as a whole.
"""

from __future__ import annotations

import errno
import struct

_AUDIT_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000

# Numbers by architecture: x86_64, aarch64. None: that architecture has no such call.
_REFUSED: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198),
    "socketpair": (53, 199),
    "connect": (42, 203),
    "fork": (57, None),
    "vfork": (58, None),
    "clone": (56, 220),
    "execve": (59, 221),
    "execveat": (322, 281),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "swapon": (167, 224),
    "reboot": (169, 142),
    "sethostname": (170, 161),
    "syslog": (103, 116),
    "quotactl": (179, 60),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    "pidfd_send_signal": (424, 424),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "pidfd_open": (434, 434),
    "clone3": (435, 435),
    "pidfd_getfd": (438, 438),
    "mount_setattr": (442, 442),
}

_INSTRUCTION = struct.Struct("=HBBI")
_LOAD, _JUMP_EQUAL, _JUMP_SET, _RETURN = 0x20, 0x15, 0x45, 0x06
_NUMBER_OFFSET, _ARCHITECTURE_OFFSET = 0, 4
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM


def assemble(machine: str) -> bytes:
    """The program for ``machine`` (as uname says it), empty for one whose numbers are not listed.

    Source: seccomp(2), Linux Documentation/userspace-api/seccomp_filter.rst.
    """
    architecture = _AUDIT_ARCHITECTURES.get(machine)
    if architecture is None:
        return b""
    column = list(_AUDIT_ARCHITECTURES).index(machine)
    numbers = [numbers[column] for numbers in _REFUSED.values()]
    refused = [number for number in numbers if number is not None]
    program = [(_LOAD, 0, 0, _ARCHITECTURE_OFFSET), (_JUMP_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _REFUSE)]
    program += [(_LOAD, 0, 0, _NUMBER_OFFSET), (_JUMP_SET, 0, 1, _X32_BIT), (_RETURN, 0, 0, _REFUSE)]
    for position, number in enumerate(refused):
        program.append((_JUMP_EQUAL, len(refused) - position, 0, number))
    program += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _REFUSE)]
    return b"".join(_INSTRUCTION.pack(*instruction) for instruction in program)
