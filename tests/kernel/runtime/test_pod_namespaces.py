"""A pod's namespaces are new, set up, and told by their descriptors."""

from __future__ import annotations

import fcntl
import os
import re
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

from runtime import pod_namespaces
from runtime.channel import close_all
from runtime.errors import FailedPrecondition, HostFault, InvalidArgument
from runtime.linux import namespaces
from runtime.linux.script import Script, Slot
from runtime.spec import IdMapping
from tests.kernel.runtime.forked import in_child
from tests.kernel.runtime.launched import carried_out, needs_launch
from tests.kernel.runtime.observed import stopped

pytestmark = needs_launch

T = TypeVar("T")

ALL = ["network", "ipc", "uts"]
LINKS = {"network": "net", "ipc": "ipc", "uts": "uts", "pid": "pid"}
NS_GET_USERNS = 0xB701


def link(kind: str, process: int | str = "self") -> str:
    return os.readlink(f"/proc/{process}/ns/{LINKS.get(kind, kind)}")


def inode(descriptor: int) -> str:
    return str(os.fstat(descriptor).st_ino)


def creating(kinds: Sequence[str], hostname: str = "", **sysctls: str) -> Callable[[Script], list[Slot]]:
    wanted = {key.replace("__", "."): value for key, value in sysctls.items()}
    return lambda script: pod_namespaces.create(script, kinds, hostname, wanted)


def inside(made: Sequence[int], kinds: Sequence[str], work: Callable[[], T]) -> T:
    """What ``work`` returns in the namespaces ``made``."""

    def entered() -> T:
        for fd, kind in zip(made, kinds, strict=False):
            namespaces.setns(fd, namespaces.FLAGS_BY_TYPE[kind])
        return work()

    return in_child(entered)


def test_they_are_new_and_come_in_the_order_that_was_asked_for() -> None:
    kinds = ["uts", "network", "ipc"]
    with stopped(creating(kinds, "h")) as (pid, made):
        found = [(link(kind, pid), inode(fd)) for kind, fd in zip(kinds, made, strict=False)]
        assert len(made) == 4  # and the routing socket
    for (name, number), kind in zip(found, kinds, strict=True):
        assert number in name
        assert name != link(kind)


def test_what_is_not_asked_for_stays_the_hosts() -> None:
    with stopped(creating(["ipc"], "h")) as (pid, made):
        assert len(made) == 1
        assert [link(kind, pid) == link(kind) for kind in LINKS] == [True, False, True, True]


def test_the_last_descriptor_is_a_routing_socket_inside_the_network() -> None:
    network, routing = carried_out(creating(["network"]))
    os.close(network)
    with socket.socket(fileno=routing) as netlink:
        assert (netlink.family, netlink.proto) == (socket.AF_NETLINK, 0)
        netlink.bind((0, 0))
        # RTM_GETLINK dump: the new network has the loopback alone.
        netlink.send(bytes.fromhex("14000000120001030100000000000000") + bytes(4))
        assert netlink.recv(65536).count(b"lo\0") == 1


def test_the_pid_namespace_is_the_one_of_birth() -> None:
    with stopped(creating(["pid"]), flags=namespaces.CLONE_NEWPID) as (pid, (made,)):
        assert inode(made) in link("pid", pid)
        assert link("pid", pid) != link("pid")
    (own,) = carried_out(creating(["pid"]))
    assert inode(own) in link("pid")
    os.close(own)


IDS: IdMapping = {"host": 300_000, "size": 65536}


def owned(kinds: Sequence[str], **sysctls: str) -> Callable[[Script], list[Slot]]:
    wanted = {key.replace("__", "."): value for key, value in sysctls.items()}
    return lambda script: pod_namespaces.create(script, kinds, "inner", wanted, IDS)


def test_with_a_user_namespace_all_others_belong_to_it() -> None:
    kinds = ["user", *ALL]
    with stopped(owned(kinds)) as (pid, made):
        user, *others = made[:-1]
        assert [str(os.fstat(fd).st_ino) in link(kind, pid) for fd, kind in zip(made[:-1], kinds, strict=True)] == [
            True
        ] * 4
        for fd in others:
            owner = fcntl.ioctl(fd, NS_GET_USERNS)
            assert os.fstat(owner).st_ino == os.fstat(user).st_ino
            os.close(owner)
        assert Path(f"/proc/{pid}/uid_map").read_text().split() == ["0", "300000", "65536"]


def test_the_sysctls_of_such_namespaces_are_set_though_their_root_may_not() -> None:
    """The range of groups has ids that the user namespace has not."""
    kinds = ["user", *ALL]
    wanted = {"net__ipv4__ping_group_range": "0 2147483647", "kernel__shm_rmid_forced": "1"}
    made = carried_out(owned(kinds, **wanted, net__ipv4__ip_forward="1"))

    def look() -> list[str]:
        names = ("net/ipv4/ping_group_range", "kernel/shm_rmid_forced", "net/ipv4/ip_forward", "kernel/hostname")
        return [Path("/proc/sys", name).read_text().strip() for name in names]

    assert inside(made[1:], ALL, look) == ["0\t2147483647", "1", "1", "inner"]
    close_all(made)


def test_a_sysctl_that_they_do_not_have_is_named() -> None:
    with pytest.raises(FailedPrecondition, match="net/nonesuch: openat2: no such file"):
        carried_out(owned(["user", *ALL], net__nonesuch="1"))


def test_a_user_namespace_needs_a_mapping() -> None:
    with pytest.raises(InvalidArgument, match="user: a user namespace needs a mapping"):
        creating(["user", "ipc"])(Script())


def test_hostname_and_sysctls_are_set_inside() -> None:
    host = socket.gethostname()
    made = carried_out(creating(ALL, "pod-one", net__ipv4__ip_forward="1"))
    seen = inside(made, ALL, lambda: (socket.gethostname(), Path("/proc/sys/net/ipv4/ip_forward").read_text().strip()))
    assert seen == ("pod-one", "1")
    assert socket.gethostname() == host
    close_all(made)


def test_the_hosts_name_is_never_set() -> None:
    host = socket.gethostname()
    made = carried_out(creating(["ipc"], "other"))
    assert socket.gethostname() == host
    assert inside(made, ["ipc"], socket.gethostname) == host
    close_all(made)


def test_a_name_that_the_kernel_does_not_take_is_named() -> None:
    with pytest.raises(HostFault, match=re.escape(f"{'x' * 65}: sethostname: ")):
        carried_out(creating(["uts"], "x" * 65))


def test_a_sysctl_of_the_host_is_refused_while_the_script_is_written() -> None:
    with pytest.raises(InvalidArgument, match="not in a namespace of the pod"):
        creating(["ipc"], net__ipv4__ip_forward="1")(Script())


@pytest.mark.parametrize("kind", ["nonsense", "mount", "cgroup", "", "x" * 1000])
def test_a_kind_that_a_pod_does_not_have_is_refused_while_the_script_is_written(kind: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^{kind[:100]}(: )?is no kind of namespace"):
        creating(["uts", kind])(Script())
    with pytest.raises(InvalidArgument, match="is no kind of namespace"):
        pod_namespaces.enter(Script([kind]), [kind], "", {})


def test_blank_ones_are_entered_and_set_up_by_another_process() -> None:
    kinds = ["network", "uts"]
    *made, routing = carried_out(creating(kinds))
    given = dict(zip(kinds, made, strict=True))

    def enter(script: Script) -> None:
        pod_namespaces.enter(script, kinds, "named", {"net.ipv4.ip_forward": "1"})

    with stopped(enter, given) as (pid, _):
        assert [inode(fd) in link(kind, pid) for kind, fd in given.items()] == [True, True]
        left = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        assert [path for path in left if path.startswith(("net:", "uts:"))] == []
    seen = inside(made, kinds, lambda: (socket.gethostname(), Path("/proc/sys/net/ipv4/ip_forward").read_text()))
    assert seen == ("named", "1\n")
    close_all([*made, routing])


def test_a_descriptor_of_another_kind_is_not_entered() -> None:
    with open("/proc/self/ns/ipc") as ipc, pytest.raises(HostFault, match=r"uts: setns: .*EINVAL"):
        carried_out(lambda script: pod_namespaces.enter(script, ["uts"], "x", {}), {"uts": ipc.fileno()})
