"""A user namespace has its mapping, its root, and processes that nobody inside can look at."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime import user_namespace
from runtime.channel import close_all
from runtime.errors import HostFault
from runtime.linux import namespaces
from runtime.linux.libc import AT_FDCWD
from runtime.linux.passing import hand_over
from runtime.linux.script import Script, Slot
from runtime.spec import IdMapping
from tests.kernel.runtime.forked import in_child
from tests.kernel.runtime.launched import carried_out, needs_launch
from tests.kernel.runtime.nursery import Nursery
from tests.kernel.runtime.observed import fields, printed, stopped

pytestmark = needs_launch

IDS: IdMapping = {"host": 200_000, "size": 70_000}
NS_GET_USERNS = 0xB701
ALL = f"{(1 << int(Path('/proc/sys/kernel/cap_last_cap').read_text()) + 1) - 1:016x}"


def nothing(script: Script, directory: Slot) -> None:
    """No work for the process outside."""


def create(script: Script, ids: IdMapping = IDS, work: Callable[[Script, Slot], None] = nothing) -> None:
    user_namespace.create(script, ids, work).finish()


def created(script: Script) -> Slot:
    create(script)
    return script.opened("openat", AT_FDCWD, "/proc/self/ns/user", os.O_RDONLY | os.O_CLOEXEC, 0)


def test_its_maker_is_its_root_with_every_capability_and_no_id_of_the_hosts() -> None:
    with stopped(create) as (pid, _):
        ids = [Path(f"/proc/{pid}/{name}").read_text().split() for name in ("uid_map", "gid_map")]
        assert ids == [["0", "200000", "70000"]] * 2
        assert fields(pid, "Uid", "Gid", "Groups") == [" ".join(["200000"] * 4)] * 2 + [""]
        assert fields(pid, "CapPrm", "CapEff", "CapBnd") == [ALL] * 3
        assert os.readlink(f"/proc/{pid}/ns/user") != os.readlink("/proc/self/ns/user")
        (children,) = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
        assert children == "", "the process outside has ended"


def test_nobody_inside_can_look_at_it() -> None:
    with stopped(create) as (pid, _), open(f"/proc/{pid}/ns/user") as user:

        def look() -> int | None:
            namespaces.setns(user.fileno(), namespaces.CLONE_NEWUSER)
            os.setgroups([])
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
            try:
                os.readlink(f"/proc/{pid}/exe")
            except PermissionError as error:
                return error.errno
            return 0

        assert in_child(look) == 13


def test_the_process_outside_works_as_the_hosts_root_and_finds_the_other_one(tmp_path: Path) -> None:
    def work(script: Script, directory: Slot) -> None:
        status = script.opened("openat", directory, "ns/uts", os.O_RDONLY, 0)
        script.call("setns", status, namespaces.CLONE_NEWUTS)
        script.call("sethostname", "from-outside", 12)
        script.call("mkdirat", AT_FDCWD, str(tmp_path / "made"), 0o700)

    def write(script: Script) -> None:
        outside = user_namespace.create(script, IDS, work)
        script.call("unshare", namespaces.CLONE_NEWUTS)
        outside.finish()
        name = "/proc/sys/kernel/hostname"
        script.call("execve", "/bin/cat", script.vector(["cat", name]), script.vector([]))

    assert printed(write) == ["from-outside"]
    assert (tmp_path / "made").stat().st_uid == 0


@pytest.mark.parametrize("ids", [{"host": 5, "size": 0}, {"host": 2**32 - 2, "size": 5}])
def test_a_mapping_that_the_kernel_refuses_is_the_reason(ids: IdMapping) -> None:
    with pytest.raises(HostFault, match="uid_map: write: invalid argument"):
        carried_out(lambda script: create(script, ids))


def test_what_fails_outside_is_the_reason() -> None:
    def work(script: Script, directory: Slot) -> None:
        script.call("openat", directory, "nowhere", os.O_RDONLY, 0, object="nowhere")

    with pytest.raises(HostFault, match="nowhere: openat: no such file"):
        carried_out(lambda script: create(script, work=work))


def test_one_without_its_other_half_gives_up() -> None:
    def work(script: Script, directory: Slot) -> None:
        script.call("exit_group", 9)

    with pytest.raises(HostFault, match="user namespace: could not be set up from outside"):
        carried_out(lambda script: create(script, work=work))


def test_another_process_enters_and_is_its_root() -> None:
    (user,) = carried_out(created)
    with stopped(lambda script: user_namespace.enter(script, script.given["user"]), {"user": user}) as (pid, _):
        assert str(os.fstat(user).st_ino) in os.readlink(f"/proc/{pid}/ns/user")
        assert fields(pid, "Uid", "CapEff") == [" ".join(["200000"] * 4), ALL]
        assert not [fd for fd in os.listdir(f"/proc/{pid}/fd") if "user:" in os.readlink(f"/proc/{pid}/fd/{fd}")]
    os.close(user)


def reborn(then: Callable[[Script], None]) -> Script:
    script = Script()
    create(script)
    user_namespace.be_reborn(script)
    then(script)
    return script


def hand_over_pid_namespace(script: Script) -> None:
    made = script.opened("openat", AT_FDCWD, "/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC, 0)
    hand_over(script, b"pid", [made])
    script.call("rt_sigprocmask", signal.SIG_SETMASK.value, bytes(8), None, 8)
    script.call("execve", "/bin/sleep", script.vector(["sleep", "100"]), script.vector([]))


def test_who_is_reborn_is_the_first_process_of_a_pid_namespace_that_belongs_to_the_user_namespace(
    nursery: Nursery,
) -> None:
    child = nursery.carry_out(reborn(hand_over_pid_namespace))
    before = child.pid
    nursery.wait("ready")
    assert child.pid != before and not os.path.exists(f"/proc/{before}")
    assert fields(child.pid, "NSpid", "PPid") == [f"{child.pid} 1", str(os.getpid())]
    assert fields(child.pid, "NSsid") == [f"{child.pid} 1"]
    (namespace,) = nursery.given
    owner = fcntl.ioctl(namespace, NS_GET_USERNS)
    assert str(os.fstat(owner).st_ino) in os.readlink(f"/proc/{child.pid}/ns/user")
    close_all([owner, namespace])
    child.signal(signal.SIGTERM)  # which the first process of a namespace does not hear
    child.signal(signal.SIGKILL)
    assert nursery.wait("ready", "exit", "last")[1] == -signal.SIGKILL


def test_what_fails_after_it_is_told_of_the_new_process(nursery: Nursery) -> None:
    nursery.carry_out(reborn(lambda script: script.call("chdir", "/nowhere")))
    (failed, _) = nursery.wait("failed", "last")
    assert (failed.errno, len(nursery.children)) == (2, 0)


def test_who_was_killed_in_its_first_life_has_no_second(nursery: Nursery) -> None:
    for turns in range(20):
        child = nursery.carry_out(reborn(hand_over_pid_namespace))
        for _ in range(turns // 5):
            nursery.loop.turn(0.001)
        child.signal(signal.SIGKILL)
        end = time.monotonic() + 30
        while ("last", None) not in nursery.told:
            assert time.monotonic() < end, nursery.told
            nursery.loop.turn(0.05)
        assert nursery.told[0][0] in ("failed", "ready")
        close_all(nursery.given)
        nursery.given.clear()
        nursery.told.clear()
