"""What the host's properties mean for pods: ``crisp check`` as a pure function.

``cri.probes`` finds out, ``cri.cli.check`` prints.

Invariant: FATAL is said of exactly that without which no pod at all could run;
every other row says what crisp does instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from cri.probes import NAMESPACES, Probes

OLDEST_KERNEL = (5, 12)
"""mount_setattr(2), the newest call that no pod can do without."""

TESTED_KERNEL = (6, 1)
KILL_KERNEL = (5, 14)
TESTED_PYTHON = ((3, 11), (3, 13))
CONTROLLERS = ("cpu", "memory", "pids", "cpuset", "hugetlb")
NEEDED = ("CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_SETUID", "CAP_SETGID", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_MKNOD")


class Level(StrEnum):
    """OK. FALLBACK: another way is taken. MISSING: what needs it is refused. FATAL: no pod."""

    OK = "ok"
    FALLBACK = "falls back"
    MISSING = "missing"
    FATAL = "no pod"


@dataclass(frozen=True, slots=True)
class Row:
    """``found`` is what is there, ``means`` what follows from it ("" when all is well)."""

    subject: str
    level: Level
    found: str
    means: str = ""


def judge(probes: Probes) -> list[Row]:
    """A row a subject, in the order in which a pod needs them."""
    return [row for check in CHECKS for row in check(probes)]


def can_run(rows: Iterable[Row]) -> bool:
    return all(row.level is not Level.FATAL for row in rows)


def version_of(release: str) -> tuple[int, int]:
    """The first two numbers of a kernel release; (0, 0) for what has none."""
    found = re.match(r"(\d+)\.(\d+)", release)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def either(subject: str, refused: str, level: Level, means: str, fine: str = "works") -> Row:
    """OK with ``fine`` when nothing was refused, else ``level`` with the reason."""
    return Row(subject, level, refused, means) if refused else Row(subject, Level.OK, fine)


def check_process(probes: Probes) -> Iterator[Row]:
    if probes.uid != 0:
        yield Row("root", Level.FATAL, f"uid {probes.uid}", "run as root")
    lacking = [name for name in NEEDED if name not in probes.capabilities]
    found = f"{len(probes.capabilities)} held"
    yield either("capabilities", ", ".join(lacking) and f"lacks {', '.join(lacking)}", Level.FATAL, "", found)
    if "CAP_SYS_RESOURCE" not in probes.capabilities:
        means = "rlimits stay as they are and a lower oom_score_adj is clamped, with a note"
        yield Row("CAP_SYS_RESOURCE", Level.FALLBACK, "not held", means)


def check_versions(probes: Probes) -> Iterator[Row]:
    version = version_of(probes.kernel)
    if version < OLDEST_KERNEL:
        yield Row("kernel", Level.FATAL, probes.kernel, "5.12 is the oldest that has the calls")
    elif version < TESTED_KERNEL:
        yield Row("kernel", Level.FALLBACK, probes.kernel, "untested; 6.1 and newer are tested")
    else:
        yield Row("kernel", Level.OK, probes.kernel)
    yield either("openat2", probes.openat2, Level.FATAL, "paths in containers cannot be resolved safely")
    python = ".".join(map(str, probes.python))
    if TESTED_PYTHON[0] <= probes.python[:2] <= TESTED_PYTHON[1]:
        yield Row("python", Level.OK, python)
    else:
        yield Row("python", Level.FALLBACK, python, "untested; 3.11 to 3.13 are tested")


def check_namespaces(probes: Probes) -> Iterator[Row]:
    refused = {kind: why for kind, why in probes.namespaces.items() if why}
    for kind in sorted(refused.keys() - {"cgroup"}):
        yield Row(f"{kind} namespaces", Level.FATAL, refused[kind], "pods cannot be isolated")
    if "cgroup" in refused:
        yield Row("cgroup namespaces", Level.FALLBACK, refused["cgroup"], "containers see the host's cgroup paths")
    if not refused:
        yield Row("namespaces", Level.OK, ", ".join(NAMESPACES))
    means, fine = "pods that ask for one are refused", f"work; roots on {probes.filesystem} are idmapped"
    yield either("user namespaces", probes.user_namespaces, Level.MISSING, means, fine)


def check_storage(probes: Probes) -> Iterator[Row]:
    where = f"works on {probes.filesystem}"
    yield either("overlayfs", probes.overlay, Level.FATAL, "containers have no root file system", where)
    if not probes.overlay:
        means = "unmounting syncs what a container wrote"
        yield either("overlayfs volatile", probes.volatile, Level.FALLBACK, means)
    yield either("trusted xattrs", probes.xattr, Level.MISSING, "images with opaque directories are refused")


def check_cgroups(probes: Probes) -> Iterator[Row]:
    layout = probes.cgroups
    if layout is None:
        yield Row("cgroups", Level.FATAL, probes.cgroup_error, "pods cannot be limited or killed as a whole")
        return
    lacking = [name for name in CONTROLLERS if layout.root(name) is None]
    found = f"{layout.kind.value}, " + ", ".join(name for name in CONTROLLERS if name not in lacking)
    yield Row("cgroups", Level.OK, found)
    means = "no pod has limits; docs/operating.md says what helps in a container"
    yield either("cgroup delegation", probes.delegation, Level.FATAL, means)
    means = '[cgroup] driver = "systemd" is refused at start; cgroupfs works'
    yield either("systemd cgroup driver", probes.systemd, Level.FALLBACK, means, "there; [cgroup] driver chooses it")
    for name in lacking:
        yield Row(f"{name} controller", Level.MISSING, "not offered", "requests that set it are refused")
    none = "no cgroup v2" if layout.v2 is None else ""
    yield either("start into a cgroup", none, Level.FALLBACK, "processes join by the tasks files", "clone3 into v2")
    kill = none or ("" if version_of(probes.kernel) >= KILL_KERNEL else f"kernel {probes.kernel}")
    yield either("cgroup.kill", kill, Level.FALLBACK, "freeze, kill, thaw", "there")
    swap = "" if layout.swap else "none on this host"
    yield either("swap", swap, Level.FALLBACK, "a swap limit is ignored, with a note", "there")
    pressure = "" if probes.pressure else "not there"
    yield either("pressure stall information", pressure, Level.MISSING, "statistics come without it", "there")


def check_security(probes: Probes) -> Iterator[Row]:
    if not probes.seccomp:
        yield Row("seccomp", Level.MISSING, "not in this kernel", "pods that ask for RuntimeDefault are refused")
    elif not probes.libseccomp:
        install = "pods that ask for RuntimeDefault are refused; install libseccomp2"
        yield Row("seccomp", Level.MISSING, "there is no libseccomp.so.2", install)
    else:
        yield Row("seccomp", Level.OK, f"libseccomp {probes.libseccomp}")
    yield check_apparmor(probes)
    if probes.selinux:
        means = "untested: processes and mounts get the labels that requests give, and no others"
        yield Row("SELinux", Level.FALLBACK, "enforcing", means)
    else:
        yield Row("SELinux", Level.OK, "not enforcing: labels in requests are accepted and not applied")


def check_apparmor(probes: Probes) -> Row:
    if not probes.apparmor:
        means = "RuntimeDefault is accepted and nothing applied; a profile by name is refused"
        return Row("AppArmor", Level.FALLBACK, "not on in this kernel", means)
    if not probes.apparmor_parser:
        means = "crisp-default cannot be loaded: who asks for it is refused, others run without; install apparmor"
        return Row("AppArmor", Level.MISSING, "there is no apparmor_parser", means)
    return either("AppArmor", probes.apparmor_list, Level.MISSING, "profiles by name are refused", "on")


def check_network(probes: Probes) -> Iterator[Row]:
    only = "only pods on the host's network can run"
    yield either("bridge", probes.bridge, Level.MISSING, only)
    yield either("veth", probes.veth, Level.MISSING, only)
    means = "pods with a bandwidth annotation are refused, unless CNI plugins see to it"
    yield either("bandwidth limits", probes.bandwidth, Level.MISSING, means)
    yield either("nftables", probes.nft, Level.MISSING, only)
    fine = "on, or turned on when needed"
    yield either("IPv4 forwarding", probes.forwarding, Level.MISSING, "pods reach this host only", fine)
    fine = "on, or turned on where pods have IPv6; the uplink's accept_ra is then 2"
    means = "pods with IPv6 reach this host only"
    yield either("IPv6 forwarding", probes.forwarding6, Level.MISSING, means, fine)
    walls = probes.walls and f"dropped by {probes.walls}"
    means = "pods reach this host only, unless a rule there names their bridge or [network] forward_rule is true"
    yield either("forwarding by other tables", walls, Level.FALLBACK, means, "nothing is dropped")


CHECKS: tuple[Callable[[Probes], Iterator[Row]], ...] = (
    check_process,
    check_versions,
    check_namespaces,
    check_storage,
    check_cgroups,
    check_security,
    check_network,
)
