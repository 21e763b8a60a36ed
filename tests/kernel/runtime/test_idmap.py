"""What can be idmapped is found out by doing it, and nothing is left of that."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runtime import idmap
from runtime.errors import HostFault
from runtime.linux import mount
from tests.kernel.runtime.launched import needs_launch
from tests.kernel.runtime.rootfs.mountns import in_mount_namespace

pytestmark = needs_launch


def test_a_user_namespace_is_made_with_its_mapping_and_nobody_in_it() -> None:
    user = idmap.make_user_namespace({"host": 1234, "size": 10})
    assert os.readlink(f"/proc/self/fd/{user}").startswith("user:[")
    assert os.readlink(f"/proc/self/fd/{user}") != os.readlink("/proc/self/ns/user")
    os.close(user)


def test_a_mapping_that_is_none_is_a_fault() -> None:
    with pytest.raises(HostFault, match="make a user namespace: uid_map"):
        idmap.make_user_namespace({"host": 1, "size": 0})


def test_a_host_on_whose_disk_a_root_can_be_idmapped_has_user_namespaces(tmp_path: Path) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    assert idmap.why_no_user_namespaces(os.fspath(tmp_path)) == ""
    assert os.listdir(tmp_path) == [] and Path("/proc/self/mountinfo").read_text() == before


def test_one_on_whose_it_cannot_is_told_why(tmp_path: Path) -> None:
    """An overlay, as in a container, cannot be idmapped, nor be the upper directory of another one."""
    for name in ("lower", "upper", "work", "root"):
        (tmp_path / name).mkdir()

    def work() -> str:
        options = f"lowerdir={tmp_path}/lower,upperdir={tmp_path}/upper,workdir={tmp_path}/work"
        mount.mount("overlay", os.fspath(tmp_path / "root"), "overlay", 0, options)
        return idmap.why_no_user_namespaces(os.fspath(tmp_path / "root"))

    said = in_mount_namespace(work)
    assert "mount an idmapped overlay" in said and "cannot be idmapped" in said
    assert idmap.why_no_user_namespaces("/nowhere") == "/nowhere: no such file or directory"
