"""Which sysctls a pod gets."""

from __future__ import annotations

import pytest

from cri.plan.sysctls import plan_sysctls, sysctl_name, sysctl_namespace


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("net.core.x", "net.core.x"),
        ("net/core/x", "net.core.x"),
        ("net/ipv4/conf/eth0.100/rp_filter", "net.ipv4.conf.eth0/100.rp_filter"),
        ("net.ipv4.conf.eth0/100.rp_filter", "net.ipv4.conf.eth0/100.rp_filter"),
    ],
)
def test_both_spellings_become_the_dotted_one(given: str, name: str) -> None:
    assert sysctl_name(given) == name


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("net.core.x", "network"),
        ("kernel.sem", "ipc"),
        ("fs.mqueue.msg_max", "ipc"),
        ("kernel.domainname", "uts"),
        ("kernel.hostname", None),
        ("kernel.shm", None),
        ("vm.swappiness", None),
    ],
)
def test_a_name_belongs_to_one_namespace(name: str, kind: str | None) -> None:
    assert sysctl_namespace(name) == kind


def test_the_request_wins_over_the_defaults() -> None:
    asked = {"net/ipv4/ip_unprivileged_port_start": "1024", "kernel.sem": "1 2 3 4"}
    assert plan_sysctls(asked, own_network=True) == {
        "net.ipv4.ip_unprivileged_port_start": "1024",
        "net.ipv4.ping_group_range": "0 2147483647",
        "kernel.sem": "1 2 3 4",
    }
    assert plan_sysctls({}, own_network=False) == {}
