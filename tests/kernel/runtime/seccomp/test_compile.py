from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from runtime.linux import capabilities, libseccomp, seccomp
from runtime.linux.libseccomp import ACT_ALLOW, ARCHES, act_errno
from runtime.seccomp import table
from runtime.seccomp.compile import compile_profile
from runtime.seccomp.document import parse_profile
from runtime.seccomp.localhost import plan_rules, resolve_profile
from runtime.seccomp.profile import NEWEST_NAMED, Arg, Rule, Rules, plan_profile
from tests.kernel.runtime.forked import in_child
from tests.unit.runtime.seccomp.interpreter import checked, evaluate

EPERM, ENOSYS = act_errno(errno.EPERM), act_errno(errno.ENOSYS)
KILL = 0
X86_64, X86, AARCH64, ARM = (ARCHES[arch] for arch in ("x86_64", "x86", "aarch64", "arm"))
X32 = 0x4000_0000
DEFAULT_CAPABILITIES = [
    f"CAP_{name}"
    for name in [
        "CHOWN",
        "DAC_OVERRIDE",
        "FSETID",
        "FOWNER",
        "MKNOD",
        "NET_RAW",
        "SETGID",
        "SETUID",
        "SETFCAP",
        "SETPCAP",
        "NET_BIND_SERVICE",
        "SYS_CHROOT",
        "KILL",
        "AUDIT_WRITE",
    ]
]
X86_64_PROGRAM = compile_profile(plan_profile(DEFAULT_CAPABILITIES, "x86_64", (6, 1))).program
AARCH64_PROGRAM = compile_profile(plan_profile(DEFAULT_CAPABILITIES, "aarch64", (6, 1))).program
NATIVE_PROGRAM = AARCH64_PROGRAM if os.uname().machine == "aarch64" else X86_64_PROGRAM

needs_x86_64 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are those of x86_64")


READ, SOCKET, CLONE, UNSHARE, MOUNT, PERSONALITY, PTRACE, SOCKET_X86 = 0, 41, 56, 272, 165, 135, 101, 359
FCHMODAT2, IO_URING_SETUP, CLONE3 = 452, 425, 435


@needs_x86_64
@pytest.mark.parametrize(
    ("number", "arguments", "expected"),
    [
        (READ, (), ACT_ALLOW),
        (PTRACE, (), ACT_ALLOW),
        (MOUNT, (), EPERM),
        (UNSHARE, (0x1000_0000,), EPERM),
        (CLONE, (0x11,), ACT_ALLOW),
        (CLONE, (0x003D_0F00,), ACT_ALLOW),  # a thread of glibc
        (CLONE, (0x1000_0011,), EPERM),
        (CLONE, (0x2000_0011,), EPERM),
        (CLONE, (0x0200_0011,), EPERM),
        (CLONE3, (), ENOSYS),
        (SOCKET, (1,), ACT_ALLOW),
        (SOCKET, (2,), ACT_ALLOW),
        (SOCKET, (16,), ACT_ALLOW),
        (SOCKET, (38,), EPERM),
        (SOCKET, (39,), ACT_ALLOW),
        (SOCKET, (40,), EPERM),
        (SOCKET, (41,), ACT_ALLOW),
        (SOCKET, (44,), ACT_ALLOW),
        (SOCKET, (1 << 32 | 38,), EPERM),  # the kernel reads the lower half
        (SOCKET, (1 << 32 | 40,), EPERM),
        (PERSONALITY, (0,), ACT_ALLOW),
        (PERSONALITY, (0xFFFF_FFFF,), ACT_ALLOW),
        (PERSONALITY, ((1 << 64) - 1,), ACT_ALLOW),
        (PERSONALITY, (0x40000,), EPERM),  # ADDR_NO_RANDOMIZE
        (IO_URING_SETUP, (), EPERM),
        (FCHMODAT2, (), ACT_ALLOW),
        (335, (), ACT_ALLOW),  # uretprobe
        (336, (), ACT_ALLOW),  # uprobe
        (table.NEWEST, (), ACT_ALLOW),
        (table.NEWEST + 1, (), ENOSYS),
        (9999, (), ENOSYS),
    ],
)
def test_what_a_container_may_call_on_x86_64(number: int, arguments: tuple[int, ...], expected: int) -> None:
    assert evaluate(X86_64_PROGRAM, X86_64, number, arguments) == expected


@needs_x86_64
@pytest.mark.parametrize(
    ("arch", "number", "arguments", "expected"),
    [
        (X86_64, X32 | READ, (), ACT_ALLOW),
        (X86_64, X32 | MOUNT, (), EPERM),
        (X86_64, X32 | FCHMODAT2, (), ACT_ALLOW),
        (X86_64, X32 | 9999, (), ENOSYS),
        (X86, 3, (), ACT_ALLOW),  # read
        (X86, 21, (), EPERM),  # mount
        (X86, 102, (), ACT_ALLOW),  # socketcall
        (X86, SOCKET_X86, (38,), EPERM),
        (X86, SOCKET_X86, (2,), ACT_ALLOW),
        (X86, 120, (0x1000_0011,), EPERM),  # clone
        (X86, FCHMODAT2, (), ACT_ALLOW),
        (X86, 336, (), EPERM),  # perf_event_open, which is uprobe on x86_64
        (X86, 9999, (), ENOSYS),
        (AARCH64, READ, (), KILL),
        (AARCH64, FCHMODAT2, (), KILL),
        (AARCH64, 9999, (), KILL),
    ],
)
def test_the_other_ways_into_an_x86_64_kernel(arch: int, number: int, arguments: Sequence[int], expected: int) -> None:
    assert evaluate(X86_64_PROGRAM, arch, number, arguments) == expected


@needs_x86_64
@pytest.mark.parametrize(
    ("arch", "number", "expected"),
    [
        (AARCH64, 63, ACT_ALLOW),  # read
        (AARCH64, 40, EPERM),  # mount
        (AARCH64, FCHMODAT2, ACT_ALLOW),
        (AARCH64, 9999, ENOSYS),
        (ARM, 3, ACT_ALLOW),  # read
        (ARM, 21, EPERM),  # mount
        (ARM, 0xF0002, ACT_ALLOW),  # cacheflush
        (ARM, 0xF0005, ACT_ALLOW),  # set_tls
        (ARM, 9999, ENOSYS),
        (X86_64, READ, KILL),
        (X86_64, FCHMODAT2, KILL),
    ],
)
def test_what_a_container_may_call_on_aarch64(arch: int, number: int, expected: int) -> None:
    assert evaluate(AARCH64_PROGRAM, arch, number) == expected


@pytest.mark.parametrize("program", [X86_64_PROGRAM, AARCH64_PROGRAM])
def test_the_program_is_small(program: bytes) -> None:
    """Each instruction costs about 0.2 us at every start of a process; libseccomp makes 1284 and 842."""
    assert len(checked(program)) < 220


@pytest.mark.parametrize(("arch", "numbers"), [(X86_64, 470), (X86, 471)])
def test_the_kernel_learns_which_calls_are_always_allowed(arch: int, numbers: int) -> None:
    """Its cache is for calls whose way to ALLOW uses these instructions only, and no arguments."""
    code = checked(X86_64_PROGRAM)
    for number in range(numbers):
        at, accumulator, steps = 0, 0, 0
        while code[at][0] != 0x06:
            opcode, if_true, if_false, value = code[at]
            at, steps = at + 1, steps + 1
            if opcode == 0x20 and value > 4:
                break
            assert opcode in (0x20, 0x05, 0x15, 0x25, 0x35, 0x54)
            if opcode == 0x20:
                accumulator = arch if value == 4 else number
            elif opcode == 0x05:
                at += value
            else:
                at += if_true if accumulator == value or (opcode == 0x35 and accumulator > value) else if_false
        assert steps <= 16


def test_a_name_that_nobody_knows_is_a_note_and_stays_refused() -> None:
    compiled = compile_profile(Rules(EPERM, ("x86_64", "x86"), (Rule(("read", "no_such_call"), ACT_ALLOW),)))
    assert compiled.notes == ("the call no_such_call is unknown to libseccomp and is left out",)


def test_calls_that_the_library_does_not_know_go_by_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    known = libseccomp.resolve
    new = ("mseal", "uprobe", "cachestat")
    monkeypatch.setattr(libseccomp, "resolve", lambda name, arch="": None if name in new else known(name, arch))
    rules = (Rule(("mseal", "uprobe"), ACT_ALLOW), Rule(("cachestat",), ACT_ALLOW, (Arg(3, "EQ", 0),)))
    compiled = compile_profile(Rules(EPERM, ("x86_64", "x86", "x32"), rules))
    assert compiled.notes == ()
    for arch, bit in ((X86_64, 0), (X86, 0), (X86_64, X32)):
        assert evaluate(compiled.program, arch, bit | 462) == ACT_ALLOW
        assert evaluate(compiled.program, arch, bit | 461) == EPERM
        assert evaluate(compiled.program, arch, bit | 451, (0, 0, 0, 0)) == ACT_ALLOW
        assert evaluate(compiled.program, arch, bit | 451, (0, 0, 0, 1)) == EPERM
        assert evaluate(compiled.program, arch, bit | 336) == (ACT_ALLOW if (arch, bit) == (X86_64, 0) else EPERM)


def test_without_a_newest_call_there_is_no_enosys() -> None:
    program = compile_profile(Rules(EPERM, ("x86_64",), (Rule(("read",), ACT_ALLOW),))).program
    assert {evaluate(program, X86_64, number) for number in (1, 470, 9999)} == {EPERM}


def test_the_newest_call_may_be_the_newest_that_is_named() -> None:
    rules = (Rule(("read", "faccessat2"), ACT_ALLOW),)
    for named, newest in (((), 439), (("no_such_call", "mseal"), 462)):
        described = Rules(EPERM, ("x86_64", "x86", "x32"), rules, NEWEST_NAMED, named)
        program = compile_profile(described).program
        for arch, bit in ((X86_64, 0), (X86, 0), (X86_64, X32)):
            found = [evaluate(program, arch, bit | number) for number in (newest - 1, newest, newest + 1)]
            assert found == [EPERM, EPERM if named else ACT_ALLOW, ENOSYS]
    nothing = compile_profile(Rules(EPERM, ("x86_64",), (), NEWEST_NAMED)).program
    assert {evaluate(nothing, X86_64, number) for number in (0, 9999)} == {EPERM}


def test_a_rule_without_comparisons_counts_before_those_with() -> None:
    narrow, broad = Rule(("dup",), ENOSYS, (Arg(0, "EQ", 3),)), Rule(("dup",), ACT_ALLOW)
    for order in ((narrow, broad), (broad, narrow)):
        assert evaluate(compile_profile(Rules(EPERM, ("x86_64",), order)).program, X86_64, 32, (3,)) == ACT_ALLOW


def test_an_x32_call_is_compared_in_all_64_bits() -> None:
    """libseccomp looks at the lower half only there, although whole registers reach the kernel."""
    rules = Rules(EPERM, ("x86_64", "x86", "x32"), (Rule(("dup",), ACT_ALLOW, (Arg(0, "LT", 5),)),))
    assert evaluate(libraries(rules), X86_64, X32 | 32, (1 << 32,)) == ACT_ALLOW
    assert evaluate(compile_profile(rules).program, X86_64, X32 | 32, (1 << 32,)) == EPERM
    assert evaluate(compile_profile(rules).program, X86_64, X32 | 32, (4,)) == ACT_ALLOW


# ---------------------------------------------------------------- libseccomp's programs decide the same


def libraries(rules: Rules) -> bytes:
    """The program that libseccomp makes; it knows nothing of ``newest`` and of calls newer than itself."""
    with libseccomp.Filter(rules.default, rules.arches) as context:
        context.optimize()
        for rule in rules.rules:
            comparisons = [
                libseccomp.Comparison(arg.index, libseccomp.COMPARE[arg.op], arg.value, arg.value_two)
                for arg in rule.args
            ]
            for name in rule.names:
                number = libseccomp.resolve(name)
                if number is not None:
                    context.add_rule(rule.action, number, comparisons)
        return context.export()


class Expected:
    """What libseccomp's program says, and before that what it does not know."""

    def __init__(self, rules: Rules) -> None:
        unknown = {name for rule in rules.rules for name in rule.names if libseccomp.resolve(name) is None}
        self._newer = {number for name, number in table.NUMBERS.items() if name in unknown}
        self._x86_64_only = {number for name, number in table.NUMBERS_X86_64.items() if name in unknown}
        self._served = {ARCHES[name] for name in rules.arches}
        self._newest = rules.newest
        self._program = libraries(rules)

    def __call__(self, arch: int, number: int, arguments: Sequence[int]) -> int:
        plain = number & ~X32 if arch == X86_64 else number
        if arch in self._served:
            if plain in self._newer or (arch == X86_64 and number in self._x86_64_only):
                return ACT_ALLOW
            if self._newest < plain < 0xF0000:
                return ENOSYS
        return evaluate(self._program, arch, number, arguments)


CAPABILITY_SETS = {
    "none": [],
    "default": DEFAULT_CAPABILITIES,
    "admin": [*DEFAULT_CAPABILITIES, "CAP_SYS_ADMIN"],
    "some": ["CAP_BPF", "CAP_SYS_NICE", "CAP_SYS_PTRACE", "CAP_SYS_TIME"],
    "all": list(table.ALLOWED_BY_CAPABILITY),
}
ODD_NUMBERS = [0xEFFFF, *range(0xF0000, 0xF0008), X32 - 1, 0x7FFF_FFFF, 0x8000_0000, 0xC000_0005, 0xFFFF_FFFF]
FAMILIES = [*range(36, 47), 1 << 32, 1 << 32 | 2, 1 << 32 | 38, 0xFFFF_FFFF_0000_0002]
FLAGS = [0x11, 0x003D_0F00, *(1 << bit for bit in range(17, 33)), 0x7E02_0000, 0x8000_0000_0000_0011]
PERSONAS = [*table.PERSONALITIES, 1, 7, 0x40000, 0x2_0009, 0xFFFF_FFFE, 0xFFFF_FFFF_0000_0000, 8 << 32, 1 << 63]
VALUES = [*FAMILIES, *FLAGS, *PERSONAS]


@needs_x86_64
@pytest.mark.parametrize("held", sorted(CAPABILITY_SETS))
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_call_is_decided_as_by_libseccomp(machine: str, held: str) -> None:
    rules = plan_profile(CAPABILITY_SETS[held], machine, (6, 1))
    program, expected = compile_profile(rules).program, Expected(rules)
    with_arguments = {
        number & ~X32
        for rule in rules.rules
        if rule.args
        for name in rule.names
        for arch in rules.arches
        if (number := libseccomp.resolve(name, arch)) is not None and number >= 0
    } | {102, 117, SOCKET_X86}
    for arch in (X86_64, X86, AARCH64, ARM, 0, 0xC000_0015):
        wide = arch in (X86_64, AARCH64)
        for number in [*range(600), *ODD_NUMBERS, *(X32 | number for number in range(600) if arch == X86_64)]:
            for value in VALUES if number & ~X32 in with_arguments else (0, (1 << 64) - 1):
                if not wide or number & X32:  # for x32 see above
                    value &= 0xFFFF_FFFF
                arguments = (value,) * 6
                found = evaluate(program, arch, number, arguments)
                assert found == expected(arch, number, arguments), (hex(arch), number, hex(value))


@needs_x86_64
@pytest.mark.parametrize("action", [ACT_ALLOW, ENOSYS])
def test_calls_through_socketcall_and_ipc_are_decided_as_by_libseccomp(action: int) -> None:
    """The default profile allows both as a whole; here nothing but single calls of theirs is named."""
    names = "accept bind connect getpeername recv recvmmsg send sendmsg shutdown socket semop semtimedop shmat msgget"
    rules = Rules(EPERM, ("x86_64", "x86"), (Rule(tuple(names.split()), action),))
    program, theirs = compile_profile(rules).program, libraries(rules)
    for number in range(460):
        for selector in range(32):
            expected = evaluate(theirs, X86, number, (selector, 7))
            assert evaluate(program, X86, number, (selector, 7)) == expected, (number, selector)


def test_the_arguments_of_a_call_through_socketcall_cannot_be_seen_and_are_not_allowed() -> None:
    rule = Rule(("socket",), ACT_ALLOW, (Arg(0, "EQ", 2),))
    program = compile_profile(Rules(EPERM, ("x86",), (rule,))).program
    assert evaluate(program, X86, SOCKET_X86, (2,)) == ACT_ALLOW
    assert {evaluate(program, X86, 102, (selector, 2)) for selector in range(32)} == {EPERM}


EDGES = [0, 1, 5, 38, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 1 << 32, 1 << 32 | 5, 1 << 63, (1 << 64) - 1]
NUMBERS = st.one_of(st.sampled_from(EDGES), st.integers(0, 0xFFFF_FFFF), st.integers(0, (1 << 64) - 1))
NAMES = [
    "read",
    "dup",
    "clone",
    "ioctl",
    "mmap",
    "personality",
    "prctl",
    "openat",
    "kill",
    "rt_sigaction",
    "arch_prctl",
]
WITH_ARGUMENTS = NAMES[:5]


@st.composite
def comparisons(draw: st.DrawFn, most: int) -> Arg:
    """Masks and what they are compared with agree; on 32-bit architectures libseccomp cuts values off."""
    op, value = draw(st.sampled_from(sorted(libseccomp.COMPARE))), draw(NUMBERS) & most
    return Arg(draw(st.integers(0, 5)), op, value, draw(NUMBERS) & value if op == "MASKED_EQ" else 0)


def rule_lists(most: int) -> st.SearchStrategy[list[Rule]]:
    """One rule with comparisons for each of some calls: where several hold, libseccomp has an order of its own."""
    by_name = st.dictionaries(
        st.sampled_from(WITH_ARGUMENTS),
        st.lists(comparisons(most), min_size=1, max_size=3, unique_by=lambda arg: arg.index),
    )
    plain = st.lists(st.sampled_from(NAMES[5:]), unique=True).map(lambda names: [Rule(tuple(names), ACT_ALLOW)])
    return st.builds(
        lambda chosen, rest: [*(Rule((name,), ENOSYS, tuple(args)) for name, args in chosen.items()), *rest],
        by_name,
        plain,
    )


@needs_x86_64
@settings(max_examples=150, deadline=None)
@given(st.data(), st.sampled_from([("x86_64",), ("x86",), ("x86_64", "x86", "x32"), ("aarch64",), ("aarch64", "arm")]))
def test_any_rules_are_decided_as_by_libseccomp(data: st.DataObject, arches: tuple[str, ...]) -> None:
    narrow = not {"x86", "x32", "arm"}.isdisjoint(arches)
    most = 0xFFFF_FFFF if narrow else (1 << 64) - 1
    rules = Rules(EPERM, arches, tuple(data.draw(rule_lists(most))))
    ours, theirs = compile_profile(rules).program, libraries(rules)
    near = sorted(
        {
            value + by & most
            for rule in rules.rules
            for arg in rule.args
            for value in (arg.value, arg.value_two)
            for by in (-1, 0, 1)
        }
        | {value & most for value in EDGES}
    )
    calls = data.draw(st.lists(st.lists(st.sampled_from(near), min_size=6, max_size=6), min_size=8, max_size=8))
    for arch in arches:
        token = X86_64 if arch == "x32" else ARCHES[arch]
        numbers = [libseccomp.resolve(name, arch) for name in NAMES]
        for number in [*(number for number in numbers if number is not None and number >= 0), 999]:
            for arguments in calls:
                found = evaluate(ours, token, number, arguments)
                assert found == evaluate(theirs, token, number, arguments), (arch, number, arguments)


# ---------------------------------------------------------------- a node's profile, as other runtimes take it

OTHERS = ("SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP", "SCMP_ACT_ERRNO", "SCMP_ACT_TRACE", "SCMP_ACT_LOG")
RETURNS = (0, 0x8000_0000, 0x0003_0000, 0x0005_0001, 0x7FF0_0001, 0x7FFC_0000)
ACTIONS = dict(zip(("SCMP_ACT_ALLOW", *OTHERS), (ACT_ALLOW, *RETURNS), strict=True))


@st.composite
def profiles(draw: st.DrawFn) -> dict[str, Any]:
    """Of 64-bit calls: a rule with comparisons for some, one or more without for others, and a name nobody knows."""
    arguments = st.builds(
        lambda index, op, value, two: {"index": index, "op": f"SCMP_CMP_{op}", "value": value, "valueTwo": two},
        st.integers(0, 2),
        st.sampled_from(sorted(libseccomp.COMPARE)),
        NUMBERS,
        NUMBERS,
    )
    # Of several for one call that overlap libseccomp makes something of its own.
    lists = st.lists(arguments, min_size=1, max_size=3, unique_by=lambda arg: arg["index"])
    compared = draw(st.dictionaries(st.sampled_from(WITH_ARGUMENTS), lists, max_size=4))
    plain = draw(st.lists(st.lists(st.sampled_from([*NAMES[5:], "no_such_call"]), min_size=1, max_size=3), max_size=4))
    action = st.sampled_from(sorted(ACTIONS))
    rules = [{"names": [name], "action": draw(action), "args": args} for name, args in compared.items()]
    rules += [{"names": names, "action": draw(action)} for names in plain]
    return {
        "defaultAction": draw(action),
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": draw(st.permutations(rules)),
    }


def as_other_runtimes(profile: dict[str, Any]) -> bytes:
    """libseccomp is not told of what happens anyway, and not of names that it does not know."""
    default = ACTIONS[profile["defaultAction"]]
    with libseccomp.Filter(default, ("x86_64",)) as context:
        for call in profile["syscalls"]:
            comparisons = [
                libseccomp.Comparison(
                    arg["index"], libseccomp.COMPARE[arg["op"].removeprefix("SCMP_CMP_")], arg["value"], arg["valueTwo"]
                )
                for arg in call.get("args", [])
            ]
            for number in map(libseccomp.resolve, call["names"]):
                if number is not None and ACTIONS[call["action"]] != default:
                    context.add_rule(ACTIONS[call["action"]], number, comparisons)
        return context.export()


@needs_x86_64
@settings(max_examples=100, deadline=None, phases=set(Phase) - {Phase.shrink, Phase.explain})
@given(st.data(), profiles())
def test_a_nodes_profile_is_decided_as_by_libseccomp_and_newer_calls_as_other_runtimes_do(
    data: st.DataObject, profile: dict[str, Any]
) -> None:
    resolved = resolve_profile(parse_profile(json.dumps(profile).encode(), "p"), (), "x86_64", (6, 1))
    ours, theirs = compile_profile(plan_rules(resolved)).program, as_other_runtimes(profile)
    named = {libseccomp.resolve(name) or 0 for call in profile["syscalls"] for name in call["names"]}
    newest = max(named, default=0)
    refused = ACTIONS[profile["defaultAction"]] not in (ACT_ALLOW, 0x7FFC_0000, 0x7FF0_0001)
    near = sorted(
        {
            value + by & (1 << 64) - 1
            for call in profile["syscalls"]
            for arg in call.get("args", [])
            for value in (arg["value"], arg["valueTwo"], arg["value"] & arg["valueTwo"])
            for by in (-1, 0, 1)
        }
        | set(EDGES)
    )
    calls = data.draw(st.lists(st.lists(st.sampled_from(near), min_size=6, max_size=6), min_size=8, max_size=8))
    for number in [*sorted(named), newest + 1, 999]:
        for arguments in calls:
            newer = refused and 0 < newest < number
            expected = ENOSYS if newer else evaluate(theirs, X86_64, number, arguments)
            assert evaluate(ours, X86_64, number, arguments) == expected, (number, arguments)


@needs_x86_64
def test_alternatives_about_halves_of_an_argument_are_decided_as_they_are_written() -> None:
    """libseccomp 2.5.4 makes a program of these two rules that allows every value."""
    alternatives = (Arg(1, "GE", 1 << 32), Arg(1, "LE", 0))
    rules = Rules(EPERM, ("x86_64",), tuple(Rule(("ioctl",), ACT_ALLOW, (arg,)) for arg in alternatives))
    program = compile_profile(rules).program
    decided = {value: evaluate(program, X86_64, 16, (0, value)) for value in (0, 1, (1 << 32) - 1, 1 << 32, 1 << 63)}
    assert [value for value, action in decided.items() if action == EPERM] == [1, (1 << 32) - 1]


# ---------------------------------------------------------------- the kernel itself


def call(number: int, *arguments: int) -> int:
    """errno of a raw system call, 0 if it succeeds."""
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_ulong(argument) for argument in arguments))
    return ctypes.get_errno() if result < 0 else 0


@needs_x86_64
def test_the_kernel_refuses_what_root_could_do_without_the_filter() -> None:
    """Each of these gets past the permission checks of the same process before the filter."""
    attempts = {
        "unshare(CLONE_NEWUTS)": (UNSHARE, 0x0400_0000),
        "socket(AF_VSOCK)": (SOCKET, 40, 1, 0),
        "bpf": (321, 0, 0, 0),
        "keyctl(KEYCTL_GET_KEYRING_ID)": (250, 0, -3 & 0xFFFF_FFFF, 0),
        "mount": (MOUNT, 0, 0, 0, 0, 0),
        "io_uring_setup": (IO_URING_SETUP, 0, 0),
        "userfaultfd": (323, 0xFFFF),
        "kexec_load": (246, 0, 99, 0, 1),
        "open_tree": (428, 0xFFFF_FF9C, 0, 0xFFFF),
    }

    def without() -> dict[str, int]:
        return {name: call(*attempt) for name, attempt in attempts.items()}

    def under_the_filter() -> dict[str, int]:
        seccomp.load(NATIVE_PROGRAM)
        return {**without(), "clone3": call(CLONE3, 0, 0), "newer": call(table.NEWEST + 1)}

    filtered = in_child(under_the_filter)
    assert (filtered.pop("clone3"), filtered.pop("newer")) == (errno.ENOSYS, errno.ENOSYS)
    assert set(filtered.values()) == {errno.EPERM}
    free = in_child(without)
    assert free["unshare(CLONE_NEWUTS)"] == 0
    assert errno.EPERM not in {free[name] for name in ("mount", "bpf", "open_tree", "userfaultfd")}


@needs_x86_64
def test_the_kernel_loads_a_large_program_within_a_millisecond() -> None:
    """All calls of all architectures, as a node's profile may list them; CPU time, and twice what is promised."""
    rules = (Rule(tuple(table.ALLOWED[::2]), ACT_ALLOW), Rule(tuple(table.ALLOWED[1::2]), 0x7FFC_0000))
    program = compile_profile(Rules(EPERM, ("x86_64", "x86", "x32"), rules, NEWEST_NAMED)).program

    def load() -> float:
        began = time.thread_time()
        seccomp.load(program)
        return time.thread_time() - began

    taken = sorted(in_child(load) for _ in range(9))
    assert taken[4] < 0.002, taken


def confine() -> None:
    """As a container's init does: the default capabilities, then the filter."""
    mask = capabilities.mask(DEFAULT_CAPABILITIES) & capabilities.capget()[1]
    seccomp.load(NATIVE_PROGRAM)
    capabilities.capset(mask, mask, 0)


PROGRAMS = {
    "sh": ["sh", "-c", "for i in 1 2 3; do (echo $i | cat) & done; wait; test -d /; umask 022; ulimit -n; trap : TERM"],
    "python": [
        sys.executable,
        "-c",
        "import asyncio, concurrent.futures as f, socket, subprocess, tempfile, threading, mmap, os, select, signal\n"
        "import multiprocessing.pool as p\n"
        "with f.ThreadPoolExecutor(4) as e: assert sum(e.map(len, ['a'] * 9)) == 9\n"
        "assert subprocess.run(['true']).returncode == 0\n"
        "asyncio.run(asyncio.create_subprocess_exec('true'))\n"
        "a, b = socket.socketpair(); a.send(b'x'); assert b.recv(1) == b'x'\n"
        "socket.create_server(('127.0.0.1', 0)).close()\n"
        "d = tempfile.mkdtemp(); os.symlink('x', d + '/s')\n"
        "os.unlink(d + '/s'); os.rmdir(d); mmap.mmap(-1, 4096).close(); select.epoll().close()\n"
        "os.sched_setaffinity(0, os.sched_getaffinity(0)); os.setpriority(os.PRIO_PROCESS, 0, 5)\n"
        "os.posix_fallocate(os.memfd_create('x'), 0, 10); os.pidfd_open(os.getpid())\n",
    ],
    "perl": ["perl", "-e", "use IPC::Open3; my $p = open3(undef, my $o, undef, 'true'); waitpid($p, 0); exit $? >> 8"],
    "tar": ["sh", "-c", "tar -C /usr/share -cf - base-files | tar -tf - > /dev/null"],
    "dpkg": ["sh", "-c", "dpkg -s libc6 > /dev/null && dpkg --verify base-files"],
    "apt-cache": ["apt-cache", "policy", "base-files"],
    "git": ["git", "--version"],
    "gcc": ["sh", "-c", "printf 'int main(void){return 0;}' | gcc -x c -o /dev/null -"],
    "strace": ["strace", "-f", "-o", "/dev/null", "sh", "-c", "true | true"],
    "gdb": ["gdb", "-batch", "-ex", "run", "--args", "true"],
    "node": [
        "node",
        "-e",
        "const { Worker } = require('worker_threads'); require('fs').promises.readFile('/etc/hostname').then(() => "
        "new Worker('require(\"child_process\").execSync(\"true\")', { eval: true }).on('exit', c => process.exit(c)))",
    ],
    "java": ["java", "-version"],
    "go": ["go", "version"],
    "ruby": ["ruby", "-e", "Thread.new { system('true') or exit 1 }.join"],
    "busybox": ["busybox", "sh", "-c", "busybox ls / | busybox wc -l"],
    "openssl": ["openssl", "rand", "-hex", "8"],
}


@pytest.mark.parametrize("program", sorted(PROGRAMS))
def test_ordinary_programs_run_under_the_default_profile(program: str) -> None:
    argv = PROGRAMS[program]
    needed = program if program not in ("python", "tar", "dpkg", "gcc") else argv[0]
    if shutil.which(program if program in ("tar", "dpkg", "gcc") else needed) is None:
        pytest.skip(f"{program} is not installed")
    if subprocess.run(argv, capture_output=True, timeout=50).returncode != 0:
        pytest.skip(f"{program} does not run here even without a filter")
    ran = subprocess.run(argv, capture_output=True, timeout=50, preexec_fn=confine)
    assert ran.returncode == 0, ran.stderr.decode(errors="replace")
