"""Becoming the process that a container's document describes, and executing it.

Shared by the scripts of a container's init, an exec and pause. The order is that of
runc, whose observable result is kept: a process of another uid than 0 has no
permitted and effective capabilities after execve (unless ambient ones were asked
for), its bounding set is what the document says.

Invariant: nothing is gained after :func:`become`, and nothing that is inherited from
crisp reaches the program (signals, descriptors, inheritable capabilities).
"""

from __future__ import annotations

import errno
import os
import resource
import stat
import struct
from collections.abc import Sequence
from typing import NamedTuple

from runtime.child import PR_SET_DUMPABLE, S_IFMT, STATX_BYTES, block_signals, file_type
from runtime.errors import Fault, HostFault, InvalidArgument, StartRefused
from runtime.linux import capabilities
from runtime.linux.libc import AT_FDCWD
from runtime.linux.process import CLOSE_RANGE_CLOEXEC
from runtime.linux.script import ANY, At, Label, Script, load, offset, plus
from runtime.spec import Process, Rlimit

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_UMASK = 0o022

_RLIMITS = {name: number for name, number in vars(resource).items() if name.startswith("RLIMIT_")}
_INFINITY = (1 << 64) - 1
_HOST_REASONS = frozenset(
    {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EIO, errno.ETXTBSY, errno.ENOSPC}
)
_NOT_HERE = (errno.ENOENT, errno.ENOTDIR, errno.EACCES)

_PR_SET_KEEPCAPS = 8
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_SET_MODE_FILTER = 1
_INSTRUCTION_BYTES = 8  # struct sock_filter
_BPF_MAXINSNS = 4096
_MAX_DIRECTORIES = 1000
_CAPABILITY_VERSION_3 = 0x20080522
_SYS_ADMIN = 1 << 21


def set_rlimits(script: Script, limits: list[Rlimit]) -> None:
    """Set the resource limits.

    A raise of the hard limit that the host refuses leaves that of the caller, which
    the process inherits, and moves the soft one as far as that allows.

    Raises:
        InvalidArgument: no such limit, or soft above hard.
    """
    for limit in limits:
        if limit["type"] not in _RLIMITS:
            raise InvalidArgument(f"no such resource limit as {limit['type']!r}")
        soft, hard = _bounded(limit["soft"]), _bounded(limit["hard"])
        if soft > hard:
            raise InvalidArgument(f"{limit['type']}: the soft limit is above the hard one")
        _set_rlimit(script, limit["type"], soft, hard)


def _set_rlimit(script: Script, name: str, soft: int, hard: int) -> None:
    number, done, refused = _RLIMITS[name], Label(), script.slot()
    wanted, most = script.room(16), script.room(16)
    script.fill(wanted, struct.pack("=QQ", soft, hard))
    script.call("prlimit64", 0, number, wanted, None, to=refused, forgive=(errno.EPERM,), object=name)
    script.jump_if(refused, 0, done)
    script.call("prlimit64", 0, number, None, most, object=name)
    script.store(plus(wanted, 8), load(most, 8))
    # EINVAL: soft is above the hard one that there is.
    script.call("prlimit64", 0, number, wanted, None, to=refused, forgive=(errno.EINVAL,), object=name)
    script.jump_if(refused, 0, done)
    script.store(wanted, load(most, 8))
    script.call("prlimit64", 0, number, wanted, None, object=name)
    script.here(done)


def _bounded(value: int) -> int:
    """The OCI document writes infinity as 2^64-1; what only unsigned numbers hold means it, too."""
    return _INFINITY if value < 0 or value >= 2**63 else value


class Filter(NamedTuple):
    """A seccomp program, an array of struct sock_filter, and the flags that seccomp(2) gets with it."""

    program: bytes
    flags: int = 0


def become(script: Script, described: Process, seccomp: Filter | None, *, bounded: bool = False) -> None:
    """Give the process the groups, ids, capabilities and seccomp filter of ``described``. Descriptors
    above 2 close with the execution from here on. ``bounded``: its bounding set is what it is to be already.

    A filter may refuse any call, and a profile lists what its program needs, not what we do: so it is
    loaded as late as can be. Without no_new_privs that takes CAP_SYS_ADMIN, which is kept until
    everything else is done but to give it up.

    Raises:
        InvalidArgument: a capability's name is unknown.
    """
    wanted, user = described["capabilities"], described["user"]
    sets = [capabilities.mask(wanted[name]) for name in ("effective", "permitted", "inheritable")]
    no_new_privs = described["noNewPrivileges"]
    if no_new_privs:
        script.call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if not bounded:
        limit_bounding(script, wanted["bounding"])
    script.call("prctl", _PR_SET_KEEPCAPS, 1, 0, 0, 0)  # what remains is set below, by name
    _become_user(script, user["uid"], user["gid"], user["additionalGids"])
    script.call("prctl", _PR_SET_KEEPCAPS, 0, 0, 0, 0)
    script.call("prctl", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    script.call("prctl", PR_SET_DUMPABLE, 0)  # a change of the user undoes what was said before
    script.call("umask", user.get("umask", DEFAULT_UMASK))
    script.call("close_range", 3, 0xFFFFFFFF, CLOSE_RANGE_CLOEXEC)
    if seccomp is not None and not no_new_privs:
        _set_capabilities(script, _SYS_ADMIN, sets[1] | _SYS_ADMIN, 0)
        load_seccomp(script, seccomp)
    _set_capabilities(script, *sets)
    for number in _bits(capabilities.mask(wanted["ambient"])):
        script.call("prctl", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number, 0, 0)
    if seccomp is not None and no_new_privs:
        load_seccomp(script, seccomp)


def limit_bounding(script: Script, names: Sequence[str]) -> None:
    """Leave no other capabilities in the bounding set; what is named and lost already stays lost."""
    script.call("LIMIT_BOUNDING", capabilities.mask(names))


def _set_capabilities(script: Script, effective: int, permitted: int, inheritable: int) -> None:
    low_then_high = [bits >> shift & 0xFFFFFFFF for shift in (0, 32) for bits in (effective, permitted, inheritable)]
    script.call("capset", struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), struct.pack("=6I", *low_then_high))


def load_seccomp(script: Script, seccomp: Filter) -> None:
    """Put the process under ``seccomp`` for good; see seccomp(2).

    Raises:
        HostFault: the program is empty, too long or cut off. Never taken for no program.
    """
    program = seccomp.program
    count, rest = divmod(len(program), _INSTRUCTION_BYTES)
    if rest or not 0 < count <= _BPF_MAXINSNS:
        raise HostFault(f"a program of {len(program)} bytes is not 1 to {_BPF_MAXINSNS} seccomp instructions")
    loaded = script.room(16)
    script.fill(loaded, struct.pack("=QQ", count, offset(script.data(program))))
    script.relocate(plus(loaded, 8), 1)
    script.call("seccomp", _SET_MODE_FILTER, seccomp.flags, loaded)


def _become_user(script: Script, uid: int, gid: int, groups: list[int]) -> None:
    """Groups first: without uid 0 they could not be changed any more."""
    who = f"{uid}:{gid}"
    script.call("setgroups", len(groups), struct.pack(f"={len(groups)}I", *groups), object=who)
    script.call("setresgid", gid, gid, gid, object=who)
    script.call("setresuid", uid, uid, uid, object=who)


def _bits(mask: int) -> list[int]:
    return [number for number in range(mask.bit_length()) if mask >> number & 1]


def execute(script: Script, args: list[str], env: list[str]) -> None:
    """Replace the process by ``args`` with exactly the environment ``env`` (``NAME=value``).

    A name without a slash is looked for in the
    PATH of ``env``; one that is found and may not be executed is passed over, but
    named if there is no other.

    Raises:
        StartRefused: there is no command, a string has a NUL byte, or PATH is too long to be searched.
    """
    if not args or not args[0]:
        raise StartRefused("there is no command")
    name = args[0]
    try:
        argv, envp = script.vector(args), script.vector(env)
    except ValueError as error:
        raise StartRefused(f'exec: "{name}": an argument or a variable holds a NUL byte') from error
    block_signals(script)
    trial = _Trial(script, name, argv, envp)
    if "/" in name:
        trial.of(name, alone=True)
    else:
        for directory in _directories(env):
            trial.of(f"{directory}/{name}")
    trial.end()


class _Trial:
    """Candidates executed one after the other; ``denied`` is the call to blame when none can be."""

    def __init__(self, script: Script, name: str, argv: At, envp: At) -> None:
        self._script, self._name, self._argv, self._envp = script, name, argv, envp
        self._denied = script.slot()
        self._seen = script.room(STATX_BYTES)
        self._refusals = _ExecRefusals(name)

    def of(self, path: str, *, alone: bool = False) -> None:
        """``alone``: there is no other candidate, so that it is missing is the reason."""
        script = self._script
        result, missing = script.slot(), script.slot()
        present, strange, other, past = Label(), Label(), Label(), Label()
        vectors = (self._argv, self._envp)
        script.call("execve", path, *vectors, to=result, forgive=_NOT_HERE, object=self._name, refuse=self._refusals)
        tried = script.last
        script.call("statx", AT_FDCWD, path, 0, 1, self._seen, to=missing, forgive=ANY)
        script.jump_if(missing, 0, present)
        if alone:
            script.fail_as(result, tried)
        script.jump(past)
        script.here(present)
        script.jump_if(result, -errno.EACCES, other)
        script.jump_unless(result, -errno.ENOENT, strange)
        script.fail(StartRefused, self._said("no such file or directory: its interpreter is missing"))
        script.here(strange)
        script.fail_as(result, tried)
        script.here(other)
        script.jump_unless(self._denied, 0, past)
        script.set(self._denied, tried)
        script.jump_unless(file_type(self._seen), stat.S_IFDIR, past, S_IFMT)
        script.set(self._denied, script.last + 3)  # after this one and the jump
        script.jump(past)
        script.fail(StartRefused, self._said("is a directory"), errno=errno.EACCES)
        script.here(past)

    def end(self) -> None:
        found = Label()
        self._script.jump_unless(self._denied, 0, found)
        self._script.fail(StartRefused, self._said("executable file not found in $PATH"))
        self._script.here(found)
        self._script.fail_as(errno.EACCES, self._denied)

    def _said(self, text: str) -> str:
        return f'exec: "{self._name}": {text}'


class _ExecRefusals:
    """What the image or the request is to blame for: all but what the host lacks."""

    def __init__(self, name: str) -> None:
        self._name = name

    def get(self, number: int, default: tuple[type[Fault], str]) -> tuple[type[Fault], str]:
        if number in _HOST_REASONS:
            return default
        return StartRefused, f'exec: "{self._name}": {os.strerror(number).lower()}'


def _directories(env: list[str]) -> list[str]:
    """Those of the PATH of ``env``, each once."""
    path = DEFAULT_PATH
    for variable in reversed(env):
        if variable.startswith("PATH="):
            path = variable.removeprefix("PATH=")
            break
    found = list(dict.fromkeys(directory or "." for directory in path.split(":")))
    if len(found) > _MAX_DIRECTORIES:
        raise StartRefused(f"$PATH has {len(found)} directories: more than {_MAX_DIRECTORIES} are not searched")
    return found
