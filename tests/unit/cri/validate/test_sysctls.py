"""Sysctls of the pod's own namespaces only."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri.plan.sysctls import sysctl_name, sysctl_namespace
from cri.validate.sysctls import check_sysctls
from runtime.errors import InvalidArgument

NONE: frozenset[str] = frozenset()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("net.ipv4.ping_group_range", "0\t100"),
        ("net/ipv4/conf/eth0.100/rp_filter", "1"),
        ("kernel.shmmax", "68719476736"),
        ("kernel.sem", "250 32000 32 128"),
        ("fs.mqueue.msg_max", "10"),
        ("kernel.domainname", "example.org"),
    ],
)
def test_a_namespaced_sysctl_passes(name: str, value: str) -> None:
    check_sysctls({name: value}, NONE, "sysctls")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("kernel.hostname", "x", "does not belong to a namespace"),
        ("kernel.shm_evil/../core_pattern", "x", "is not the name"),
        ("net", "x", "is not the name"),
        ("net..x", "x", "is not the name"),
        ("net.ipv4.x\n", "x", "is not the name"),
        ("", "x", "is not the name"),
        ("n" * 257 + ".x", "x", "is not the name"),
        ("network.x", "1", "does not belong to a namespace"),
        ("fs/file-max", "1", "does not belong to a namespace"),
        ("net.core.x", "", "one line"),
        ("net.core.x", "1\n2", "one line"),
        ("net.core.x", "１", "one line"),
        ("net.core.x", "1" * 4097, "one line"),
    ],
)
def test_any_other_is_refused(name: str, value: str, words: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        check_sysctls({name: value}, NONE, "sysctls")
    assert words in str(raised.value)


@pytest.mark.parametrize(
    ("kind", "name"), [("network", "net/core/x"), ("ipc", "kernel.msgmax"), ("uts", "kernel.domainname")]
)
def test_one_of_a_shared_namespace_is_refused(kind: str, name: str) -> None:
    with pytest.raises(InvalidArgument, match=f"{kind} namespace, which is the node's"):
        check_sysctls({name: "1"}, frozenset({kind}), "sysctls")


def test_two_spellings_of_one_name_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="given twice"):
        check_sysctls({"net.core.x": "1", "net/core/x": "2"}, NONE, "sysctls")


@given(st.text(alphabet="net.kernel/fsmqu_-ABC019 \n", max_size=40))
def test_a_name_that_passes_belongs_to_a_namespace(name: str) -> None:
    try:
        check_sysctls({name: "1"}, NONE, "sysctls")
    except InvalidArgument:
        return
    assert sysctl_namespace(sysctl_name(name)) is not None
    assert ".." not in name and "//" not in name
