"""A seccomp profile as nodes keep it, JSON, read strictly.

``cri.profile_files`` has the bytes, ``localhost`` makes of a ``Profile`` what one container
gets. The form is that of the OCI runtime specification (``linux.seccomp``), with what Docker's
form has beyond it: ``name``, ``archMap``, ``includes`` and ``excludes``. Keys that neither has
mean nothing, as to the peers; one that differs from theirs in case alone, which Go's decoder
would take, is refused. Source: OCI runtime-spec v1.2 config-linux.md, seccomp(2).

Invariant: a profile is read as a whole or refused; nothing that would make it weaker is ever
left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from runtime.errors import FailedPrecondition
from runtime.images.strictjson import Object, get_list, get_object, get_text, get_texts, parse_object

MAX_BYTES = 1 << 20
MAX_CALLS = 16_384
"""Names of system calls in a profile, repeated ones included."""
MAX_COMPARISONS = 2048
"""Of arguments in a profile: more do not fit into a program."""
MAX_ERRNO = 4095
MAX_NAME = 128

ACTIONS = ("KILL", "KILL_THREAD", "KILL_PROCESS", "TRAP", "ERRNO", "TRACE", "ALLOW", "LOG")
OPERATORS = ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ")
FLAGS = ("TSYNC", "LOG", "SPEC_ALLOW", "WAIT_KILLABLE_RECV")
_MIPS = ("MIPS", "MIPS64", "MIPS64N32", "MIPSEL", "MIPSEL64", "MIPSEL64N32")
_OTHERS = (
    "PPC",
    "PPC64",
    "PPC64LE",
    "S390",
    "S390X",
    "PARISC",
    "PARISC64",
    "RISCV64",
    "LOONGARCH64",
    "M68K",
    "SH",
    "SHEB",
)
ARCHITECTURES = frozenset({"X86", "X86_64", "X32", "ARM", "AARCH64", *_MIPS, *_OTHERS})
ACTION, OPERATOR, FLAG, ARCHITECTURE = "SCMP_ACT_", "SCMP_CMP_", "SECCOMP_FILTER_FLAG_", "SCMP_ARCH_"

_WORD = (1 << 64) - 1
_PROFILE = ["defaultAction", "defaultErrnoRet", "architectures", "archMap", "flags", "syscalls"]
_LISTENER = ["listenerPath", "listenerMetadata"]
_CALL = ["names", "name", "action", "errnoRet", "args", "includes", "excludes"]
_ARG = ["index", "value", "valueTwo", "op"]
_CONDITION = ["caps", "arches", "minKernel"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """``op`` is one of OPERATORS; for MASKED_EQ ``value`` is the mask and ``value_two`` the result."""

    index: int
    op: str
    value: int
    value_two: int


@dataclass(frozen=True, slots=True)
class Condition:
    """When a rule of Docker's form applies; empty: no matter. ``arches`` are Go's names, ``kernel`` the oldest."""

    capabilities: tuple[str, ...]
    arches: tuple[str, ...]
    kernel: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Call:
    """``action`` is one of ACTIONS; ``errno`` goes with ERRNO and TRACE, None for the default."""

    names: tuple[str, ...]
    action: str
    errno: int | None
    args: tuple[Comparison, ...]
    includes: Condition
    excludes: Condition


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile, as written. ``flags`` is None where it has none at all; ``arch_map`` has the
    architectures that come with each."""

    action: str
    errno: int | None
    architectures: tuple[str, ...]
    arch_map: tuple[tuple[str, tuple[str, ...]], ...]
    flags: tuple[str, ...] | None
    calls: tuple[Call, ...]


def parse_profile(data: bytes, what: str) -> Profile:
    """Read a profile; ``what`` names it in errors.

    Raises:
        ResourceExhausted: larger than 1 MiB.
        FailedPrecondition: no profile, or one that asks for what there is not.
    """
    document = parse_object(data, what, MAX_BYTES)
    _check_case(document, [*_PROFILE, *_LISTENER], what)
    if get_text(document, "listenerPath", what):
        raise _refused(what, "listenerPath: there is no listener for notifications yet")
    action = _parse_action(document, "defaultAction", what)
    calls = tuple(
        _parse_call(entry, f"{what}: syscalls[{number}]")
        for number, entry in enumerate(get_list(document, "syscalls", what))
    )
    _check_size(calls, what)
    architectures = _words(get_texts(document, "architectures", what), ARCHITECTURE, ARCHITECTURES, what)
    arch_map = tuple(_parse_arch_map(entry, what) for entry in get_list(document, "archMap", what))
    if architectures and arch_map:
        raise _refused(what, "has architectures as well as archMap")
    flags = None if document.get("flags") is None else _words(get_texts(document, "flags", what), FLAG, FLAGS, what)
    errno = _parse_errno(document, "defaultErrnoRet", action, what)
    return Profile(action, errno, architectures, arch_map, flags, calls)


def _parse_call(entry: Any, what: str) -> Call:
    document = _object(entry, _CALL, what)
    name = get_text(document, "name", what)
    names = (*get_texts(document, "names", what), *((name,) if name else ()))
    if not names or not all(names) or max(map(len, names)) > MAX_NAME:
        raise _refused(what, "names no system call")
    action = _parse_action(document, "action", what)
    return Call(
        names=names,
        action=action,
        errno=_parse_errno(document, "errnoRet", action, what),
        args=tuple(_parse_arg(entry, f"{what}.args") for entry in get_list(document, "args", what)),
        includes=_parse_condition(document, "includes", what),
        excludes=_parse_condition(document, "excludes", what),
    )


def _parse_action(document: Object, key: str, what: str) -> str:
    action = get_text(document, key, what)
    if action == f"{ACTION}NOTIFY":
        raise _refused(what, f"{key}: there is no listener for {action} yet")
    (word,) = _words((action,), ACTION, ACTIONS, f"{what}: {key}")
    return word


def _parse_errno(document: Object, key: str, action: str, what: str) -> int | None:
    if document.get(key) is None:
        return None
    if action not in ("ERRNO", "TRACE"):
        raise _refused(what, f"{key}: {ACTION}{action} has none")
    return _number(document, key, MAX_ERRNO, what)


def _parse_arg(entry: Any, what: str) -> Comparison:
    document = _object(entry, _ARG, what)
    (op,) = _words((get_text(document, "op", what),), OPERATOR, OPERATORS, f"{what}: op")
    value, value_two = (_number(document, key, _WORD, what) for key in ("value", "valueTwo"))
    return Comparison(_number(document, "index", 5, what), op, value, value_two)


def _parse_condition(document: Object, key: str, what: str) -> Condition:
    found = get_object(document, key, what)
    _check_case(found, _CONDITION, f"{what}.{key}")
    for unknown in found.keys() - set(_CONDITION):
        raise _refused(what, f"{key}: {unknown} is no condition")
    oldest = get_text(found, "minKernel", what)
    return Condition(
        get_texts(found, "caps", what),
        get_texts(found, "arches", what),
        _parse_version(oldest, what) if oldest else None,
    )


def _parse_version(text: str, what: str) -> tuple[int, int]:
    numbers = text.split(".")
    if len(numbers) != 2 or not all(part.isascii() and part.isdigit() and len(part) < 6 for part in numbers):
        raise _refused(what, "minKernel: is not of the form 4.8")
    return int(numbers[0]), int(numbers[1])


def _parse_arch_map(entry: Any, what: str) -> tuple[str, tuple[str, ...]]:
    document = _object(entry, ["architecture", "subArchitectures"], f"{what}: archMap")
    main = _words((get_text(document, "architecture", what),), ARCHITECTURE, ARCHITECTURES, what)
    return main[0], _words(get_texts(document, "subArchitectures", what), ARCHITECTURE, ARCHITECTURES, what)


def _words(found: Iterable[str], prefix: str, known: Iterable[str], what: str) -> tuple[str, ...]:
    """``found`` without ``prefix``, each one that is known."""
    allowed = {f"{prefix}{word}" for word in known}
    for word in found:
        if word not in allowed:
            raise _refused(what, f"must be one of {', '.join(sorted(allowed))}, not {word[:MAX_NAME]!r}")
    return tuple(word.removeprefix(prefix) for word in found)


def _number(document: Object, key: str, most: int, what: str) -> int:
    """Absent and null are 0."""
    value = document.get(key)
    if value is None:
        return 0
    if type(value) is not int or not 0 <= value <= most:
        raise _refused(what, f"{key}: must be a whole number from 0 to {most}")
    return value


def _object(entry: Any, known: list[str], what: str) -> Object:
    if not isinstance(entry, dict):
        raise _refused(what, "is not an object")
    _check_case(entry, known, what)
    return entry


def _check_case(document: Object, known: list[str], what: str) -> None:
    folded = {key.casefold(): key for key in known}
    for key in document:
        meant = folded.get(key.casefold(), key)
        if meant != key:
            raise _refused(what, f"has {key[:MAX_NAME]!r}: it is spelled {meant}")


def _check_size(calls: tuple[Call, ...], what: str) -> None:
    if sum(len(call.names) for call in calls) > MAX_CALLS:
        raise _refused(what, f"names more than {MAX_CALLS} system calls")
    if sum(len(call.names) * len(call.args) for call in calls) > MAX_COMPARISONS:
        raise _refused(what, f"has more than {MAX_COMPARISONS} comparisons of arguments")


def _refused(what: str, reason: str) -> FailedPrecondition:
    return FailedPrecondition(reason, step="read the seccomp profile", object=what)
