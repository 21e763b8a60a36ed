"""Facts about the host, as they are read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec
import pytest

from cri import facts
from cri.facts import cgroup2_options, devices_at, node_at, read_boot_id, read_device_facts, read_host_facts, read_text
from cri.plan.facts import HostDevice
from proto import api_pb2 as api
from runtime.cgroups.layout import Kind
from runtime.linux import mount
from tests.unit.cri.conftest import make_layout

NULL = HostDevice("/dev/null", "c", 1, 3, stat.S_IMODE(os.stat("/dev/null").st_mode), 0, 0)


def test_a_kernel_file_is_read_stripped_and_a_missing_one_is_empty(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b" 0-3\xff\n")
    assert read_text(os.fspath(tmp_path / "f")) == "0-3\ufffd"
    assert read_text(os.fspath(tmp_path / "missing")) == ""


def test_the_boot_id_is_the_kernels() -> None:
    assert read_boot_id() == Path("/proc/sys/kernel/random/boot_id").read_text().strip() != ""


def test_the_host_says_who_it_is_and_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    for has in (False, True):
        monkeypatch.setattr(mount, "has_mount_setattr", lambda has=has: has)
        assert read_host_facts(make_layout(Kind.V2)).recursive_read_only is has
    found = read_host_facts(make_layout(Kind.V2))
    assert found.hostname == os.uname().nodename
    assert found.cpus == read_text("/sys/devices/system/cpu/online")
    assert found.seccomp and all(name.startswith("CAP_") for name in found.bounding)


@pytest.mark.parametrize(
    ("mounts", "options"),
    [
        ("cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,nsdelegate,memory_recursiveprot 0 0", 2),
        ("none / ext4 rw,nsdelegate 0 0\ncgroup2 /c cgroup2 rw,nsdelegate 0 0", 1),
        ("cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\nx", 0),
    ],
)
def test_the_options_of_cgroup2_that_a_new_mount_repeats(mounts: str, options: int) -> None:
    assert cgroup2_options(mounts) == ("nsdelegate", "memory_recursiveprot")[:options]


def test_a_device_is_described_and_links_to_it_are_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/null")
    link = os.fspath(tmp_path / "link")
    assert node_at("/dev/null", follow=True) == NULL
    assert node_at(link, follow=True) == msgspec.structs.replace(NULL, path=link)
    assert node_at(link, follow=False) is None
    assert list(devices_at("/dev/null")) == [NULL]


def test_what_is_no_device_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "missing"):
        assert node_at(os.fspath(path), follow=True) is None and list(devices_at(os.fspath(path))) == []


def test_a_folder_gives_every_node_in_it_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    found = list(devices_at("/dev"))
    assert NULL in found and len(found) > 1
    monkeypatch.setattr(facts, "DEVICE_LIMIT", 1)
    assert list(devices_at("/dev")) == found[:1]


def test_a_privileged_container_gets_all_and_others_what_they_ask_for() -> None:
    config = api.ContainerConfig(devices=[api.Device(host_path="/dev/null", container_path="/dev/x")])
    found = read_device_facts(config)
    assert found.requested == {"/dev/null": (NULL,)} and found.all == ()
    config.linux.security_context.privileged = True
    assert NULL in read_device_facts(config).all
