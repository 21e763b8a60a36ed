"""What a container gets of a node's profile, and the rules of that."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runtime.errors import FailedPrecondition
from runtime.linux.libseccomp import ACT_ALLOW, act_errno
from runtime.seccomp.document import parse_profile
from runtime.seccomp.localhost import flag_bits, plan_rules, resolve_profile
from runtime.seccomp.profile import NEWEST_NAMED, Arg, Rule, Rules
from runtime.spec import Seccomp

PLAIN = {"names": ["read"], "action": "SCMP_ACT_ALLOW"}


def resolve(
    capabilities: tuple[str, ...] = (), arch: str = "x86_64", kernel: tuple[int, int] = (6, 1), **profile: Any
) -> Seccomp:
    data = json.dumps({"defaultAction": "SCMP_ACT_ERRNO", **profile}).encode()
    return resolve_profile(parse_profile(data, "p"), capabilities, arch, kernel)


def rules(**profile: Any) -> Rules:
    return plan_rules(resolve(**profile))


def test_it_is_an_oci_document_again() -> None:
    args = [{"index": 1, "value": 8, "valueTwo": 8, "op": "SCMP_CMP_MASKED_EQ"}]
    calls = [PLAIN, {"names": ["dup"], "action": "SCMP_ACT_ERRNO", "errnoRet": 9, "args": args}]
    found = resolve(defaultErrnoRet=38, architectures=["SCMP_ARCH_X86"], flags=[], syscalls=calls)
    assert found == {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 38,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "flags": [],
        "syscalls": calls,
    }
    again: Any = found
    assert resolve(**again) == found


@pytest.mark.parametrize(
    ("arch", "profile", "expected"),
    [
        ("x86_64", {}, ["X86_64"]),
        ("aarch64", {"architectures": ["SCMP_ARCH_ARM", "SCMP_ARCH_X86"]}, ["AARCH64", "ARM"]),
        ("x86_64", {"architectures": ["SCMP_ARCH_S390X"]}, ["X86_64"]),
        (
            "x86_64",
            {
                "archMap": [
                    {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
                    {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
                ]
            },
            ["X86_64", "X86", "X32"],
        ),
    ],
)
def test_the_machines_own_architecture_always_counts(arch: str, profile: dict[str, Any], expected: list[str]) -> None:
    assert resolve(arch=arch, **profile)["architectures"] == [f"SCMP_ARCH_{name}" for name in expected]


@pytest.mark.parametrize(
    ("entry", "applies"),
    [
        ({"includes": {"caps": ["CAP_A"]}}, True),
        ({"includes": {"caps": ["CAP_A", "CAP_B"]}}, False),
        ({"excludes": {"caps": ["CAP_A", "CAP_B"]}}, False),
        ({"excludes": {"caps": ["CAP_B"]}}, True),
        ({"includes": {"arches": ["amd64", "arm64"]}}, True),
        ({"includes": {"arches": ["s390x"]}}, False),
        ({"excludes": {"arches": ["amd64"]}}, False),
        ({"includes": {"minKernel": "6.1"}}, True),
        ({"includes": {"minKernel": "6.2"}}, False),
        ({"excludes": {"minKernel": "4.8"}}, False),
        ({"includes": {}, "excludes": {}}, True),
        ({"includes": {"caps": ["CAP_A"]}, "excludes": {"caps": ["CAP_A"]}}, False),
    ],
)
def test_a_rule_with_conditions_applies_where_they_hold(entry: dict[str, Any], applies: bool) -> None:
    assert bool(resolve(capabilities=("CAP_A",), syscalls=[{**PLAIN, **entry}])["syscalls"]) == applies


def test_a_machine_without_programs_is_refused() -> None:
    with pytest.raises(FailedPrecondition, match="riscv64"):
        resolve(arch="riscv64")


@pytest.mark.parametrize(
    ("action", "number", "returned"),
    [
        ("KILL", None, 0),
        ("KILL_THREAD", None, 0),
        ("KILL_PROCESS", None, 0x8000_0000),
        ("TRAP", None, 0x0003_0000),
        ("ERRNO", 38, act_errno(38)),
        ("TRACE", None, 0x7FF0_0001),
        ("TRACE", 5, 0x7FF0_0005),
        ("LOG", None, 0x7FFC_0000),
        ("ALLOW", None, ACT_ALLOW),
    ],
)
def test_every_action_is_the_kernels(action: str, number: int | None, returned: int) -> None:
    call = {"names": ["dup"], "action": f"SCMP_ACT_{action}", **({} if number is None else {"errnoRet": number})}
    assert rules(syscalls=[call]).rules == (Rule(("dup",), returned),)
    assert rules(defaultAction="SCMP_ACT_ERRNO").default == act_errno(1)


def test_a_rule_that_does_what_happens_anyway_is_only_a_name() -> None:
    found = rules(syscalls=[PLAIN, {"names": ["bpf"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}])
    assert found.rules == (Rule(("read",), ACT_ALLOW),) and found.named == ("bpf",)


@pytest.mark.parametrize("action", ["ALLOW", "LOG", "TRACE", "KILL", "TRAP"])
def test_newer_calls_answer_enosys_where_they_would_be_refused(action: str) -> None:
    newest = 0 if action in ("ALLOW", "LOG", "TRACE") else NEWEST_NAMED
    assert rules(defaultAction=f"SCMP_ACT_{action}").newest == newest


def test_comparisons_hold_together_unless_they_look_at_one_argument_twice() -> None:
    first = {"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}
    other = {"index": 1, "value": 3, "op": "SCMP_CMP_NE"}
    again = {"index": 0, "value": 0xF, "valueTwo": 0xF1, "op": "SCMP_CMP_MASKED_EQ"}
    one, two, masked = Arg(0, "EQ", 2), Arg(1, "NE", 3), Arg(0, "MASKED_EQ", 0xF, 1)
    dup = {"names": ["dup"], "action": "SCMP_ACT_ALLOW"}
    assert rules(syscalls=[{**dup, "args": [first, other]}]).rules == (Rule(("dup",), ACT_ALLOW, (one, two)),)
    assert rules(syscalls=[{**dup, "args": [first, again]}]).rules == (
        Rule(("dup",), ACT_ALLOW, (one,)),
        Rule(("dup",), ACT_ALLOW, (masked,)),
    )


def test_flags_are_those_of_the_profile_and_without_any_speculation_is_left_as_it_is() -> None:
    assert flag_bits(resolve()) == 4
    assert flag_bits(resolve(flags=[])) == 0
    named = ["LOG", "SPEC_ALLOW", "TSYNC", "WAIT_KILLABLE_RECV", "LOG"]
    assert flag_bits(resolve(flags=[f"SECCOMP_FILTER_FLAG_{name}" for name in named])) == 7
