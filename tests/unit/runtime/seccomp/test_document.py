"""Seccomp profiles in JSON: read whole, or refused with the place."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runtime.errors import FailedPrecondition, ResourceExhausted
from runtime.seccomp import document
from runtime.seccomp.document import Call, Comparison, Condition, Profile, parse_profile

ALWAYS = Condition((), (), None)


def parse(**profile: Any) -> Profile:
    return parse_profile(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", **profile}).encode(), "p.json")


def call(**entry: Any) -> Call:
    (found,) = parse(syscalls=[{"names": ["read"], "action": "SCMP_ACT_LOG", **entry}]).calls
    return found


def test_the_oci_form_is_read() -> None:
    found = parse(
        defaultAction="SCMP_ACT_ERRNO",
        defaultErrnoRet=38,
        architectures=["SCMP_ARCH_X86_64", "SCMP_ARCH_S390X"],
        flags=["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"],
        listenerPath="",
        syscalls=[
            {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"},
            {
                "names": ["socket"],
                "action": "SCMP_ACT_TRACE",
                "errnoRet": 7,
                "args": [{"index": 5, "value": 2**64 - 1, "valueTwo": 3, "op": "SCMP_CMP_MASKED_EQ"}],
            },
        ],
    )
    assert found == Profile(
        action="ERRNO",
        errno=38,
        architectures=("X86_64", "S390X"),
        arch_map=(),
        flags=("LOG", "SPEC_ALLOW"),
        calls=(
            Call(("read", "write"), "ALLOW", None, (), ALWAYS, ALWAYS),
            Call(("socket",), "TRACE", 7, (Comparison(5, "MASKED_EQ", 2**64 - 1, 3),), ALWAYS, ALWAYS),
        ),
    )


def test_what_dockers_form_has_beyond_it_is_read() -> None:
    found = parse(
        archMap=[{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]}],
        syscalls=[
            {
                "name": "mount",
                "action": "SCMP_ACT_ALLOW",
                "args": None,
                "comment": "as ever",
                "includes": {"caps": ["CAP_SYS_ADMIN"], "minKernel": "4.8"},
                "excludes": {"arches": ["amd64"]},
            }
        ],
    )
    assert found.arch_map == (("X86_64", ("X86", "X32")),) and found.flags is None
    (rule,) = found.calls
    assert rule.names == ("mount",)
    assert rule.includes == Condition(("CAP_SYS_ADMIN",), (), (4, 8))
    assert rule.excludes == Condition((), ("amd64",), None)


@pytest.mark.parametrize("action", document.ACTIONS)
def test_every_action_is_known(action: str) -> None:
    assert call(action=f"SCMP_ACT_{action}").action == action


@pytest.mark.parametrize("op", document.OPERATORS)
def test_every_operator_is_known(op: str) -> None:
    assert call(args=[{"index": 0, "value": 1, "op": f"SCMP_CMP_{op}"}]).args == (Comparison(0, op, 1, 0),)


@pytest.mark.parametrize("flag", document.FLAGS)
def test_every_flag_is_known(flag: str) -> None:
    assert parse(flags=[f"SECCOMP_FILTER_FLAG_{flag}"]).flags == (flag,)


def test_no_flags_and_an_empty_list_of_them_are_told_apart() -> None:
    assert parse().flags is None and parse(flags=None).flags is None and parse(flags=[]).flags == ()


def test_keys_that_nobody_knows_mean_nothing() -> None:
    assert parse(seccompVersion=3, defaultErrno="EPERM", syscalls=[]) == parse()


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        ({"defaultAction": None}, "p.json: defaultAction: must be one of SCMP_ACT_ALLOW"),
        ({"defaultAction": "SCMP_ACT_NOTIFY"}, "there is no listener for SCMP_ACT_NOTIFY yet"),
        ({"defaultAction": "ALLOW"}, "not 'ALLOW'"),
        ({"defaultAction": ["SCMP_ACT_ALLOW"]}, "defaultAction is not a string"),
        ({"defaultErrnoRet": 1}, "SCMP_ACT_ALLOW has none"),
        ({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 4096}, "from 0 to 4095"),
        ({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": True}, "from 0 to 4095"),
        ({"listenerPath": "/run/agent.sock"}, "listenerPath: there is no listener"),
        ({"architectures": ["SCMP_ARCH_Z80"]}, "not 'SCMP_ARCH_Z80'"),
        ({"architectures": "SCMP_ARCH_X86"}, "architectures is not a list"),
        ({"flags": ["SECCOMP_FILTER_FLAG_NEW_LISTENER"]}, "must be one of SECCOMP_FILTER_FLAG_LOG"),
        ({"archMap": [{"architecture": "x86"}]}, "not 'x86'"),
        ({"archMap": ["x86"]}, "is not an object"),
        (
            {"architectures": ["SCMP_ARCH_X86"], "archMap": [{"architecture": "SCMP_ARCH_X86"}]},
            "architectures as well as archMap",
        ),
        ({"DefaultAction": "SCMP_ACT_KILL"}, "has 'DefaultAction': it is spelled defaultAction"),
        ({"syscalls": {}}, "syscalls is not a list"),
        ({"syscalls": [None]}, r"syscalls\[0\]: is not an object"),
        ({"syscalls": [{}]}, r"syscalls\[0\]: names no system call"),
        ({"syscalls": [{"names": [""], "action": "SCMP_ACT_ALLOW"}]}, "names no system call"),
        ({"syscalls": [{"names": ["x" * 129], "action": "SCMP_ACT_ALLOW"}]}, "names no system call"),
    ],
)
def test_what_is_no_profile_is_refused(profile: dict[str, Any], words: str) -> None:
    with pytest.raises(FailedPrecondition, match=words):
        parse(**profile)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"action": "SCMP_ACT_NOTIFY"}, r"syscalls\[0\]: action: there is no listener"),
        ({"Action": "SCMP_ACT_KILL"}, "it is spelled action"),
        ({"errnoRet": 1}, "SCMP_ACT_LOG has none"),
        ({"args": [3]}, r"syscalls\[0\]\.args: is not an object"),
        ({"args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}, "index: must be a whole number from 0 to 5"),
        ({"args": [{"index": -1, "value": 0, "op": "SCMP_CMP_EQ"}]}, "index: must be"),
        ({"args": [{"index": 0, "value": 2**64, "op": "SCMP_CMP_EQ"}]}, "value: must be"),
        ({"args": [{"index": 0, "value": 1.5, "op": "SCMP_CMP_EQ"}]}, "value: must be"),
        ({"args": [{"index": 0, "value": 1}]}, "op: must be one of SCMP_CMP_EQ"),
        ({"includes": {"minKernel": "4"}}, "minKernel: is not of the form"),
        ({"includes": {"minKernel": "4.x"}}, "minKernel: is not of the form"),
        ({"excludes": {"kernel": "4.8"}}, "excludes: kernel is no condition"),
        ({"excludes": {"Caps": []}}, "it is spelled caps"),
    ],
)
def test_what_is_no_rule_is_refused_with_its_place(entry: dict[str, Any], words: str) -> None:
    with pytest.raises(FailedPrecondition, match=words):
        call(**entry)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is not valid"),
        (b"[]", "is not a JSON object"),
        (b'{"defaultAction": "SCMP_ACT_KILL", "defaultAction": "SCMP_ACT_ALLOW"}', "a key occurs twice"),
        (b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}", "nested deeper than 64"),
        (b'{"a": NaN}', "is not JSON"),
        (b"\xff", "is not valid"),
    ],
)
def test_json_that_could_be_read_in_two_ways_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(FailedPrecondition, match=words):
        parse_profile(data, "p.json")


def test_its_size_is_bounded() -> None:
    with pytest.raises(ResourceExhausted, match="larger than 1048576 bytes"):
        parse_profile(b" " * (document.MAX_BYTES + 1), "p.json")
    many = {"names": ["read"] * (document.MAX_CALLS + 1), "action": "SCMP_ACT_LOG"}
    with pytest.raises(FailedPrecondition, match="more than 16384 system calls"):
        parse(syscalls=[many])
    compared = {"names": ["read"], "action": "SCMP_ACT_LOG", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]}
    with pytest.raises(FailedPrecondition, match="more than 2048 comparisons"):
        parse(syscalls=[compared] * (document.MAX_COMPARISONS + 1))
