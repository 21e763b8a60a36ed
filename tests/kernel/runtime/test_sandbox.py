"""A pod's sandbox is made once, wholly or not at all, and its end is told."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import FailedPrecondition, Fault, InvalidArgument
from runtime.pause import PAUSE
from runtime.written import write_named
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


BLANK = {"namespaces": ["network", "ipc", "uts"]}


def waiting(pod: Driven) -> int:
    """The process of a blank pod."""
    (pid,) = pod.monitor.pod.children._children
    return pid


def test_a_blank_pod_gets_its_name_with_its_sandbox(pod: Driven) -> None:
    """Also where its own process has ended, or more is to be made."""
    _, descriptors = pod.ask("blank", BLANK)
    assert len(descriptors) == 4
    before = waiting(pod)
    assert pod.do("hello")["pause"] is None
    numbers = [os.fstat(descriptor).st_ino for descriptor in descriptors[:3]]
    sysctls = {"net.ipv4.ip_forward": "1"}
    pause, given, rest = made(pod, **BLANK, sysctls=sysctls, hostname="named")
    assert (given, rest) == ({}, [])  # there was nothing left to make
    for kind, number in zip(("net", "ipc", "uts"), numbers, strict=True):
        assert str(number) in os.readlink(f"/proc/{pause}/ns/{kind}")
    close(descriptors)
    pod.turn_until(lambda: before not in pod.monitor.pod.children._children)  # of no use any more
    assert (pod.do("hello")["pause"], pod.events) == (pause, [])


def test_the_process_of_a_blank_pod_becomes_its_pause(pod: Driven) -> None:
    with cgroups("becomes") as dirs:
        _, descriptors = pod.ask("blank", BLANK)
        close(descriptors)
        pause = pod.name({**SANDBOX, "cgroup": dirs})
        assert pod.do("hello")["pause"] == pause
        pod.turn_until(lambda: list(pod.monitor.pod.children._children) == [pause])  # what bore it has ended
        with pytest.raises(FailedPrecondition):
            made(pod)
        assert pause
        os.kill(pause, signal.SIGTERM)
        assert pod.event("pause_exit")["code"] == 0
        assert pod.do("hello")["pause"] is None


def test_a_pause_that_is_killed_right_after_its_birth_is_told_of(pod: Driven) -> None:
    with cgroups("killed") as dirs:
        _, descriptors = pod.ask("blank", BLANK)
        close(descriptors)
        assert pod.init is not None
        request: Any = {**SANDBOX, "cgroup": dirs}
        pod.init.wake(write_named(request, BLANK["namespaces"]), dirs)
        pid = asyncio.run(pod.init.wait_executed(10))
        assert pid
        os.kill(pid, signal.SIGKILL)  # the monitor has not turned since
        assert pod.event("pause_exit")["code"] == 137


def test_a_blank_pod_whose_process_is_killed_has_no_end_to_tell(pod: Driven) -> None:
    _, descriptors = pod.ask("blank", BLANK)
    os.kill(waiting(pod), signal.SIGKILL)
    pod.turn_until(lambda: not pod.monitor.pod.children)
    pause, given, rest = made(pod, **BLANK)
    assert (pod.do("hello")["pause"], given, rest, pod.events) == (pause, {}, [], [])
    close(descriptors)


def test_a_shutdown_ends_what_waits(pod: Driven) -> None:
    _, descriptors = pod.ask("blank", BLANK)
    pid = waiting(pod)
    close(descriptors)
    pod.do("shutdown")
    assert not os.path.exists(f"/proc/{pid}")


def test_a_blank_pod_ends_with_the_daemon(pod: Driven) -> None:
    _, descriptors = pod.ask("blank", BLANK)
    close(descriptors)
    pod.hang_up()
    until = time.monotonic() + 10
    while not pod.monitor.loop.stopped:
        assert time.monotonic() < until
        pod.monitor.loop.turn(0.05)
    while pod.monitor.pod.children:  # which a real monitor takes along
        assert time.monotonic() < until
        pod.monitor.loop.turn(0.05)


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
