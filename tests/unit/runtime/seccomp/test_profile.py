from __future__ import annotations

import pytest

from runtime.errors import FailedPrecondition
from runtime.linux.libseccomp import ACT_ALLOW, act_errno
from runtime.seccomp.profile import Arg, Rule, Rules, plan_profile

DEFAULT_CAPABILITIES = [
    f"CAP_{name}"
    for name in [
        "CHOWN",
        "DAC_OVERRIDE",
        "FSETID",
        "FOWNER",
        "MKNOD",
        "NET_RAW",
        "SETGID",
        "SETUID",
        "SETFCAP",
        "SETPCAP",
        "NET_BIND_SERVICE",
        "SYS_CHROOT",
        "KILL",
        "AUDIT_WRITE",
    ]
]


def allowed(rules: Rules) -> set[str]:
    """Names that are allowed whatever their arguments."""
    return {name for rule in rules.rules if rule.action == ACT_ALLOW and not rule.args for name in rule.names}


def test_the_default_container() -> None:
    rules = plan_profile(DEFAULT_CAPABILITIES, "x86_64", (6, 1))
    names = allowed(rules)
    assert {"read", "execve", "chroot", "ptrace", "arch_prctl", "seccomp", "fchmodat2", "lsm_get_self_attr"} <= names
    refused = {"mount", "unshare", "setns", "bpf", "syslog", "reboot", "open_by_handle_at", "clone", "clone3", "socket"}
    assert not refused & names
    assert rules.default == act_errno(1)
    assert rules.arches == ("x86_64", "x86", "x32")


@pytest.mark.parametrize(
    ("capability", "call"),
    [
        ("CAP_SYS_ADMIN", "mount"),
        ("CAP_SYS_ADMIN", "unshare"),
        ("CAP_SYS_ADMIN", "clone3"),
        ("CAP_SYS_BOOT", "reboot"),
        ("CAP_SYS_CHROOT", "chroot"),
        ("CAP_SYS_MODULE", "finit_module"),
        ("CAP_SYS_TIME", "clock_settime"),
        ("CAP_SYS_PTRACE", "kcmp"),
        ("CAP_BPF", "bpf"),
        ("CAP_PERFMON", "perf_event_open"),
        ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
        ("CAP_SYSLOG", "syslog"),
        ("CAP_SYS_NICE", "mbind"),
    ],
)
def test_a_capability_brings_its_calls(capability: str, call: str) -> None:
    assert call not in allowed(plan_profile([], "x86_64", (6, 1)))
    assert call in allowed(plan_profile([capability], "x86_64", (6, 1)))


def test_tracing_needs_a_kernel_that_filters_after_the_tracer() -> None:
    for call in ("ptrace", "process_vm_readv", "process_vm_writev"):
        assert call in allowed(plan_profile([], "x86_64", (4, 8)))
        assert call not in allowed(plan_profile([], "x86_64", (4, 7)))
        assert call in allowed(plan_profile(["CAP_SYS_PTRACE"], "x86_64", (4, 7)))


def test_clone_makes_no_namespaces_without_sys_admin() -> None:
    rules = plan_profile([], "x86_64", (6, 1)).rules
    assert Rule(("clone",), ACT_ALLOW, (Arg(0, "MASKED_EQ", 0x7E020000, 0),)) in rules
    assert Rule(("clone3",), act_errno(38)) in rules


def test_order_and_repetition_of_capabilities_do_not_matter() -> None:
    one = plan_profile(["CAP_BPF", "CAP_SYSLOG", "CAP_BPF"], "x86_64", (6, 1))
    assert plan_profile(["CAP_SYSLOG", "CAP_BPF"], "x86_64", (6, 1)) == one


def test_arm_has_its_own_calls_and_architectures() -> None:
    rules = plan_profile([], "aarch64", (6, 1))
    assert rules.arches == ("aarch64", "arm")
    assert "set_tls" in allowed(rules)
    assert "arch_prctl" not in allowed(rules)


def test_a_machine_without_a_profile_is_refused_not_left_open() -> None:
    with pytest.raises(FailedPrecondition, match="riscv64"):
        plan_profile([], "riscv64", (6, 1))
