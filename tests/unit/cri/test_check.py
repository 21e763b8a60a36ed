"""What the host's properties mean: exact rows for a good host, and one change at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cri.check import NEEDED, Level, Row, can_run, judge, version_of
from cri.probes import NAMESPACES, Probes
from runtime.cgroups.layout import Hierarchy, Kind, Layout

V2 = Layout(
    Kind.V2, (), "/sys/fs/cgroup", frozenset({"cpu", "memory", "pids", "cpuset", "hugetlb"}), "/", True, frozenset()
)
V1 = Layout(Kind.V1, (Hierarchy("/sys/fs/cgroup/pids", ("pids",), "/"),), None, frozenset(), "", False, frozenset())

GOOD = Probes(
    uid=0,
    kernel="6.12.1-amd64",
    machine="x86_64",
    python=(3, 11, 2),
    namespaces=dict.fromkeys(NAMESPACES, ""),
    user_namespaces="",
    filesystem="/var/lib",
    overlay="",
    volatile="",
    xattr="",
    cgroups=V2,
    cgroup_error="",
    delegation="",
    systemd="",
    capabilities=frozenset({*NEEDED, "CAP_SYS_RESOURCE"}),
    seccomp=True,
    libseccomp="2.5.4",
    openat2="",
    bridge="",
    veth="",
    bandwidth="",
    nft="",
    forwarding="",
    forwarding6="",
    walls="",
    apparmor=True,
    apparmor_parser="/sbin/apparmor_parser",
    apparmor_list="",
    selinux=False,
    pressure=True,
)


def row_of(subject: str, **changes: Any) -> Row:
    [found] = [row for row in judge(replace(GOOD, **changes)) if row.subject == subject]
    return found


def test_a_good_host_has_nothing_to_be_told() -> None:
    rows = judge(GOOD)
    assert {row.level for row in rows} == {Level.OK}
    assert not any(row.means for row in rows)
    assert len({row.subject for row in rows}) == len(rows)


@pytest.mark.parametrize(
    ("subject", "changes"),
    [
        ("root", {"uid": 1000}),
        ("capabilities", {"capabilities": frozenset({"CAP_CHOWN"})}),
        ("kernel", {"kernel": "5.10.0-30-amd64"}),
        ("openat2", {"openat2": "openat2: function not implemented (ENOSYS)"}),
        ("network namespaces", {"namespaces": {**GOOD.namespaces, "network": "unshare: refused (EPERM)"}}),
        ("overlayfs", {"overlay": "fsopen: no such device (ENODEV)"}),
        ("cgroups", {"cgroups": None, "cgroup_error": "not mounted"}),
        ("cgroup delegation", {"delegation": "/sys/fs/cgroup has processes of its own"}),
    ],
)
def test_without_it_no_pod_could_run(subject: str, changes: dict[str, Any]) -> None:
    assert row_of(subject, **changes).level is Level.FATAL
    assert not can_run(judge(replace(GOOD, **changes)))


@pytest.mark.parametrize(
    ("subject", "level", "changes"),
    [
        ("CAP_SYS_RESOURCE", Level.FALLBACK, {"capabilities": frozenset(NEEDED)}),
        ("kernel", Level.FALLBACK, {"kernel": "5.15.0"}),
        ("python", Level.FALLBACK, {"python": (3, 15, 0)}),
        ("cgroup namespaces", Level.FALLBACK, {"namespaces": {**GOOD.namespaces, "cgroup": "refused"}}),
        ("user namespaces", Level.MISSING, {"user_namespaces": "/x: is on a file system that cannot be idmapped"}),
        ("overlayfs volatile", Level.FALLBACK, {"volatile": "fsconfig: invalid argument (EINVAL)"}),
        ("trusted xattrs", Level.MISSING, {"xattr": "operation not supported (EOPNOTSUPP)"}),
        ("systemd cgroup driver", Level.FALLBACK, {"systemd": "systemd does not run this host"}),
        ("memory controller", Level.MISSING, {"cgroups": V1}),
        ("start into a cgroup", Level.FALLBACK, {"cgroups": V1}),
        ("cgroup.kill", Level.FALLBACK, {"kernel": "5.13.0"}),
        ("swap", Level.FALLBACK, {"cgroups": V1}),
        ("pressure stall information", Level.MISSING, {"pressure": False}),
        ("seccomp", Level.MISSING, {"seccomp": False}),
        ("seccomp", Level.MISSING, {"libseccomp": ""}),
        ("AppArmor", Level.FALLBACK, {"apparmor": False}),
        ("AppArmor", Level.MISSING, {"apparmor_parser": ""}),
        ("AppArmor", Level.MISSING, {"apparmor_list": "open: no such file or directory (ENOENT)"}),
        ("SELinux", Level.FALLBACK, {"selinux": True}),
        ("bridge", Level.MISSING, {"bridge": "operation not supported (EOPNOTSUPP)"}),
        ("veth", Level.MISSING, {"veth": "operation not supported (EOPNOTSUPP)"}),
        ("bandwidth limits", Level.MISSING, {"bandwidth": "this kernel has no ifb"}),
        ("nftables", Level.MISSING, {"nft": "there is no nft command"}),
        ("IPv4 forwarding", Level.MISSING, {"forwarding": "is 0 and cannot be written"}),
        ("IPv6 forwarding", Level.MISSING, {"forwarding6": "is not there and cannot be written"}),
        ("forwarding by other tables", Level.FALLBACK, {"walls": "ip filter FORWARD"}),
    ],
)
def test_without_it_pods_still_run(subject: str, level: Level, changes: dict[str, Any]) -> None:
    row = row_of(subject, **changes)
    assert row.level is level
    assert row.means
    assert can_run(judge(replace(GOOD, **changes)))


def test_an_overlay_that_does_not_mount_is_said_once() -> None:
    rows = judge(replace(GOOD, overlay="no", volatile="no"))
    assert [row.subject for row in rows if row.subject.startswith("overlayfs")] == ["overlayfs"]


@pytest.mark.parametrize(
    ("release", "version"), [("6.1.0-13-amd64", (6, 1)), ("6.18.44-fc", (6, 18)), ("5.15+", (5, 15)), ("odd", (0, 0))]
)
def test_the_version_of_a_release(release: str, version: tuple[int, int]) -> None:
    assert version_of(release) == version
