"""Compiled seccomp programs, found again without a compilation."""

from __future__ import annotations

import json
import os
import time
from functools import partial
from pathlib import Path

import msgspec
import pytest

from cri import profiles
from cri.plan.sandbox import PausePlan
from cri.profiles import UNCONFINED, Profiles, kernel_version
from runtime.errors import FailedPrecondition, HostFault
from runtime.seccomp import table
from runtime.spec import Seccomp, User

LARGE = json.dumps(
    {
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "syscalls": [{"names": list(table.ALLOWED), "action": "SCMP_ACT_ALLOW"}],
    }
).encode()
ROOT = User(uid=0, gid=0, additionalGids=[])


@pytest.mark.parametrize(
    ("release", "version"),
    [("6.1.0-42-amd64", (6, 1)), ("6.18.2", (6, 18)), ("7.0-rc1", (7, 0)), ("5.15+", (5, 15)), ("linux", (0, 0))],
)
def test_the_kernels_version_is_read_from_its_release(release: str, version: tuple[int, int]) -> None:
    assert kernel_version(release) == version


def test_the_same_capabilities_have_the_same_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Profiles(tmp_path / "cache" / "seccomp")
    few = made.default(["CAP_CHOWN", "CAP_KILL"]).path
    many = made.default(["CAP_SYS_ADMIN"]).path
    assert few and few != many and os.path.getsize(few) % 8 == 0
    monkeypatch.setattr(profiles, "ensure", None)  # nothing is compiled from here on
    assert made.default(["CAP_KILL", "CAP_CHOWN"]).path == few


def test_a_program_that_was_deleted_is_made_again(tmp_path: Path) -> None:
    made = Profiles(tmp_path)
    profile = made.read(LARGE, "p", ())
    for find in (partial(made.default, []), partial(made.localhost, profile)):
        path = str(find().path)
        os.unlink(path)
        assert find().path == path and os.path.exists(path)


def test_a_nodes_profile_is_read_and_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Profiles(tmp_path)
    profile = made.read(LARGE, "p", ())
    monkeypatch.setattr(profiles, "ensure_profile", None)
    program = made.localhost(profile)
    assert program.path is not None and program.path.startswith(str(tmp_path)) and program.flags == 2


def test_what_a_profile_lacks_is_said_when_it_is_read(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="here: "):
        Profiles(tmp_path).read(b"{}", "here", ())
    numbers = [{"index": number % 6, "value": number * 977, "op": "SCMP_CMP_EQ"} for number in range(2000)]
    calls = [{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [number]} for number in numbers]
    many = json.dumps({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": calls}).encode()
    with pytest.raises(FailedPrecondition, match="instructions, and the kernel takes 4096"):
        Profiles(tmp_path).read(many, "here", ())


def test_the_program_of_a_plan_is_that_of_its_kind(tmp_path: Path) -> None:
    made = Profiles(tmp_path)
    profile = made.read(LARGE, "p", ())
    assert made.of_pause(PausePlan(user=ROOT, seccomp=None)) == UNCONFINED
    assert made.of_pause(PausePlan(user=ROOT, seccomp="runtime/default")) == made.default(())
    assert made.of_pause(PausePlan(user=ROOT, seccomp="localhost", profile=profile)) == made.localhost(profile)
    with pytest.raises(HostFault, match="no such profile"):
        made.of_pause(PausePlan(user=ROOT, seccomp="localhost"))


def test_a_cached_program_is_found_within_a_millisecond(tmp_path: Path) -> None:
    """By a daemon that has just started, and by one that knows it; CPU time, and twice what is promised."""
    profile: Seccomp = msgspec.json.decode(msgspec.json.encode(Profiles(tmp_path).read(LARGE, "p", ())))
    cold, warm = [], []
    for _ in range(15):
        fresh = Profiles(tmp_path)
        began = time.thread_time()
        fresh.localhost(profile)
        known = time.thread_time()
        fresh.localhost(profile)
        cold.append(known - began)
        warm.append(time.thread_time() - known)
    assert sorted(cold)[7] < 0.002 and sorted(warm)[7] < 0.002, (cold, warm)


def test_no_more_is_remembered_than_it_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiles, "KNOWN", 2)
    made = Profiles(tmp_path)
    for capability in ("CAP_BPF", "CAP_SYSLOG", "CAP_SYS_TIME"):
        assert made.default([capability]).path
    assert len(made._known) == 2
