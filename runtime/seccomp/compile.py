"""Make a BPF program of seccomp rules.

``profile`` has the rules, ``runtime.linux.libseccomp`` knows the numbers of calls by
name, ``decide`` makes a search of ranges of numbers, ``assemble`` the instructions.
Numbers that the installed library is too old to know are in ``table``.

The program first asks for the architecture, since every one has its own numbers, then
for the call, then for arguments where a rule has comparisons. libseccomp makes
programs, too, but with two instructions or more for each call: the kernel takes ten
times as long to load those; and of several rules for one call that overlap, some of its
programs allow what none of them does.

Invariant: the program never allows what the rules refuse; a name that nobody knows
is left out (its call gets the default) and named in the notes.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from dataclasses import dataclass

from runtime.linux import libseccomp
from runtime.seccomp import table
from runtime.seccomp.assemble import EQUAL, FROM, Graph, Node
from runtime.seccomp.decide import Ranges, arguments, overlay, scattered, search, unlike
from runtime.seccomp.profile import NEWEST_NAMED, Arg, Rule, Rules

FORMAT = 3
"""Raised with every change of what the same rules compile to; part of the cache's key."""

_NR, _ARCH = 0, 4  # offsets in struct seccomp_data
_KILL = 0  # SECCOMP_RET_KILL_THREAD
_X32 = 0x4000_0000  # the bit that tells x32's calls from x86_64's
_NOT_X32 = 0xFFFF_FFFF ^ _X32
_X86_64_AND_X32 = frozenset({"x86_64", "x32"})
_ARM_PRIVATE = 0x000F_0000  # cacheflush, set_tls and so on
_WIDE = frozenset({"x86_64", "x32", "aarch64"})  # x32 passes whole registers


@dataclass(frozen=True, slots=True)
class Compiled:
    """``program`` is an array of struct sock_filter for seccomp(2)."""

    program: bytes
    notes: tuple[str, ...]


def compile_profile(rules: Rules) -> Compiled:
    """The program for ``rules``; takes a few milliseconds.

    A call with a rule without comparisons gets the action of the first such rule,
    else that of the first rule whose comparisons hold, else the default. A call of
    an architecture that is not listed kills the thread.

    Raises:
        HostFault: libseccomp is missing.
        ValueError: a comparison of arguments has an unknown operator.
    """
    graph = Graph()
    unknown: set[str] = set()
    tables = {arch: _table(graph, rules, arch, unknown) for arch in rules.arches}
    killed = graph.answer(_KILL)
    starts = {arch: graph.load(_NR, search(graph, tables[arch])) for arch in tables if arch not in _X86_64_AND_X32}
    if not _X86_64_AND_X32.isdisjoint(tables):
        starts["x86_64"] = graph.load(_NR, _told_by_bit(graph, tables, killed))
    node = killed
    for arch in sorted(starts, key=_WIDE.__contains__):  # nearly every call is 64-bit: asked for first, made last
        node = graph.test(EQUAL, libseccomp.ARCHES[arch], starts[arch], node)
    notes = tuple(f"the call {name} is unknown to libseccomp and is left out" for name in sorted(unknown))
    return Compiled(graph.assemble(graph.load(_ARCH, node)), notes)


def _told_by_bit(graph: Graph, tables: dict[str, Ranges], killed: Node) -> Node:
    """x86_64 and x32 are one architecture to the kernel, and most numbers mean the same call:
    without its bit, one of x32 goes to the search for x86_64 unless it is an exception."""
    x86_64 = search(graph, tables["x86_64"]) if "x86_64" in tables else killed
    x32 = killed
    if "x32" in tables:
        exceptions = unlike(tables["x32"], tables["x86_64"], x86_64) if "x86_64" in tables else tables["x32"]
        x32 = graph.mask(_NOT_X32, search(graph, exceptions))
    return graph.test(FROM, _X32, x32, x86_64)


def _table(graph: Graph, rules: Rules, arch: str, unknown: set[str]) -> Ranges:
    """What becomes of each number of a call on ``arch``; on x32, of the number without its bit."""
    default = graph.answer(rules.default)
    calls = _by_number(rules, arch, unknown)
    decided = {number: _decide(graph, found, default, arch in _WIDE) for number, found in calls.items()}
    ranges = scattered(decided, default)
    newest = _newest_named(rules, arch, calls) if rules.newest == NEWEST_NAMED else rules.newest
    if newest:
        newer = graph.answer(libseccomp.act_errno(errno.ENOSYS))
        ranges = overlay(ranges, newest + 1, _ARM_PRIVATE - 1, newer)
    return ranges


def _newest_named(rules: Rules, arch: str, calls: Iterable[int]) -> int:
    """The highest number of a call that is spoken of, 0 for none."""
    named = (_number(name, arch) or 0 for name in rules.named)
    return max((number for number in (*calls, *named) if number < _ARM_PRIVATE), default=0)


def _decide(graph: Graph, rules: list[Rule], default: Node, wide: bool) -> Node:
    for rule in rules:
        if not rule.args:
            return graph.answer(rule.action)
    return arguments(graph, rules, default, wide)


def _by_number(rules: Rules, arch: str, unknown: set[str]) -> dict[int, list[Rule]]:
    """The rules for each number, in their order; names that no architecture knows go to ``unknown``."""
    found: dict[int, list[Rule]] = {}
    for rule in rules.rules:
        for name in rule.names:
            number = _number(name, arch)
            if number is None:
                unknown.add(name)
            elif number >= 0:
                found.setdefault(number, []).append(rule)
            elif arch == "x86" and number in table.MULTIPLEXED_X86:
                through, own = table.MULTIPLEXED_X86[number]
                if own is not None:
                    found.setdefault(own, []).append(rule)
                if not rule.args:  # through socketcall and ipc the call's arguments cannot be seen
                    chosen = Rule(rule.names, rule.action, (Arg(0, "EQ", -number % 100),))
                    found.setdefault(through, []).append(chosen)
    return found


def _number(name: str, arch: str) -> int | None:
    """Of the call on ``arch`` (on x32 without its bit): negative if it is not there, None if nobody knows the name."""
    number = libseccomp.resolve(name, arch)
    if number is not None:
        return number & _NOT_X32 if number >= 0 else number
    if name in table.NUMBERS:
        return table.NUMBERS[name]
    if name in table.NUMBERS_X86_64:
        return table.NUMBERS_X86_64[name] if arch == "x86_64" else -1
    return None
