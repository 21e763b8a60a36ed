"""Mounts that cannot be idmapped are named with their type, and nothing is changed by asking."""

from __future__ import annotations

import os
from pathlib import Path

from runtime import idmappable
from runtime.channel import close_all
from runtime.idmap import make_user_namespace
from runtime.linux import mount
from tests.kernel.runtime.launched import needs_launch
from tests.kernel.runtime.rootfs.mountns import in_mount_namespace

pytestmark = needs_launch


def test_the_mount_that_cannot_be_idmapped_is_named_with_its_type(tmp_path: Path) -> None:
    inner = tmp_path / "a b" / "proc"
    inner.mkdir(parents=True)
    user = make_user_namespace({"host": 1234, "size": 10})

    def work() -> list[str]:
        found = [idmappable.find_refusal(user, os.fspath(tmp_path))]
        mount.mount("tmpfs", os.fspath(tmp_path / "a b"), "tmpfs", 0, "size=64k")
        inner.mkdir()
        found.append(idmappable.find_refusal(user, os.fspath(tmp_path)))
        mount.mount("proc", os.fspath(inner), "proc", 0)
        return [*found, *(idmappable.find_refusal(user, os.fspath(path)) for path in (tmp_path, inner / "self"))]

    assert in_mount_namespace(work) == ["", "", f"{inner} is proc", f"{inner} is proc"]
    assert idmappable.find_refusal(user, "/proc/sys") == "/proc is proc"
    close_all([user])


def test_what_does_not_exist_would_be_made_on_the_mount_of_its_deepest_directory(tmp_path: Path) -> None:
    user = make_user_namespace({"host": 1234, "size": 10})
    assert idmappable.find_refusal(user, os.fspath(tmp_path / "not" / "yet")) == ""
    assert idmappable.find_refusal(user, "/proc/not/there") == "/proc is proc"
    close_all([user])


def test_a_worker_tells_of_each_path(tmp_path: Path) -> None:
    user = make_user_namespace({"host": 1234, "size": 10})
    before = Path("/proc/self/mountinfo").read_text()
    found = idmappable.find_refusals({"paths": [os.fspath(tmp_path), "/proc/sys"]}, [user])
    assert found == {"refused": ["", "/proc is proc"]}
    assert Path("/proc/self/mountinfo").read_text() == before
    close_all([user])
