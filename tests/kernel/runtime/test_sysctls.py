"""Sysctls are written in the pod's namespaces, and never in the host's."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TypeVar

import pytest

from runtime import sysctls
from runtime.errors import FailedPrecondition, HostFault, InvalidArgument
from runtime.linux import mount, namespaces
from runtime.linux.script import Script
from tests.kernel.runtime.forked import in_child
from tests.kernel.runtime.launched import carried_out, needs_launch

pytestmark = needs_launch

T = TypeVar("T")

HOST = {"net/ipv4/ip_forward", "kernel/shmmax", "kernel/domainname"}


def inside(work: Callable[[], T], flags: int = namespaces.CLONE_NEWNET | namespaces.CLONE_NEWIPC) -> T:
    def entered() -> T:
        namespaces.unshare(flags)
        return work()

    return in_child(entered)


def write(wanted: Mapping[str, str], kinds: Collection[str]) -> None:
    """Write sysctls in the caller's namespaces."""
    carried_out(lambda script: sysctls.write_sysctls(script, wanted, kinds))


def value(path: str) -> str:
    return Path("/proc/sys", path).read_text().strip()


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
        ("net/ipv4/ip_forward", "net/ipv4/ip_forward"),
        ("net.ipv4.conf.eth0/1.forwarding", "net/ipv4/conf/eth0.1/forwarding"),
        ("net/ipv4/conf/eth0.1/forwarding", "net/ipv4/conf/eth0.1/forwarding"),
        ("kernel.shm_rmid_forced", "kernel/shm_rmid_forced"),
    ],
)
def test_a_key_names_its_path(key: str, path: str) -> None:
    assert sysctls.sysctl_path(key) == path


@pytest.mark.parametrize(
    "key", ["", "net", "net..x", ".net.x", "net.x.", "net/../x", "net.ipv4.x=1", "net.x\n", "nеt.x"]
)
def test_what_is_no_name_is_refused(key: str) -> None:
    with pytest.raises(InvalidArgument, match="not a sysctl name"):
        sysctls.sysctl_path(key)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("net/core/somaxconn", "network"),
        ("kernel/shmmax", "ipc"),
        ("fs/mqueue/msg_max", "ipc"),
        ("kernel/domainname", "uts"),
        ("kernel/core_pattern", None),
        ("vm/swappiness", None),
        ("fs/file-max", None),
    ],
)
def test_a_sysctl_belongs_to_a_namespace_or_to_the_host(path: str, kind: str | None) -> None:
    assert sysctls.namespace_of(path) == kind


def test_values_are_written_inside_and_not_outside() -> None:
    before = {path: value(path) for path in HOST}

    def work() -> list[str]:
        write({"net.ipv4.ip_forward": "1", "kernel.shmmax": "54321"}, {"network", "ipc"})
        return [value("net/ipv4/ip_forward"), value("kernel/shmmax")]

    assert inside(work) == ["1", "54321"]
    assert {path: value(path) for path in HOST} == before


@pytest.mark.parametrize(
    "wanted", [{"net.ipv4.ip_forward": "1"}, {"kernel.core_pattern": "|/x"}, {"vm.swappiness": "1"}]
)
def test_what_is_not_the_pods_is_refused_before_anything_is_written(wanted: dict[str, str]) -> None:
    def work() -> str:
        try:
            write({"kernel.shmmax": "54321", **wanted}, {"ipc"})
        except InvalidArgument as error:
            return f"{error} {value('kernel/shmmax')}"
        return "written"

    said = inside(work)
    assert "not in a namespace of the pod" in said
    assert not said.endswith("54321")


@pytest.mark.parametrize("bad", ["1\n0", "1\n", "1\0"])
def test_a_value_with_a_line_break_is_refused(bad: str) -> None:
    with pytest.raises(InvalidArgument, match="line break"):
        sysctls.write_sysctls(Script(), {"net.ipv4.ip_forward": bad}, {"network"})


def test_what_the_kernel_refuses_is_a_fault_with_the_name() -> None:
    with pytest.raises(InvalidArgument, match=r"set a sysctl: net/ipv4/ip_forward: write: invalid argument"):
        inside(lambda: write({"net.ipv4.ip_forward": "many"}, {"network"}))
    with pytest.raises(FailedPrecondition, match=r"net/ipv4/absent: openat2: no such file"):
        inside(lambda: write({"net.ipv4.absent": "1"}, {"network"}))


def test_what_cannot_be_written_for_another_reason_is_a_fault_of_the_host() -> None:
    with pytest.raises(HostFault, match=r"set a sysctl: net/ipv4/conf/all: openat2: is a directory \(EISDIR\)"):
        inside(lambda: write({"net.ipv4.conf.all": "1"}, {"network"}))


def test_a_value_is_written_as_it_is_and_the_last_of_many_too() -> None:
    def work() -> list[str]:
        write({"kernel.domainname": "ä b" + "c" * 40, "net.ipv4.tcp_syncookies": "2"}, {"network", "uts"})
        return [value("kernel/domainname"), value("net/ipv4/tcp_syncookies")]

    assert inside(work, namespaces.CLONE_NEWNET | namespaces.CLONE_NEWUTS) == ["ä b" + "c" * 40, "2"]
    assert value("kernel/domainname") != "ä b" + "c" * 40


def test_a_procfs_that_is_none_is_not_written_to() -> None:
    def work() -> None:
        mount.mount("", "/", "", mount.MS_REC | mount.MS_PRIVATE)
        mount.mount("none", "/proc/sys", "tmpfs", 0)
        Path("/proc/sys/net/ipv4").mkdir(parents=True)
        Path("/proc/sys/net/ipv4/ip_forward").write_text("")
        write({"net.ipv4.ip_forward": "1"}, {"network"})

    with pytest.raises(HostFault, match="set a sysctl: /proc/sys: is not on procfs"):
        inside(work, namespaces.CLONE_NEWNS | namespaces.CLONE_NEWNET)


def test_a_write_that_is_led_elsewhere_by_a_false_procfs_is_refused(tmp_path: Path) -> None:
    """CVE-2025-52881: what covers /proc/sys leads a plain write to any file of the host."""
    victim = tmp_path / "victim"
    victim.write_text("of the host")

    def work() -> list[str]:
        mount.mount("", "/", "", mount.MS_REC | mount.MS_PRIVATE)
        mount.mount("none", "/proc/sys", "tmpfs", 0)
        Path("/proc/sys/net/ipv4").mkdir(parents=True)
        Path("/proc/sys/net/ipv4/ip_forward").symlink_to(victim)
        try:
            write({"net.ipv4.ip_forward": "1"}, {"network"})
            said = "written"
        except HostFault as error:
            said = str(error)
        kept = victim.read_text()
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")  # the weak variant
        return [said, kept, victim.read_text()]

    said, kept, weak = inside(work, namespaces.CLONE_NEWNS | namespaces.CLONE_NEWNET)
    assert "is not on procfs" in said
    assert (kept, weak) == ("of the host", "1")


def test_nothing_to_write_touches_nothing() -> None:
    script, empty = Script(), Script()
    sysctls.write_sysctls(script, {}, {"network"})
    assert script.bytes() == empty.bytes()
