from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.errors import FailedPrecondition, HostFault
from runtime.linux import libseccomp
from runtime.linux.libseccomp import ACT_ALLOW, act_errno
from runtime.seccomp import cache
from runtime.seccomp.compile import Compiled
from runtime.seccomp.profile import Rule, Rules
from runtime.spec import Seccomp

RULES = Rules(act_errno(1), ("x86_64",), (Rule(("read", "no_such_call"), ACT_ALLOW),))
PROFILE: Seccomp = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "architectures": ["SCMP_ARCH_X86_64"],
    "flags": [],
    "syscalls": [{"names": ["bpf"], "action": "SCMP_ACT_ERRNO"}],
}


def test_a_nodes_profile_is_compiled_once_and_known_by_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = cache.ensure_profile(str(tmp_path), PROFILE)
    assert Path(first.path).name == f"{cache.key_of_profile(PROFILE, libseccomp.version())}.bpf"
    monkeypatch.setattr(cache, "compile_profile", None)
    assert cache.ensure_profile(str(tmp_path), {**PROFILE}) == cache.Cached(first.path)
    keys = {
        cache.key_of_profile(PROFILE, (2, 5, 4)),
        cache.key_of_profile(PROFILE, (2, 6, 0)),
        cache.key_of_profile({**PROFILE, "defaultErrnoRet": 1}, (2, 5, 4)),
        cache.key_of_profile({**PROFILE, "architectures": ["SCMP_ARCH_X86"]}, (2, 5, 4)),
        cache.key_of_profile({**PROFILE, "syscalls": []}, (2, 5, 4)),
    }
    assert len(keys) == 5


def test_the_oldest_programs_give_way_to_new_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_MAX_FILES", 3)
    (tmp_path / "other").touch()
    made = []
    for number in range(5):
        made.append(cache.ensure(str(tmp_path), replace(RULES, default=act_errno(number))).path)
        os.utime(made[-1], (number, number))
    assert sorted(map(str, tmp_path.glob("*.bpf"))) == sorted(made[-3:])
    assert (tmp_path / "other").exists()


def test_a_program_is_compiled_once_and_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cache/seccomp"
    first = cache.ensure(str(folder), RULES)
    program = Path(first.path)
    assert len(first.notes) == 1 and "no_such_call" in first.notes[0]
    assert program.stat().st_size % 8 == 0
    assert program.stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o077 == 0
    assert os.listdir(folder) == [program.name]
    monkeypatch.setattr(cache, "compile_profile", None)
    assert cache.ensure(str(folder), RULES) == cache.Cached(first.path)


def test_the_key_covers_everything_that_decides_the_program() -> None:
    keys = {
        cache.key(RULES, (2, 5, 4)),
        cache.key(RULES, (2, 6, 0)),
        cache.key(replace(RULES, newest=469), (2, 5, 4)),
        cache.key(replace(RULES, arches=("aarch64",)), (2, 5, 4)),
        cache.key(replace(RULES, default=act_errno(38)), (2, 5, 4)),
        cache.key(replace(RULES, rules=()), (2, 5, 4)),
    }
    assert len(keys) == 6


@pytest.mark.parametrize("damage", ["torn", "empty", "readable", "link", "long"])
def test_what_is_not_a_whole_private_program_is_written_anew(tmp_path: Path, damage: str) -> None:
    path = Path(cache.ensure(str(tmp_path), RULES).path)
    whole = path.read_bytes()
    target = tmp_path / "elsewhere"
    if damage == "torn":
        path.write_bytes(whole[:-3])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "long":
        path.write_bytes(bytes(8 * 4097))
    elif damage == "readable":
        path.chmod(0o644)
    else:
        target.write_bytes(whole)
        target.chmod(0o600)
        path.unlink()
        path.symlink_to(target)
    assert cache.ensure(str(tmp_path), RULES).path == str(path)
    assert path.read_bytes() == whole
    assert not path.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_program_too_long_for_the_kernel_is_never_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for size in (0, 8 * 4097):
        monkeypatch.setattr(cache, "compile_profile", lambda rules, size=size: Compiled(bytes(size), ()))
        with pytest.raises(FailedPrecondition, match="instructions, and the kernel takes 4096"):
            cache.ensure(str(tmp_path), RULES)
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HostFault, match="cache the seccomp program"):
        cache.ensure(str(tmp_path / "file/x"), RULES)


def test_a_failed_write_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(5, "no")

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(HostFault):
        cache.ensure(str(tmp_path), RULES)
    assert os.listdir(tmp_path) == []
