"""Pause holds a pod's namespaces, reaps, ends on request, and gives nothing of the host away."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime import pause
from runtime.blank_init import BlankInit
from runtime.errors import Fault, HostFault, InvalidArgument, ScriptFailed
from runtime.identity import Filter
from runtime.linux import namespaces
from runtime.linux.script import Script
from runtime.newborn import Child
from runtime.requests import CgroupDirs
from runtime.written import write_named
from tests.kernel.runtime import forked
from tests.kernel.runtime.driven import SANDBOX, cgroups
from tests.kernel.runtime.launched import needs_launch
from tests.kernel.runtime.nursery import Nursery
from tests.processes import wait_command_line

# The C programs are compiled when crisp is installed.
needs_pause = pytest.mark.skipif(not os.path.exists(pause.PAUSE), reason="needs runtime/pause: run `make install`")
pytestmark = [needs_launch, needs_pause]


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    made = Nursery()
    yield made
    for descriptor in made.given:
        os.close(descriptor)
    made.close()


def start(nursery: Nursery, *, flags: int = 0, **changes: Any) -> int:
    """The pid of a pause in new namespaces."""
    request: Any = {**SANDBOX, **changes}
    script = pause.plan_pause(request, [], None)
    child = nursery.carry_out(script, cgroup=request["cgroup"], flags=flags)
    nursery.wait("ready")
    return child.pid


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def test_it_is_the_static_program(nursery: Nursery) -> None:
    pid = start(nursery)
    wait_command_line(pid, "/pause")
    assert os.path.samestat(os.stat(f"/proc/{pid}/exe"), os.stat(pause.PAUSE))


def test_it_has_no_capability_no_descriptor_and_no_environment(nursery: Nursery) -> None:
    pid = start(nursery)
    fields = status(pid)
    assert {fields[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert fields["NoNewPrivs"] == "1"
    assert fields["Uid"].split() == ["65535"] * 4
    assert fields["Gid"].split() == ["65535"] * 4
    assert {os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")} == set()
    assert Path(f"/proc/{pid}/environ").read_bytes() == b""


def test_its_root_shows_nothing_and_takes_nothing(nursery: Nursery) -> None:
    pid = start(nursery)
    assert os.listdir(f"/proc/{pid}/root") == []
    assert len(Path(f"/proc/{pid}/mountinfo").read_text().splitlines()) == 1
    with pytest.raises(OSError):
        os.mkdir(f"/proc/{pid}/root/x")


def test_what_it_executes_cannot_be_written(nursery: Nursery) -> None:
    pid = start(nursery)
    with pytest.raises(OSError):
        os.close(os.open(f"/proc/{pid}/exe", os.O_WRONLY))


def test_its_namespaces_are_handed_over(nursery: Nursery) -> None:
    pid = start(nursery, namespaces=["network", "ipc", "uts", "pid"], flags=namespaces.CLONE_NEWPID)
    links = [os.readlink(f"/proc/{pid}/ns/{kind}") for kind in ("net", "ipc", "uts", "pid")]
    assert [
        str(os.fstat(descriptor).st_ino) in link for descriptor, link in zip(nursery.given, links, strict=False)
    ] == [True] * 4
    assert len(nursery.given) == 5  # and the routing socket


KINDS = ["network", "ipc", "uts"]


def blank(nursery: Nursery, kinds: list[str] = KINDS) -> tuple[BlankInit, Child, list[int]]:
    """What waits in new namespaces: the daemon's end, the process, and descriptors of what it has made."""
    init = BlankInit()
    script = pause.plan_blank(kinds)
    child = nursery.carry_out(script, [init.theirs.fileno()], on_word=nursery.on_word)
    init.theirs.close()
    nursery.wait("word")
    nursery.told.clear()
    return init, child, nursery.given


def name(init: BlankInit, **changes: Any) -> int | None:
    """The pid of what waited, with a name."""
    request: Any = {**SANDBOX, **changes}
    assert init.wake(write_named(request, KINDS), request["cgroup"])
    try:
        return asyncio.run(init.wait_executed(10))
    finally:
        init.close()


def test_the_process_of_a_blank_pod_waits_in_its_namespaces(nursery: Nursery) -> None:
    init, child, given = blank(nursery)
    for descriptor, kind in zip(given, ("net", "ipc", "uts"), strict=False):
        assert str(os.fstat(descriptor).st_ino) in os.readlink(f"/proc/{child.pid}/ns/{kind}")
    # It has no copy of the host's mounts, and pause's root for later.
    assert os.readlink(f"/proc/{child.pid}/ns/mnt") == os.readlink("/proc/self/ns/mnt")
    assert os.readlink(f"/proc/{child.pid}/ns/mnt") != f"mnt:[{os.fstat(given[-1]).st_ino}]"
    assert (status(child.pid)["CapBnd"], status(child.pid)["Name"]) == ("0" * 16, "crisp-blank")
    init.close()
    assert nursery.wait("ready", "exit", "last")[1] == 0


def test_it_becomes_pause_once_it_is_told_its_name(nursery: Nursery) -> None:
    init, child, given = blank(nursery)
    with cgroups("named", "pids", "memory") as dirs:
        pid = name(init, cgroup=dirs, hostname="named", sysctls={"net.ipv4.ip_forward": "1"}, oom_score_adj=77)
        nursery.wait("ready")
        assert child.pid == pid
        wait_command_line(pid, "/pause")
        fields = status(child.pid)
        assert fields["PPid"] == str(os.getpid())
        assert {fields[kind] for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
        assert (fields["NoNewPrivs"], fields["Uid"].split()) == ("1", ["65535"] * 4)
        assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "77\n"
        assert Path(f"/proc/{pid}/stat").read_text().split()[5] == str(pid), "a session of its own"
        assert [int(Path(path, "cgroup.procs").read_text()) for path in (*dirs["v1"], dirs["v2"] or "")] == [pid] * 4
        for descriptor, kind in zip((*given[:3], given[-1]), ("net", "ipc", "uts", "mnt"), strict=True):
            assert str(os.fstat(descriptor).st_ino) in os.readlink(f"/proc/{pid}/ns/{kind}")
        assert os.listdir(f"/proc/{pid}/root") == os.listdir(f"/proc/{pid}/fd") == []

        def work() -> tuple[str, str]:
            namespaces.setns(given[0], namespaces.CLONE_NEWNET)
            namespaces.setns(given[2], namespaces.CLONE_NEWUTS)
            return os.uname().nodename, Path("/proc/sys/net/ipv4/ip_forward").read_text().strip()

        assert forked.in_child(work) == ("named", "1")
        child.signal(signal.SIGTERM)
        assert nursery.wait("ready", "exit", "last")[1] == 0


def test_its_root_and_its_name_come_from_the_blank_pod_also_without_its_process(nursery: Nursery) -> None:
    init, waiting, _ = blank(nursery, ["network", "uts"])
    network, uts, _, root = nursery.given
    init.close()
    nursery.wait("ready", "exit", "last")
    nursery.told.clear()
    request: Any = {**SANDBOX, "namespaces": ["network", "uts", "ipc"], "hostname": "named"}
    child = nursery.carry_out(pause.plan_pause(request, ["network", "uts"], None), [network, uts, root])
    nursery.wait("ready")
    assert child.pid != waiting.pid
    assert str(os.fstat(network).st_ino) in os.readlink(f"/proc/{child.pid}/ns/net")
    assert str(os.fstat(uts).st_ino) in os.readlink(f"/proc/{child.pid}/ns/uts")
    assert len(nursery.given) == 5  # the ipc namespace is the one that is new
    assert str(os.fstat(nursery.given[4]).st_ino) in os.readlink(f"/proc/{child.pid}/ns/ipc")
    assert str(os.fstat(root).st_ino) in os.readlink(f"/proc/{child.pid}/ns/mnt")
    assert os.listdir(f"/proc/{child.pid}/root") == [] == os.listdir(f"/proc/{child.pid}/cwd")
    assert len(Path(f"/proc/{child.pid}/mountinfo").read_text().splitlines()) == 1
    left = [os.readlink(f"/proc/{child.pid}/fd/{number}") for number in os.listdir(f"/proc/{child.pid}/fd")]
    assert left == []


def test_a_name_that_cannot_be_taken_names_its_step(nursery: Nursery) -> None:
    init, _, _ = blank(nursery)
    with cgroups("unnamed") as dirs:
        absent: CgroupDirs = {"v1": ["/sys/fs/cgroup/absent-crisp-test"], "v2": dirs["v2"]}
        with pytest.raises(HostFault) as raised:
            name(init, cgroup=absent)
        assert str(raised.value).startswith("join the control groups: /sys/fs/cgroup/absent-crisp-test/tasks: openat: ")
        assert nursery.wait("ready", "exit", "last")[1] == 127


def test_what_waits_ends_with_the_monitor_and_so_does_what_it_became() -> None:
    for named in (False, True):
        with cgroups(f"ends-{named}") as dirs:
            read, write = os.pipe()
            parent = os.fork()
            if parent == 0:
                nursery = Nursery()
                init, child, _ = blank(nursery)
                os.write(write, b"%d" % ((name(init, cgroup=dirs) if named else child.pid) or 0))
                while True:
                    signal.pause()  # until it is killed, whatever children end
            pidfd = os.pidfd_open(int(os.read(read, 100)))
            os.close(read)
            os.close(write)
            os.kill(parent, signal.SIGKILL)
            os.waitpid(parent, 0)
            ready, _, _ = select.select([pidfd], [], [], 30)
            os.close(pidfd)
            assert ready


def test_it_is_in_the_cgroups_of_the_pod(nursery: Nursery) -> None:
    with cgroups("pause") as dirs:
        pid = start(nursery, cgroup=dirs)
        for path in [*dirs["v1"], *([dirs["v2"]] if dirs["v2"] else [])]:
            assert Path(path, "cgroup.procs").read_text().split() == [str(pid)]
        os.kill(pid, signal.SIGKILL)
        nursery.wait("ready", "exit", "last")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_on_request_also_as_the_first_process_of_its_namespace(nursery: Nursery, number: int) -> None:
    pid = start(nursery, namespaces=["pid"], flags=namespaces.CLONE_NEWPID)
    os.kill(pid, number)
    assert nursery.wait("ready", "exit", "last")[1] == 0


def test_it_reaps_the_orphans_of_its_namespace(nursery: Nursery) -> None:
    pid = start(nursery, namespaces=["pid"], flags=namespaces.CLONE_NEWPID)
    inside = os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY)

    def work() -> int:
        namespaces.setns(inside, namespaces.CLONE_NEWPID)
        middle = os.fork()
        if middle == 0:
            if os.fork() == 0:
                time.sleep(0.1)
            os._exit(0)
        os.waitpid(middle, 0)
        return middle

    forked.in_child(work)
    os.close(inside)
    children = Path(f"/proc/{pid}/task/{pid}/children")
    wait_until(lambda: children.read_text() == "")


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_it_sleeps_and_takes_two_pages(nursery: Nursery) -> None:
    pid = start(nursery)
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    private = sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private_"))
    assert private <= 16
    before = ticks(pid)
    time.sleep(0.2)
    # A tick is charged to whoever runs when it comes: that of its execve may come late, twenty would be a loop.
    assert ticks(pid) - before <= 1


def ticks(pid: int) -> int:
    return sum(map(int, Path(f"/proc/{pid}/stat").read_text().split()[13:15]))


def test_only_its_own_signals_are_blocked(nursery: Nursery) -> None:
    pid = start(nursery)
    wanted = sum(1 << number - 1 for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD))
    assert int(status(pid)["SigBlk"], 16) in (wanted, 0)  # what it waits for is not shown as blocked
    assert int(status(pid)["SigIgn"], 16) == 0


def test_it_ends_with_the_monitor() -> None:
    read, write = os.pipe()
    parent = os.fork()
    if parent == 0:
        nursery = Nursery()
        os.write(write, b"%d" % start(nursery))
        signal.pause()
    pid = int(os.read(read, 100))
    os.close(read)
    os.close(write)
    pidfd = os.pidfd_open(pid)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    ready, _, _ = select.select([pidfd], [], [], 30)
    os.close(pidfd)
    assert ready


def test_its_seccomp_program_is_loaded(nursery: Nursery) -> None:
    allow = struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000)
    request: Any = {**SANDBOX}
    child = nursery.carry_out(pause.plan_pause(request, [], Filter(allow)))
    nursery.wait("ready")
    assert status(child.pid)["Seccomp"] == "2"


def test_its_oom_score_is_the_pods(nursery: Nursery) -> None:
    pid = start(nursery, oom_score_adj=333)
    assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "333\n"


def failed(nursery: Nursery, script: Script) -> Fault:
    """The fault of a script that fails, in its own words."""
    nursery.carry_out(script)
    (told, _) = nursery.wait("failed", "last")
    assert isinstance(told, ScriptFailed)
    return script.fault(told.at, told.errno)


def test_a_failure_names_its_step(nursery: Nursery) -> None:
    request: Any = {**SANDBOX, "cgroup": {"v1": ["/sys/fs/cgroup/absent-crisp-test"], "v2": None}}
    fault = failed(nursery, pause.plan_pause(request, [], None))
    assert isinstance(fault, HostFault)
    assert str(fault).startswith("join the control groups: /sys/fs/cgroup/absent-crisp-test/tasks: openat: ")


def test_a_pause_that_cannot_be_executed_names_its_step(
    nursery: Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pause").write_bytes(b"\1\2\3\4")
    (tmp_path / "pause").chmod(0o755)
    monkeypatch.setattr(pause, "PAUSE", str(tmp_path / "pause"))
    request: Any = {**SANDBOX}
    fault = failed(nursery, pause.plan_pause(request, [], None))
    assert str(fault) == "execute pause: execveat: exec format error (ENOEXEC)"


def test_what_is_not_the_pods_is_refused_while_the_script_is_written() -> None:
    request: Any = {**SANDBOX, "sysctls": {"vm.swappiness": "1"}}
    with pytest.raises(InvalidArgument, match="not in a namespace of the pod"):
        pause.plan_pause(request, [], None)
    with pytest.raises(InvalidArgument, match="make the pod's namespaces: nonsense: is no kind of namespace"):
        request.update({"sysctls": {}, "namespaces": ["nonsense"]})
        pause.plan_pause(request, [], None)


def test_a_failing_blank_names_its_step() -> None:
    with pytest.raises(InvalidArgument, match="make blank namespaces: nonsense: "):
        pause.plan_blank(["nonsense"])


def test_the_steps_on_the_way_are_all_taken() -> None:
    request: Any = {**SANDBOX, "cgroup": {"v1": ["/sys/fs/cgroup/pids/pod"], "v2": None}}
    script = pause.plan_pause(request, [], None)
    steps = list(dict.fromkeys(step for *_, (step, _), _, _ in script._calls))
    assert steps == [
        "leave the monitor",
        "join the control groups",
        "set the oom score",
        "make the pod's namespaces",
        "empty the root of pause",
        "become the user of pause",
        "execute pause",
    ]
