"""The probes of a real host: what they find is what can be seen otherwise, and nothing stays."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
from pathlib import Path

import pytest

from cri import probes
from network import netlink, traffic_control
from runtime.cgroups.layout import Hierarchy, Kind, Layout
from runtime.errors import HostFault
from runtime.linux import libseccomp, namespaces
from runtime.linux.libc import SyscallError
from tests.rates import LACKING


def test_a_host_on_which_the_tests_run_can_do_what_pods_need(tmp_path: Path) -> None:
    found = probes.probe_host(str(tmp_path / "not" / "there" / "yet"))
    assert found.uid == 0
    assert found.namespaces == dict.fromkeys(probes.NAMESPACES, "")
    assert (found.overlay, found.volatile, found.xattr) == ("", "", "")
    assert (found.openat2, found.bridge, found.veth) == ("", "", "")
    assert (found.user_namespaces, found.filesystem) == ("", str(tmp_path))
    assert found.cgroups is not None
    assert "CAP_SYS_ADMIN" in found.capabilities
    assert list(tmp_path.iterdir()) == []


def test_masquerade_can_be_set_up_in_a_namespace_of_its_own() -> None:
    if not os.path.exists("/usr/sbin/nft"):
        pytest.skip("no nft command")
    assert probes.in_thread(probes.probe_nft, namespaces.CLONE_NEWNET) == ""


def test_chains_of_others_that_drop_what_is_forwarded_are_found() -> None:
    wall = "table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; }; }"

    def look() -> str:
        before = probes.probe_walls("crisp0")
        subprocess.run(["nft", wall], check=True)
        return f"{before}|{probes.probe_walls('crisp0')}"

    assert probes.in_thread(look, namespaces.CLONE_NEWNET) == "|ip filter FORWARD"


def test_forwarding_that_cannot_be_turned_on_is_said() -> None:
    assert probes.probe_forwarding("ipv4/ip_forward") == ""
    assert "is not there and cannot be written" in probes.probe_forwarding("ipv9/forwarding")


def test_links_of_the_probe_are_not_the_hosts() -> None:
    assert probes.in_thread(probes.probe_links, namespaces.CLONE_NEWNET) == "\n"
    assert not [name for _, name in socket.if_nameindex() if name.startswith("crispcheck")]


def test_what_bandwidth_limits_lack_is_named_and_nothing_of_the_probe_is_the_hosts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if LACKING:
        pytest.skip(LACKING)
    assert probes.in_thread(probes.probe_bandwidth, namespaces.CLONE_NEWNET) == ""
    assert not [name for _, name in socket.if_nameindex() if name.endswith("crispcheck")]
    misspelt = lambda kind, value: netlink.text(kind, value.replace("tbf", "crispnone"))  # noqa: E731
    monkeypatch.setattr(traffic_control, "text", misspelt)
    assert "has no sch_tbf" in probes.in_thread(probes.probe_bandwidth, namespaces.CLONE_NEWNET)


def test_a_missing_nft_is_said_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "NFT_PATH", "/nowhere")
    assert "install the package nftables" in probes.probe_nft()


def test_what_nft_refuses_is_said_in_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    if not os.path.exists("/usr/sbin/nft"):
        pytest.skip("no nft command")
    monkeypatch.setattr(probes, "NFT_RULES", "no such statement")
    assert "syntax error" in probes.in_thread(probes.probe_nft, namespaces.CLONE_NEWNET)


def test_an_nft_that_cannot_be_executed_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "nft").write_text("")
    (tmp_path / "nft").chmod(0o755)
    monkeypatch.setattr(probes, "NFT_PATH", str(tmp_path))
    assert "exec format error" in probes.probe_nft()


def test_an_overlay_that_is_refused_is_an_outcome(tmp_path: Path) -> None:
    said = probes.outcome(lambda: probes.mount_overlay(str(tmp_path), "odd", "no_such_option"))
    assert said == "fsconfig: invalid argument (EINVAL)"


def test_a_folder_that_cannot_be_written_is_all_three_outcomes() -> None:
    assert probes.probe_storage("/proc") == probes.probe_storage("/proc")
    assert all("/proc:" in said for said in probes.probe_storage("/proc"))


def test_an_outcome_names_call_and_errno() -> None:
    def refuse() -> None:
        raise SyscallError("unshare", errno.EPERM)

    def fault() -> None:
        raise HostFault("words", step="probe")

    assert probes.outcome(refuse) == "unshare: operation not permitted (EPERM)"
    assert probes.outcome(fault) == "probe: words"
    assert probes.outcome(lambda: None) == ""


def test_a_probe_that_breaks_is_not_a_success(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("threading.excepthook", lambda _: None)

    def broken() -> str:
        raise ValueError

    assert probes.in_thread(broken, 0) == "the probe ended unexpectedly"


def test_a_host_without_cgroups_or_libseccomp_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> None:
        raise HostFault("not mounted", step="read the cgroup layout")

    monkeypatch.setattr(probes, "detect", none)
    monkeypatch.setattr(libseccomp, "version", none)
    assert probes.read_layout() == (None, "read the cgroup layout: not mounted")
    assert probes.read_libseccomp() == ""


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"cgroup.type": "domain", "cgroup.procs": "1", "cgroup.subtree_control": "cpu"}, "cannot hand down memory"),
        ({"cgroup.type": "domain", "cgroup.procs": "1", "cgroup.subtree_control": "cpu memory"}, ""),
        ({"cgroup.type": "domain", "cgroup.procs": "", "cgroup.subtree_control": ""}, ""),
        ({"cgroup.procs": "1", "cgroup.subtree_control": ""}, ""),  # a real root
    ],
)
def test_a_containers_own_root_cgroup_hands_nothing_down(files: dict[str, str], said: str, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    layout = Layout(Kind.V2, (), str(tmp_path), frozenset({"cpu", "memory"}), "/", True, frozenset())
    found = probes.probe_delegation(layout)
    assert found.endswith(said)
    assert bool(found) == bool(said)


def test_cgroups_that_cannot_be_written_are_said() -> None:
    layout = Layout(Kind.V1, (Hierarchy("/nowhere", ("pids",), "/"),), None, frozenset(), "", False, frozenset())
    assert probes.probe_delegation(layout) == "/nowhere cannot be written"


def test_forwarding_that_can_be_turned_on_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    assert probes.probe_forwarding("ipv4/ip_forward") == ""
    monkeypatch.setattr(probes, "read", lambda _: "0")
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "is 0 and cannot be written" in probes.probe_forwarding("ipv4/ip_forward")
