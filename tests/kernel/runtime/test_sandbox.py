"""A pod's sandbox is made once, wholly or not at all, and its end is told."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import FailedPrecondition, Fault, InvalidArgument
from runtime.pause import PAUSE
from tests.descriptors import open_descriptors
from tests.kernel.runtime.driven import SANDBOX, Driven, cgroups

pytestmark = pytest.mark.skipif(not os.path.exists(PAUSE), reason="needs runtime/pause: run `make install`")

LINKS = {"network": "net", "ipc": "ipc", "uts": "uts", "pid": "pid"}


def made(pod: Driven, **changes: Any) -> tuple[int, dict[str, int], list[int]]:
    """``(pause pid, descriptors by kind, the others)`` of a new sandbox."""
    request = {**SANDBOX, **changes}
    result, descriptors = pod.ask("sandbox", request)
    kinds = request["namespaces"]
    return result["pause_pid"], dict(zip(kinds, descriptors, strict=False)), descriptors[len(kinds) :]


def close(*groups: Any) -> None:
    for group in groups:
        for descriptor in group:
            os.close(descriptor)


def test_pause_is_in_each_namespace_whose_descriptor_is_given(pod: Driven) -> None:
    pause, given, rest = made(pod, namespaces=["uts", "pid", "network", "ipc"])
    for kind, descriptor in given.items():
        name = os.readlink(f"/proc/{pause}/ns/{LINKS[kind]}")
        assert str(os.fstat(descriptor).st_ino) in name
        assert name != os.readlink(f"/proc/self/ns/{LINKS[kind]}")
    (netlink,) = rest
    with socket.socket(fileno=netlink) as sock:
        assert sock.family == socket.AF_NETLINK
    close(given.values())
    assert pod.do("hello")["pause"] == pause


@pytest.mark.parametrize("kinds", [["user", "network", "uts"], ["user", "pid", "ipc"]])
def test_pause_is_in_the_pods_user_namespace_and_the_first_of_its_pids(pod: Driven, kinds: list[str]) -> None:
    pause, given, rest = made(pod, namespaces=kinds, ids={"host": 400_000, "size": 66_000})
    names = {**LINKS, "user": "user"}
    for kind, descriptor in given.items():
        assert str(os.fstat(descriptor).st_ino) in os.readlink(f"/proc/{pause}/ns/{names[kind]}")
    status = Path(f"/proc/{pause}/status").read_text()
    assert f"Uid:\t{400_000 + SANDBOX['user']['uid']}\t" in status
    assert status.split("NSpid:")[1].split("\n")[0].split() == ([str(pause), "1"] if "pid" in kinds else [str(pause)])
    assert pod.do("hello")["pause"] == pause
    close(given.values(), rest)
    os.kill(pause, signal.SIGTERM)
    assert pod.event("pause_exit")["code"] == 0


def test_without_namespaces_of_its_own_a_pod_has_a_pause_alone(pod: Driven) -> None:
    pause, given, rest = made(pod, namespaces=[])
    assert (given, rest) == ({}, [])
    for kind in LINKS.values():
        assert os.readlink(f"/proc/{pause}/ns/{kind}") == os.readlink(f"/proc/self/ns/{kind}")


def test_the_monitor_stays_in_the_hosts_namespaces(pod: Driven) -> None:
    before = [os.readlink(f"/proc/self/ns/{kind}") for kind in (*LINKS.values(), "pid_for_children", "mnt")]
    _, given, rest = made(pod, namespaces=["network", "ipc", "uts", "pid"])
    close(given.values(), rest)
    assert [os.readlink(f"/proc/self/ns/{kind}") for kind in (*LINKS.values(), "pid_for_children", "mnt")] == before


def test_it_is_made_once(pod: Driven) -> None:
    _, given, rest = made(pod)
    close(given.values(), rest)
    with pytest.raises(FailedPrecondition):
        pod.ask("sandbox", SANDBOX)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"sysctls": {"vm.swappiness": "1"}}, InvalidArgument),
        ({"seccomp": "/absent.bpf"}, Fault),
        ({"cgroup": {"v1": ["/sys/fs/cgroup/freezer/crisp-test-absent"], "v2": None}}, Fault),
        ({"namespaces": ["nonsense"]}, Fault),
    ],
)
def test_one_that_fails_leaves_nothing_and_can_be_made_again(
    pod: Driven, changes: dict[str, Any], fault: type[Exception]
) -> None:
    before = len(open_descriptors())
    with pytest.raises(fault):
        pod.ask("sandbox", {**SANDBOX, **changes})
    assert len(open_descriptors()) == before
    assert pod.do("hello")["pause"] is None
    assert pod.events == []
    _, given, rest = made(pod)
    close(given.values(), rest)


def test_a_missing_cgroup_forks_nobody(pod: Driven) -> None:
    with pytest.raises(Fault):
        pod.ask("sandbox", {**SANDBOX, "cgroup": {"v1": [], "v2": "/sys/fs/cgroup/unified/crisp-test-absent"}})
    assert len(pod.monitor.pod.children) == 0


def test_the_end_of_pause_is_told(pod: Driven) -> None:
    pause, given, rest = made(pod)
    close(given.values(), rest)
    os.kill(pause, signal.SIGTERM)
    assert pod.event("pause_exit")["code"] == 0
    assert pod.do("hello")["pause"] is None
    with pytest.raises(FailedPrecondition):
        pod.ask("sandbox", SANDBOX)


def test_the_namespaces_outlive_pause_for_as_long_as_the_monitor_holds_them(pod: Driven) -> None:
    pause, given, rest = made(pod)
    close(given.values(), rest)
    os.kill(pause, signal.SIGKILL)
    pod.event("pause_exit")
    held = pod.monitor.pod.namespaces["network"]
    assert os.fstat(held).st_ino


def test_killing_it_kills_by_cgroup(pod: Driven) -> None:
    with cgroups("sandbox") as dirs:
        _, given, rest = made(pod, cgroup=dirs)
        close(given.values(), rest)
        pod.monitor.sandbox.kill()
        assert pod.event("pause_exit")["code"] == 137
        pod.monitor.sandbox.kill()  # nobody there any more


def test_a_blank_pod_gets_its_name_with_its_sandbox(pod: Driven) -> None:
    _, descriptors = pod.ask("blank", {"namespaces": ["network", "ipc", "uts"]})
    assert len(descriptors) == 4
    assert pod.do("hello")["pause"] is None
    numbers = [os.fstat(descriptor).st_ino for descriptor in descriptors[:3]]
    sysctls = {"net.ipv4.ip_forward": "1"}
    pause, given, rest = made(pod, namespaces=["network", "ipc", "uts"], sysctls=sysctls, hostname="named")
    assert (given, rest) == ({}, [])  # there was nothing left to make
    for kind, number in zip(("net", "ipc", "uts"), numbers, strict=True):
        assert str(number) in os.readlink(f"/proc/{pause}/ns/{kind}")
    close(descriptors)


def test_a_pod_is_blank_once(pod: Driven) -> None:
    _, descriptors = pod.ask("blank", {"namespaces": ["uts"]})
    close(descriptors)
    with pytest.raises(FailedPrecondition):
        pod.ask("blank", {"namespaces": ["uts"]})


def test_a_blank_that_fails_can_be_made_again(pod: Driven) -> None:
    with pytest.raises(Fault, match="nonsense"):
        pod.ask("blank", {"namespaces": ["nonsense"]})
    _, descriptors = pod.ask("blank", {"namespaces": ["uts"]})
    close(descriptors)
