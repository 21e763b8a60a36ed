"""The host's settings, in a network namespace that plays the host."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from network import sysctls
from network.sysctls import SysctlChange, dotted, enable_forwarding, plan_sysctls, read_sysctl, set_sysctl
from runtime.errors import HostFault


def _set(host: Any, **values: str) -> None:
    for name, value in values.items():
        assert host.run("sysctl", "-q", "-w", f"{name.replace('__', '.')}={value}").returncode == 0


def _get(host: Any, name: str) -> str:
    return str(host.run("sysctl", "-n", name).stdout.strip())


def test_a_change_is_told_once(host: Any) -> None:
    def thrice() -> list[SysctlChange | None]:
        return [set_sysctl("ipv4/ip_forward", value) for value in ("0", "1", "1")]

    first, second, third = host.do(thrice)
    assert second == SysctlChange("net.ipv4.ip_forward", "0", "1")
    assert third is None and (first is None or first.after == "0")


def test_a_setting_that_the_kernel_lacks_is_no_fault_and_one_that_refuses_is(host: Any) -> None:
    assert host.do(lambda: set_sysctl("ipv4/no_such_thing", "1")) is None
    with pytest.raises(HostFault) as caught:
        host.do(lambda: set_sysctl("ipv4/ip_forward", "many"))
    assert (caught.value.object, caught.value.errno) == ("/proc/sys/net/ipv4/ip_forward", errno.EINVAL)


def test_a_host_that_begins_to_forward_ipv6_goes_on_to_take_advertisements_where_it_did(host: Any) -> None:
    for name in ("up0", "up1.7", "up2"):
        host.ip("link", "add", name, "type", "bridge")
    assert host.run("sysctl", "-q", "-w", "net.ipv6.conf.up2.accept_ra=0").returncode == 0
    _set(host, net__ipv6__conf__all__forwarding="0", net__ipv4__ip_forward="1")
    changes = host.do(lambda: enable_forwarding({4, 6}, ["up0", "up1.7", "up2"]))
    assert changes == [
        SysctlChange("net.ipv6.conf.up0.accept_ra", "1", "2"),
        SysctlChange("net.ipv6.conf.up1/7.accept_ra", "1", "2"),
        SysctlChange("net.ipv6.conf.all.forwarding", "0", "1"),
    ]
    assert [_get(host, f"net.ipv6.conf.{name}.accept_ra") for name in ("up0", "up1/7", "up2")] == ["2", "2", "0"]
    assert host.do(lambda: enable_forwarding({4, 6}, ["up0"])) == []


def test_without_an_ipv6_subnet_ipv6_stays_as_it_is(host: Any) -> None:
    _set(host, net__ipv6__conf__all__forwarding="0", net__ipv4__ip_forward="0")
    assert host.do(lambda: enable_forwarding({4}, ["lo"])) == [SysctlChange("net.ipv4.ip_forward", "0", "1")]
    assert _get(host, "net.ipv6.conf.all.forwarding") == "0"


def test_a_kernel_without_ipv6_is_named(host: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysctls, "_SYSCTLS", tmp_path)
    with pytest.raises(HostFault, match=r"runs without IPv6; take the IPv6 subnet out of \[network\] subnets"):
        enable_forwarding({6}, [])


def test_what_pods_need_is_read_as_it_was_set(host: Any) -> None:
    needed = plan_sysctls({4, 6}, "lo", loopback=True)
    assert {dotted(name): value for name, value in needed.items()} == {
        "net.ipv4.ip_forward": "1",
        "net.ipv6.conf.all.forwarding": "1",
        "net.ipv4.conf.lo.route_localnet": "1",
    }
    assert plan_sysctls({4}, "crt0", loopback=False) == {"ipv4/ip_forward": "1", "ipv4/conf/crt0/route_localnet": "0"}
    for name, value in needed.items():
        host.do(lambda name=name, value=value: set_sysctl(name, value))
    assert {name: host.do(lambda name=name: read_sysctl(name)) for name in needed} == needed
    assert host.do(lambda: read_sysctl("ipv4/no_such_thing")) == ""
