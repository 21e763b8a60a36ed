"""The text of ``crisp-default``: what is denied, by AppArmor's own patterns."""

from __future__ import annotations

import fnmatch
import re
import shutil
import subprocess

import pytest

from runtime.lsm.apparmor_profile import NAME, TEXT

DENIED = [re.match(r"  deny (/\S+) (\w+),", line) for line in TEXT.splitlines() if line.startswith("  deny /")]


def alternatives(pattern: str) -> list[str]:
    """The braces of a pattern, carried out."""
    found = re.search(r"\{([^{}]*)\}", pattern)
    if found is None:
        return [pattern]
    parts = (pattern[: found.start()] + choice + pattern[found.end() :] for choice in found[1].split(","))
    return [each for part in parts for each in alternatives(part)]


def as_expression(pattern: str) -> str:
    """``*`` stays within a folder, ``**`` does not, a set of characters never matches a slash."""
    pieces = re.split(r"(\*\*|\*|\[[^\]]*\])", pattern)
    made = {"**": ".*", "*": "[^/]*"}
    return "".join(
        made.get(piece) or (f"(?!/){piece}" if piece.startswith("[") else re.escape(piece)) for piece in pieces
    )


def denied(path: str, access: str = "w") -> bool:
    return any(
        access in rule[2] and re.fullmatch(as_expression(pattern), path)
        for rule in DENIED
        if rule is not None
        for pattern in alternatives(rule[1])
    )


@pytest.mark.parametrize(
    "path",
    [
        "/proc/sysrq-trigger",
        "/proc/kcore",
        "/proc/mtrr",
        "/proc/acpi/wakeup",
        "/proc/irq/1/smp_affinity",
        "/proc/bus/pci/00/00.0",
        "/proc/fs/nfsd/x",
        "/proc/scsi/scsi",
        "/proc/sysvipc/x",
        "/proc/sys/vm/swappiness",
        "/proc/sys/fs/binfmt_misc/register",
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/modprobe",
        "/proc/sys/kernel/sysrq",
        "/proc/sys/kernel/yama/ptrace_scope",
        "/proc/sys/kernel/seccomp/actions_logged",
        "/proc/sys/kernel/sched_rt_runtime_us",
        "/proc/sys/kernel/hotplug",
        "/proc/sys/dev/x",
        "/sys/kernel/uevent_helper",
        "/sys/kernel/debug/x",
        "/sys/firmware/efi/efivars/x",
        "/sys/power/state",
        "/sys/block/sda/queue/x",
        "/sys/fs/selinux/load",
        "/sys/fs/bpf/x",
        "/sys/module/x/parameters/y",
    ],
)
def test_what_the_kernel_as_a_whole_has_is_not_written(path: str) -> None:
    assert denied(path)


@pytest.mark.parametrize(
    "path",
    [
        "/proc/1/oom_score_adj",
        "/proc/12345/task/12345/attr/exec",
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/sys/kernel/shmmax",
        "/proc/sys/kernel/msgmax",
        "/proc/sys/kernel/sem",
        "/sys/fs/cgroup/x/cgroup.procs",
        "/tmp/proc/sys/vm/x",
        "/procs/a",
        "/system/x",
        "/etc/passwd",
        "/dev/null",
    ],
)
def test_what_is_the_containers_own_is(path: str) -> None:
    assert not denied(path)


def test_what_tells_of_the_kernels_memory_is_not_read() -> None:
    for path in ("/proc/kcore", "/sys/firmware/dmi/tables/DMI", "/sys/devices/virtual/powercap/x/energy_uj"):
        assert denied(path, "r")
    assert not denied("/proc/meminfo", "r") and not denied("/sys/class/net/eth0/mtu", "r")


def test_nothing_is_mounted_and_nobody_outside_is_touched() -> None:
    lines = [line.strip() for line in TEXT.splitlines()]
    assert {"deny mount,", "deny network alg,", "signal (receive) peer=unconfined,"} <= set(lines)
    assert all(f"peer={NAME}," in line for line in lines if line.startswith("ptrace"))
    assert not fnmatch.filter(lines, "*include*")


def test_the_parser_takes_it() -> None:
    parser = shutil.which("apparmor_parser", path="/usr/sbin:/sbin")
    if parser is None:
        pytest.skip("apparmor_parser is not installed")
    done = subprocess.run([parser, "--skip-kernel-load", "--skip-cache"], input=TEXT.encode(), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
