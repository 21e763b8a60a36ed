"""From a profile of the node's to what one container gets of it, and to rules.

``document`` reads the profile, ``compile`` makes a program of the rules. In between is the
OCI document's ``linux.seccomp``, kept with the container: a command in it and a start by the
next daemon come under the same filter, whatever has become of the node's file. Pure.

What other runtimes make of libseccomp's rules is kept: the machine's own architecture always
counts; a rule that does what happens anyway is left out; comparisons of one argument in one
rule are alternatives; bits outside of a mask are not compared; a call newer than all that a
profile names, which would be refused, answers ENOSYS, so that C libraries fall back.
Source: seccomp_rule_add(3), OCI runtime-spec.

Invariant: conditions of Docker's form are decided here, and nowhere after.
"""

from __future__ import annotations

import errno
from collections.abc import Collection

from runtime.errors import FailedPrecondition
from runtime.linux.libseccomp import ACT_ALLOW, act_errno
from runtime.seccomp.document import ACTION, ARCHITECTURE, FLAG, OPERATOR, Call, Condition, Profile
from runtime.seccomp.profile import ARCHES, NEWEST_NAMED, Arg, Rule, Rules
from runtime.spec import Seccomp, SeccompArg, SeccompCall

_GO_ARCHES = {"x86_64": "amd64", "aarch64": "arm64"}
_PERMISSIVE = frozenset({"ALLOW", "LOG", "TRACE"})
_RETURNS = {
    "KILL": 0x0000_0000,
    "KILL_THREAD": 0x0000_0000,
    "KILL_PROCESS": 0x8000_0000,
    "TRAP": 0x0003_0000,
    "TRACE": 0x7FF0_0000,
    "LOG": 0x7FFC_0000,
    "ALLOW": ACT_ALLOW,
}
_FLAG_BITS = {"TSYNC": 1, "LOG": 2, "SPEC_ALLOW": 4, "WAIT_KILLABLE_RECV": 0}
"""SECCOMP_FILTER_FLAG_*. How to wait for a listener's answer means nothing without one; the kernel refuses it."""


def resolve_profile(profile: Profile, capabilities: Collection[str], arch: str, kernel: tuple[int, int]) -> Seccomp:
    """What a container gets of ``profile``.

    Args:
        capabilities: its bounding set, with the ``CAP_`` prefix.
        arch: the machine as uname(2) has it.
        kernel: its version, (6, 1).

    Raises:
        FailedPrecondition: no program can be made for this machine.
    """
    if arch not in ARCHES:
        message = f"there are no seccomp programs for {arch}, only for {', '.join(ARCHES)}"
        raise FailedPrecondition(message, step="plan the seccomp profile")

    def met(condition: Condition) -> tuple[bool, bool]:
        """Whether any and whether all that it asks for is so."""
        found = [_GO_ARCHES[arch] in condition.arches] if condition.arches else []
        found += [capability in capabilities for capability in condition.capabilities]
        found += [kernel >= condition.kernel] if condition.kernel else []
        return any(found), all(found)

    calls = [call for call in profile.calls if met(call.includes)[1] and not met(call.excludes)[0]]
    flags = ("SPEC_ALLOW",) if profile.flags is None else profile.flags
    resolved = Seccomp(
        defaultAction=f"{ACTION}{profile.action}",
        architectures=[f"{ARCHITECTURE}{name.upper()}" for name in _arches(profile, arch)],
        flags=[f"{FLAG}{name}" for name in flags],
        syscalls=[_call(call) for call in calls],
    )
    if profile.errno is not None:
        resolved["defaultErrnoRet"] = profile.errno
    return resolved


def _arches(profile: Profile, arch: str) -> list[str]:
    """Those of the profile that this machine's kernel executes, its own first."""
    asked = {name.lower() for name in profile.architectures}
    for main, others in profile.arch_map:
        if main.lower() == arch:
            asked.update(name.lower() for name in others)
    return [name for name in ARCHES[arch] if name == arch or name in asked]


def _call(call: Call) -> SeccompCall:
    written = SeccompCall(names=list(call.names), action=f"{ACTION}{call.action}")
    if call.errno is not None:
        written["errnoRet"] = call.errno
    if call.args:
        written["args"] = [
            SeccompArg(index=arg.index, value=arg.value, valueTwo=arg.value_two, op=f"{OPERATOR}{arg.op}")
            for arg in call.args
        ]
    return written


def plan_rules(seccomp: Seccomp) -> Rules:
    """The rules of a document that ``resolve_profile`` has made."""
    default = _returned(seccomp["defaultAction"], seccomp.get("defaultErrnoRet"))
    rules: list[Rule] = []
    redundant: list[str] = []
    for call in seccomp["syscalls"]:
        action = _returned(call["action"], call.get("errnoRet"))
        if action == default:
            redundant += call["names"]
        else:
            rules += [Rule(tuple(call["names"]), action, args) for args in _alternatives(call.get("args", []))]
    permissive = seccomp["defaultAction"].removeprefix(ACTION) in _PERMISSIVE
    return Rules(
        default=default,
        arches=tuple(name.removeprefix(ARCHITECTURE).lower() for name in seccomp["architectures"]),
        rules=tuple(rules),
        newest=0 if permissive else NEWEST_NAMED,
        named=() if permissive else tuple(redundant),
    )


def flag_bits(seccomp: Seccomp) -> int:
    """The flags of seccomp(2) with which its program is loaded."""
    return sum({_FLAG_BITS[flag.removeprefix(FLAG)] for flag in seccomp["flags"]})


def _alternatives(args: list[SeccompArg]) -> list[tuple[Arg, ...]]:
    """What has to hold together: all, or any one of them where they look at one argument twice."""
    made = tuple(_arg(arg) for arg in args)
    together = len({arg.index for arg in made}) == len(made)
    return [made] if together else [(arg,) for arg in made]


def _arg(arg: SeccompArg) -> Arg:
    op, value, value_two = arg["op"].removeprefix(OPERATOR), arg["value"], arg["valueTwo"]
    return Arg(arg["index"], op, value, value_two & value if op == "MASKED_EQ" else value_two)


def _returned(action: str, number: int | None) -> int:
    """SECCOMP_RET_* with its data."""
    word, data = action.removeprefix(ACTION), errno.EPERM if number is None else number
    if word == "ERRNO":
        return act_errno(data)
    return _RETURNS[word] | (data if word == "TRACE" else 0)
