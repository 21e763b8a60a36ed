"""A process leaves the monitor behind, has the streams and the place that were meant for it, and no more."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtime import child
from runtime.errors import HostFault, StartRefused
from runtime.linux import capabilities, mount, namespaces, trees
from runtime.linux.libc import AT_FDCWD
from runtime.linux.script import Script, Slot, load
from runtime.linux.spawn import RELEASE
from runtime.rootfs.pivot import enter_root
from tests.kernel.runtime.forked import in_child
from tests.kernel.runtime.launched import carried_out, launch, needs_launch, wait_report
from tests.kernel.runtime.linux.keys import session
from tests.kernel.runtime.observed import fields, stopped, values
from tests.kernel.runtime.rootfs.mountns import in_mount_namespace

pytestmark = needs_launch

PR_GET_DUMPABLE, PR_GET_PDEATHSIG = 3, 2
KEYCTL_GET_KEYRING_ID, SESSION_KEYRING = 0, -3


@contextlib.contextmanager
def opened(path: Path | str, flags: int = os.O_RDONLY) -> Iterator[int]:
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


def links(pid: int) -> dict[int, str]:
    return {int(name): os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")}


def test_a_process_leaves_the_monitor_behind() -> None:
    """Nothing is left to it but the streams, the report and what it is given."""

    def write(script: Script) -> None:
        child.leave_monitor(script)
        child.take_stdio(script, child.given_stdio(script))

    with opened("/etc") as secret, opened("/dev/null", os.O_RDWR) as null, opened("/proc/self/ns/net") as network:
        os.set_inheritable(secret, True)
        given = {**dict.fromkeys(child.STDIO, null), "network": network}
        with stopped(write, given) as (pid, _):
            assert os.getsid(pid) == pid
            assert fields(pid, "Umask") == ["0000"]
            found = links(pid)
            flags = [Path(f"/proc/{pid}/fdinfo/{fd}").read_text().split("flags:\t")[1].split()[0] for fd in found]
    assert "/etc" not in found.values()
    assert [found[fd] for fd in range(3)] == ["/dev/null"] * 3
    # The report, the namespace, and the pipe that it waits at.
    assert sorted(path.split(":")[0] for fd, path in found.items() if fd > 2) == ["net", "pipe", "socket"]
    assert [fd for fd, text in zip(found, flags, strict=True) if not int(text, 8) & os.O_CLOEXEC] == [0, 1, 2]


def test_it_cannot_be_traced_and_ends_with_the_monitor() -> None:
    def write(script: Script) -> list[Slot]:
        child.leave_monitor(script)
        traceable, ending = script.slot(), script.room(8)
        script.call("prctl", PR_GET_DUMPABLE, to=traceable)
        script.call("prctl", PR_GET_PDEATHSIG, ending)
        signalled = script.slot()
        script.set(signalled, load(ending))
        return [traceable, signalled]

    assert values(write) == [0, signal.SIGKILL]


def test_the_monitors_keys_are_left_behind() -> None:
    if session() < 0:
        pytest.skip("needs a session keyring")

    def write(script: Script, leave: bool) -> list[Slot]:
        if leave:
            child.leave_monitor(script)
        keyring = script.slot()
        script.call("keyctl", KEYCTL_GET_KEYRING_ID, SESSION_KEYRING, 0, to=keyring)
        return [keyring]

    assert values(lambda script: write(script, False)) == [session()]
    assert values(lambda script: write(script, True)) != [session()]


def test_descriptors_may_come_in_any_order() -> None:
    def work() -> list[str]:
        fds = [os.memfd_create(name) for name in "abc"]
        for number, fd in ((2, fds[0]), (0, fds[1]), (1, fds[2])):
            os.dup2(fd, number)
        given = dict(zip(child.STDIO, (2, 0, 1), strict=True))
        with stopped(lambda script: child.take_stdio(script, child.given_stdio(script)), given) as (pid, _):
            found = links(pid)
        return [found[fd].removeprefix("/memfd:")[0] for fd in range(3)]

    assert in_child(work) == ["a", "b", "c"]


def test_without_streams_there_is_the_null_device() -> None:
    with stopped(child.take_stdio) as (pid, _):
        found = links(pid)
    assert [found[fd] for fd in range(3)] == ["/dev/null"] * 3


def put(place: Path, what: str) -> None:
    """``what`` at dev/null below ``place``."""
    (place / "dev").mkdir()
    null = place / "dev/null"
    if what == "link":
        null.symlink_to("/dev/null")
    elif what == "file":
        null.write_text("not empty")
    elif what != "nothing":
        os.mknod(null, stat.S_IFCHR | 0o640, os.makedev(1, 3 if what == "null" else 5))


@pytest.mark.parametrize(
    ("what", "own"), [("null", True), ("zero", False), ("link", False), ("file", False), ("nothing", False)]
)
def test_the_input_is_the_containers_null_device_or_empty(tmp_path: Path, what: str, own: bool) -> None:
    put(tmp_path, what)

    def write(script: Script) -> None:
        child.take_stdio(script)
        root = script.opened("openat", AT_FDCWD, str(tmp_path), os.O_PATH | os.O_CLOEXEC, 0)
        child.take_null(script, root)
        script.close(root)

    with stopped(write) as (pid, _):
        assert len(links(pid)) == 5, "the streams, the report, and what it waits for"
        with opened(f"/proc/{pid}/fd/0", os.O_RDWR) as stdin:
            found = os.fstat(stdin)
            assert os.read(stdin, 16) == b""
    assert (stat.S_ISCHR(found.st_mode) and found.st_mode & 0o777 == 0o640) is own
    if not own:
        assert stat.S_ISREG(found.st_mode) and found.st_nlink == 0


@pytest.mark.parametrize("make", ["file", "link", "device"])
def test_what_somebody_has_put_at_the_null_devices_place_is_refused(tmp_path: Path, make: str) -> None:
    def work() -> None:
        mount.mount("tmpfs", str(tmp_path), "tmpfs", 0)
        fake = tmp_path / "null"
        if make == "file":
            fake.touch()
        elif make == "link":
            fake.symlink_to("/dev/zero")
        else:
            os.mknod(fake, stat.S_IFCHR | 0o666, os.makedev(1, 5))
        mount.mount(str(tmp_path), "/dev", "", mount.MS_BIND)
        carried_out(child.take_stdio)

    with pytest.raises(HostFault) as failed:
        in_mount_namespace(work)
    assert failed.value.object == "/dev/null"
    assert "is not the null device" in str(failed.value) or failed.value.errno == errno.ELOOP


def test_pipes_belong_to_the_user_and_other_streams_do_not(tmp_path: Path) -> None:
    with opened(tmp_path / "log", os.O_RDWR | os.O_CREAT) as file, opened("/dev/null") as null:
        read, written = os.pipe()

        def write(script: Script) -> None:
            child.take_stdio(script, child.given_stdio(script))
            child.own_stdio(script, 1000, (1,))

        carried_out(write, {"stdin": null, "stdout": written, "stderr": file})
        assert [os.fstat(fd).st_uid for fd in (written, file, null)] == [1000, 0, 0]
        assert os.fstat(written).st_gid == os.getgid()
        os.close(read)
        os.close(written)


def enter(path: str) -> Callable[[Script], None]:
    def write(script: Script) -> None:
        child.enter_cwd(script, script.opened("openat", AT_FDCWD, path, os.O_PATH | os.O_CLOEXEC, 0))

    return write


def test_a_directory_inside_of_the_root_is_entered() -> None:
    with stopped(enter("/etc")) as (pid, _):
        assert os.readlink(f"/proc/{pid}/cwd") == "/etc"
        assert "/etc" not in links(pid).values()


def test_a_directory_outside_of_the_root_is_refused() -> None:
    """CVE-2024-21626: a descriptor of the host's tree that leads past the container's root."""

    def write(script: Script, check: bool) -> list[Slot]:
        outside = script.opened("openat", AT_FDCWD, "/etc", os.O_PATH | os.O_CLOEXEC, 0)
        trees.own_mount_namespace(script, namespaces.CLONE_NEWNS)
        root = trees.create(script, "tmpfs", ())
        trees.move_mount(script, root, script.opened("openat", AT_FDCWD, "/proc", os.O_PATH | os.O_CLOEXEC, 0))
        enter_root(script, root)
        if check:
            child.enter_cwd(script, outside)
        script.call("fchdir", outside)  # the weak variant: without the check the host's files are there
        return [script.opened("openat", AT_FDCWD, "passwd", os.O_RDONLY, 0)]

    (passwd,) = carried_out(lambda script: write(script, False))
    with os.fdopen(passwd) as stream:
        assert "root:" in stream.read()
    with pytest.raises(StartRefused, match="outside of the container's root"):
        carried_out(lambda script: write(script, True))


def test_a_directory_that_was_removed_is_refused(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    with opened(gone, os.O_PATH) as fd:
        gone.rmdir()
        with pytest.raises(StartRefused, match="outside of the container's root"):
            carried_out(lambda script: child.enter_cwd(script, script.given["gone"]), {"gone": fd})


def test_v1_control_groups_are_joined() -> None:
    parents = [
        path.parent
        for path in sorted(Path("/sys/fs/cgroup").glob("*/tasks"))
        if path.parent.name in ("pids", "freezer")
    ]
    if not parents:
        pytest.skip("needs cgroup v1 hierarchies")
    made = [parent / f"crisp-test-{os.getpid()}" for parent in parents]
    for path in made:
        path.mkdir()
    try:
        dirs = [str(path) for path in made]
        with stopped(lambda script: child.join_cgroups(script, {"v1": dirs, "v2": None})) as (pid, _):
            lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    finally:
        for path in made:
            path.rmdir()
    assert sum(line.endswith(made[0].name) for line in lines) == len(made)


def test_a_control_group_that_is_not_there_is_named() -> None:
    with pytest.raises(HostFault) as failed:
        carried_out(lambda script: child.join_cgroups(script, {"v1": ["/sys/fs/cgroup/nowhere"], "v2": None}))
    assert (failed.value.call, failed.value.object) == ("openat", "/sys/fs/cgroup/nowhere/tasks")


def score(pid: int) -> str:
    return Path(f"/proc/{pid}/oom_score_adj").read_text().strip()


def test_the_oom_score_is_raised_and_never_below_what_was_inherited() -> None:
    def lower(script: Script) -> None:
        child.set_oom_score_adj(script, 500)
        script.call("capset", capabilities._HEADER, bytes(24))
        child.set_oom_score_adj(script, -5)

    with stopped(lambda script: child.set_oom_score_adj(script, 500)) as (pid, _):
        assert score(pid) == "500"
    with stopped(lower) as (pid, _):
        assert score(pid) == "500"


def test_an_oom_score_that_is_no_score_is_an_error() -> None:
    with pytest.raises(HostFault) as failed:
        carried_out(lambda script: child.set_oom_score_adj(script, 5000))
    assert (failed.value.call, failed.value.errno) == ("write", errno.EINVAL)


@pytest.mark.parametrize("numbers", [(), (signal.SIGINT, signal.SIGTERM), (1, 31, 64)])
def test_exactly_the_signals_that_are_asked_for_are_blocked(numbers: tuple[int, ...]) -> None:
    with stopped(lambda script: child.block_signals(script, numbers)) as (pid, _):
        (blocked,) = fields(pid, "SigBlk")
    assert int(blocked, 16) == sum(1 << number - 1 for number in numbers)


def test_until_then_all_are_blocked_and_none_is_ignored() -> None:
    with stopped(lambda script: None) as (pid, _):
        blocked, ignored, caught = (int(text, 16) for text in fields(pid, "SigBlk", "SigIgn", "SigCgt"))
    unblockable = 1 << signal.SIGKILL - 1 | 1 << signal.SIGSTOP - 1
    assert (blocked | unblockable, ignored, caught) == ((1 << 64) - 1, 0, 0)


@pytest.mark.parametrize(("word", "fault"), [(RELEASE, None), (b"?", HostFault), (b"", HostFault)])
def test_a_process_waits_until_it_is_released_and_for_nothing_else(word: bytes, fault: type[Exception] | None) -> None:
    script = Script([])
    child.wait_released(script)
    script.call("exit_group", 7)
    pid, report = launch(script)
    with pytest.raises(TimeoutError):
        report.settimeout(0.1)
        report.recv(1)
    report.settimeout(30)
    report.send(word) if word else report.shutdown(socket.SHUT_WR)
    _, found = wait_report(script, report)
    assert found is None if fault is None else isinstance(found, fault)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == (7 if fault is None else 127)
