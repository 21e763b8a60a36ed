"""Compiled seccomp programs on disk, so that a profile is compiled once.

The daemon asks for a program before it starts a container; the container's init
reads the file (StartRequest.seccomp). Nothing in it is secret, but whoever writes it
decides what containers may do: 0600 below the private root.

Invariant: a file under its final name is a whole program for exactly the rules,
libseccomp and compiler that its name is a digest of.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import stat

from runtime.errors import HostFault
from runtime.linux import libseccomp
from runtime.seccomp import table
from runtime.seccomp.compile import FORMAT, compile_profile
from runtime.seccomp.profile import Rules

_STEP = "cache the seccomp program"
_INSTRUCTION_BYTES = 8
_MAX_INSTRUCTIONS = 4096


@dataclasses.dataclass(frozen=True, slots=True)
class Cached:
    """``path`` is the program's file; ``notes`` what the compiler said, empty if it was there."""

    path: str
    notes: tuple[str, ...] = ()


@functools.lru_cache(maxsize=64)
def key(rules: Rules, version: tuple[int, int, int]) -> str:
    """The file name without suffix: a digest of all that decides what the program is. Pure."""
    numbers = {**table.NUMBERS, **table.NUMBERS_X86_64}
    document = json.dumps([FORMAT, list(version), numbers, dataclasses.asdict(rules)], sort_keys=True)
    return hashlib.sha256(document.encode()).hexdigest()


def ensure(folder: str, rules: Rules) -> Cached:
    """The program for ``rules`` in ``folder`` (``<root>/cache/seccomp``), compiled if it is not there.

    Two callers at once both compile, and either result is right.

    Raises:
        HostFault: libseccomp fails, or the folder cannot be written.
    """
    path = os.path.join(folder, f"{key(rules, libseccomp.version())}.bpf")
    if _is_whole(path):
        return Cached(path)
    compiled = compile_profile(rules)
    if not 0 < len(compiled.program) <= _MAX_INSTRUCTIONS * _INSTRUCTION_BYTES:
        raise HostFault(f"a program of {len(compiled.program)} bytes is too long for the kernel", step=_STEP)
    try:
        os.makedirs(folder, 0o700, exist_ok=True)
        _write_atomically(path, compiled.program)
    except OSError as error:
        raise HostFault(step=_STEP, object=path, call="write", errno=error.errno or 0) from error
    return Cached(path, compiled.notes)


def _is_whole(path: str) -> bool:
    """A file of ours, of a length that can be a program; anything else is written anew."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise HostFault(step=_STEP, object=path, call="lstat", errno=error.errno or 0) from error
    private = stat.S_ISREG(found.st_mode) and not found.st_mode & 0o077 and found.st_uid == os.geteuid()
    whole = found.st_size % _INSTRUCTION_BYTES == 0
    return private and whole and 0 < found.st_size <= _MAX_INSTRUCTIONS * _INSTRUCTION_BYTES


def _write_atomically(path: str, program: bytes) -> None:
    temporary = f"{path}.{os.getpid()}.{os.urandom(4).hex()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(program)
            file.flush()
            os.fsync(file.fileno())  # a power cut must not leave a name without its content
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
