from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtime.linux import process
from runtime.linux.libc import SyscallError
from runtime.linux.namespaces import CLONE_NEWNET, CLONE_NEWPID
from tests.kernel.runtime.forked import in_child

V2 = next(
    (path for path in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")) if (path / "cgroup.procs").exists()),
    None,
)
needs_v2 = pytest.mark.skipif(V2 is None, reason="needs a cgroup v2 hierarchy: CLONE_INTO_CGROUP")


@pytest.fixture
def cgroup() -> Iterator[int]:
    assert V2 is not None
    path = V2 / f"crisp-test-{os.getpid()}"
    path.mkdir()
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)
    path.rmdir()


def fork_and_ask(fork: Callable[[], int], ask: Callable[[], str]) -> str:
    """What ``ask`` says in the child that ``fork`` makes."""
    reads, writes = os.pipe()
    pid = fork()
    if pid == 0:
        os.write(writes, ask().encode())
        os._exit(0)
    os.close(writes)
    answer = os.read(reads, 4096).decode()
    os.close(reads)
    assert os.waitpid(pid, 0)[1] == 0
    return answer


def where() -> str:
    return f"{os.getpid() == 1} {Path('/proc/self/cgroup').read_text().splitlines()[-1]}"


def refuse_clone3(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(cgroup_fd: int | None, flags: int) -> int:
        raise SyscallError("clone3", number)

    monkeypatch.setattr(process, "_clone", refuse)


def test_without_cgroup_and_flags_it_is_a_plain_fork() -> None:
    assert fork_and_ask(lambda: process.fork_into(None), where).startswith("False")


def test_the_first_process_of_a_new_pid_namespace_is_1() -> None:
    assert fork_and_ask(lambda: process.fork_into(None, CLONE_NEWPID), where).startswith("True")


@needs_v2
@pytest.mark.parametrize("flags", [0, CLONE_NEWPID])
def test_a_child_is_born_in_the_cgroup(cgroup: int, flags: int) -> None:
    answer = fork_and_ask(lambda: process.fork_into(cgroup, flags), where)
    assert answer.startswith(str(bool(flags))) and f"crisp-test-{os.getpid()}" in answer


@needs_v2
@pytest.mark.parametrize("flags", [0, CLONE_NEWPID])
def test_where_clone3_is_refused_the_child_joins_before_it_goes_on(
    cgroup: int, flags: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_clone3(monkeypatch, errno.ENOSYS)
    reasons: list[SyscallError] = []
    own = os.readlink("/proc/self/ns/pid_for_children")
    answer = fork_and_ask(lambda: process.fork_into(cgroup, flags, refused=reasons.append), where)
    assert answer.startswith(str(bool(flags))) and f"crisp-test-{os.getpid()}" in answer
    assert [reason.errno for reason in reasons] == [errno.ENOSYS]
    assert os.readlink("/proc/self/ns/pid_for_children") == own


def test_a_refusal_that_fork_cannot_make_good_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_clone3(monkeypatch, errno.ENOSYS)
    with pytest.raises(SyscallError, match="clone3"):
        process.fork_into(None, CLONE_NEWNET)


def test_an_error_that_is_no_refusal_is_raised() -> None:
    with pytest.raises(SyscallError) as failed:
        process.fork_into(999_999)
    assert (failed.value.call, failed.value.errno) == ("clone3", errno.EBADF)


def test_a_child_that_cannot_join_is_not_left_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    refuse_clone3(monkeypatch, errno.EPERM)
    no_cgroup = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with pytest.raises(FileNotFoundError):
            process.fork_into(no_cgroup)
    finally:
        os.close(no_cgroup)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_pidfds_signal_and_duplicate() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], stdout=subprocess.PIPE)
    pidfd = process.pidfd_open(child.pid)
    try:
        copy = process.pidfd_getfd(pidfd, 1)
        assert os.readlink(f"/proc/self/fd/{copy}") == os.readlink(f"/proc/{child.pid}/fd/1")
        assert not os.get_inheritable(copy)
        os.close(copy)
        process.pidfd_send_signal(pidfd, signal.SIGTERM)
        assert child.wait() == -signal.SIGTERM
        with pytest.raises(SyscallError) as failed:
            process.pidfd_send_signal(pidfd, 0)
        assert failed.value.errno == errno.ESRCH
        with pytest.raises(SyscallError):
            process.pidfd_getfd(pidfd, 1)
    finally:
        os.close(pidfd)
        assert child.stdout is not None
        child.stdout.close()
    with pytest.raises(SyscallError):
        process.pidfd_open(child.pid)


def test_all_descriptors_but_some_are_closed() -> None:
    def work() -> list[int]:
        keep = [int(name) for name in os.listdir("/proc/self/fd")]
        extra = [os.dup(0) for _ in range(5)]
        process.close_all_but([*keep, extra[2]])
        return sorted({int(name) for name in os.listdir("/proc/self/fd")} - set(keep) - {extra[2]})

    assert len(in_child(work)) <= 1  # the listing's own


def test_descriptors_are_marked_close_on_exec() -> None:
    def work() -> tuple[bool, bool]:
        fd = os.dup(0)
        os.set_inheritable(fd, True)
        before = os.get_inheritable(fd)
        process.close_range(3, flags=process.CLOSE_RANGE_CLOEXEC)
        return before, os.get_inheritable(fd)

    assert in_child(work) == (True, False)
    process.close_range(5, 4)  # an empty range is nothing to do
    with pytest.raises(SyscallError, match="close_range"):
        process.close_range(3, 4, 0x80000000)


def test_prctl_settings_stick() -> None:
    def work() -> tuple[int, int, int, str]:
        process.set_dumpable(False)
        process.set_keepcaps(True)
        process.set_child_subreaper(True)
        process.set_no_new_privs()
        status = Path("/proc/self/status").read_text()
        return process.prctl(3), process.prctl(7), process.prctl(39), status.split("NoNewPrivs:")[1].split()[0]

    assert in_child(work) == (0, 1, 1, "1")
    with pytest.raises(SyscallError) as failed:
        process.prctl(123456)
    assert failed.value.errno == errno.EINVAL


def execute(how: Callable[[], None]) -> str:
    reads, writes = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(writes, 1)
        how()
        os._exit(1)
    os.close(writes)
    with os.fdopen(reads) as stream:
        text = stream.read()
    assert os.waitpid(pid, 0)[1] == 0
    return text


def test_a_program_gets_exactly_its_arguments_and_environment() -> None:
    def by_path() -> None:
        process.execve("/usr/bin/env", ["env"], ["A=1", "A=2", "B="])

    def by_descriptor() -> None:
        process.execveat(os.open("/usr/bin/env", os.O_PATH | os.O_CLOEXEC), ["env"], ["A=3"])

    assert execute(by_path) == "A=1\nA=2\nB=\n"
    assert execute(by_descriptor) == "A=3\n"


def test_a_failed_execve_names_the_program() -> None:
    with pytest.raises(SyscallError) as failed:
        process.execve("/nowhere", ["x"], [])
    assert (failed.value.call, failed.value.filename, failed.value.errno) == ("execve", "/nowhere", errno.ENOENT)
    with pytest.raises(SyscallError, match="execveat"):
        process.execveat(999_999, [], [])
