"""The file of a seccomp profile: read once, or refused."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from google.protobuf import text_format

from cri.profile_files import localhost_path, read_file, read_profile
from cri.profiles import Profiles
from proto import api_pb2 as api
from runtime.errors import FailedPrecondition, Fault, HostFault, NotFound, ResourceExhausted
from runtime.seccomp.document import MAX_BYTES

PROFILE = '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["bpf"], "action": "SCMP_ACT_KILL"}]}'


def context(text: str) -> api.LinuxContainerSecurityContext:
    return text_format.Parse(text, api.LinuxContainerSecurityContext())


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("", ""),
        ("seccomp { profile_type: RuntimeDefault }", ""),
        ("seccomp { profile_type: Localhost localhost_ref: '/a' }", "/a"),
        ("seccomp { profile_type: Unconfined } seccomp_profile_path: 'localhost//a'", ""),
        ("seccomp_profile_path: 'localhost//a'", "/a"),
        ("seccomp_profile_path: 'runtime/default'", ""),
        ("privileged: true seccomp { profile_type: Localhost localhost_ref: '/a' }", ""),
    ],
)
def test_the_path_of_a_localhost_profile_is_found_in_both_fields(text: str, path: str) -> None:
    assert localhost_path(context(text)) == path


def test_a_request_without_one_reads_nothing(tmp_path: Path) -> None:
    assert asyncio.run(read_profile(context("seccomp {}"), Profiles(tmp_path), ())) is None
    assert os.listdir(tmp_path) == []


def test_what_was_read_is_what_is_applied(tmp_path: Path) -> None:
    file = tmp_path / "p.json"
    file.write_text(PROFILE)
    (tmp_path / "link.json").symlink_to(file)
    profiles = Profiles(tmp_path / "cache")
    asked = context(f"seccomp {{ profile_type: Localhost localhost_ref: '{tmp_path}/link.json' }}")
    profile = asyncio.run(read_profile(asked, profiles, ()))
    assert profile is not None and profile["syscalls"] == [{"names": ["bpf"], "action": "SCMP_ACT_KILL"}]
    file.write_text(PROFILE.replace("bpf", "read"))
    assert Path(str(profiles.localhost(profile).path)).exists()
    assert profile["syscalls"][0]["names"] == ["bpf"]


@pytest.mark.parametrize(
    ("kind", "fault", "words"),
    [
        ("missing", NotFound, r"p\.json: there is no such seccomp profile"),
        ("below a file", NotFound, "there is no such seccomp profile"),
        ("folder", FailedPrecondition, r"p\.json: is not a regular file"),
        ("fifo", FailedPrecondition, "is not a regular file"),
        ("device", FailedPrecondition, "is not a regular file"),
        ("loop", HostFault, "ELOOP|too many levels"),
        ("empty", FailedPrecondition, r"p\.json: is not valid"),
        ("malformed", FailedPrecondition, r"p\.json: is not valid"),
        ("large", ResourceExhausted, "is larger than 1048576 bytes"),
    ],
)
def test_what_is_wrong_with_the_file_is_an_error(tmp_path: Path, kind: str, fault: type[Fault], words: str) -> None:
    file = tmp_path / "p.json"
    made: dict[str, Callable[[], object]] = {
        "folder": file.mkdir,
        "fifo": lambda: os.mkfifo(file),
        "device": lambda: file.symlink_to("/dev/zero"),
        "loop": lambda: file.symlink_to("p.json"),
        "empty": file.touch,
        "malformed": lambda: file.write_text(PROFILE[:-1]),
        "large": lambda: file.write_text(PROFILE + " " * MAX_BYTES),
        "below a file": file.touch,
    }
    if kind in made:
        made[kind]()
    path = f"{file}/x" if kind == "below a file" else str(file)
    asked = context(f"seccomp {{ profile_type: Localhost localhost_ref: '{path}' }}")
    with pytest.raises(fault, match=words):
        asyncio.run(read_profile(asked, Profiles(tmp_path / "cache"), ()))
    assert not (tmp_path / "cache").exists()


def test_no_more_is_read_than_a_profile_can_have(tmp_path: Path) -> None:
    file = tmp_path / "p.json"
    with file.open("wb") as large:
        large.truncate(1 << 40)
    assert len(read_file(str(file))) == MAX_BYTES + 1
