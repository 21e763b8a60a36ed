"""Compiled seccomp programs on disk, so that a profile is compiled once.

The daemon asks for a program before it starts a container, and puts what is in the file
(StartRequest.seccomp) into the script of its init. Nothing in it is secret, but whoever writes
it decides what containers may do: 0600 below the private root. What is not there is made again:
the rules are code, and a profile of the node's is kept with its container.

Invariant: a file under its final name is a whole program for exactly the rules, or the profile,
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
from collections.abc import Callable

from runtime.errors import FailedPrecondition, HostFault
from runtime.linux import libseccomp
from runtime.seccomp import table
from runtime.seccomp.compile import FORMAT, compile_profile
from runtime.seccomp.localhost import plan_rules
from runtime.seccomp.profile import Rules
from runtime.spec import Seccomp

_STEP = "cache the seccomp program"
_INSTRUCTION_BYTES = 8
_MAX_INSTRUCTIONS = 4096
_MAX_FILES = 512
"""Programs that are kept, of at most 32 KiB each; the oldest give way to new ones."""


@dataclasses.dataclass(frozen=True, slots=True)
class Cached:
    """``path`` is the program's file; ``notes`` what the compiler said, empty if it was there."""

    path: str
    notes: tuple[str, ...] = ()


@functools.lru_cache(maxsize=64)
def key(rules: Rules, version: tuple[int, int, int]) -> str:
    """The file name without suffix: a digest of all that decides what the program is. Pure."""
    return _digest(dataclasses.asdict(rules), version)


def key_of_profile(seccomp: Seccomp, version: tuple[int, int, int]) -> str:
    """As ``key``. What it depends on beside the profile, capabilities and architecture, is decided in it. Pure."""
    return _digest(seccomp, version)


def _digest(content: object, version: tuple[int, int, int]) -> str:
    numbers = {**table.NUMBERS, **table.NUMBERS_X86_64}
    document = json.dumps([FORMAT, list(version), numbers, content], sort_keys=True)
    return hashlib.sha256(document.encode()).hexdigest()


def ensure(folder: str, rules: Rules) -> Cached:
    """The program for ``rules`` in ``folder`` (``<root>/cache/seccomp``), compiled if it is not there.

    Two callers at once both compile, and either result is right.

    Raises:
        HostFault: libseccomp fails, or the folder cannot be written.
        FailedPrecondition: the kernel takes no program as long as these rules'.
    """
    return _ensure(folder, key(rules, libseccomp.version()), lambda: rules)


def ensure_profile(folder: str, seccomp: Seccomp) -> Cached:
    """As ``ensure``, for what a container gets of a profile of the node's."""
    return _ensure(folder, key_of_profile(seccomp, libseccomp.version()), lambda: plan_rules(seccomp))


def _ensure(folder: str, name: str, plan: Callable[[], Rules]) -> Cached:
    path = os.path.join(folder, f"{name}.bpf")
    if _is_whole(path):
        return Cached(path)
    compiled = compile_profile(plan())
    if not 0 < len(compiled.program) <= _MAX_INSTRUCTIONS * _INSTRUCTION_BYTES:
        many = len(compiled.program) // _INSTRUCTION_BYTES
        message = f"its program has {many} instructions, and the kernel takes {_MAX_INSTRUCTIONS}"
        raise FailedPrecondition(message, step=_STEP)
    try:
        os.makedirs(folder, 0o700, exist_ok=True)
        _write_atomically(path, compiled.program)
        _discard_oldest(folder, path)
    except OSError as error:
        raise HostFault(step=_STEP, object=path, call="write", errno=error.errno or 0) from error
    return Cached(path, compiled.notes)


def _discard_oldest(folder: str, new: str) -> None:
    """All but the newest ``_MAX_FILES``, and never ``new``."""
    found = [entry for entry in os.scandir(folder) if entry.name.endswith(".bpf") and entry.path != new]
    if len(found) < _MAX_FILES:
        return
    ages: list[tuple[int, str]] = []
    for entry in found:
        with contextlib.suppress(FileNotFoundError):
            ages.append((entry.stat(follow_symlinks=False).st_mtime_ns, entry.path))
    for _, path in sorted(ages)[: len(found) - _MAX_FILES + 1]:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


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
