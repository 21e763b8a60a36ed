from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtime.linux import process
from runtime.linux.libc import SyscallError
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
    return Path("/proc/self/cgroup").read_text().splitlines()[-1]


def refuse_clone3(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(cgroup_fd: int) -> int:
        raise SyscallError("clone3", number)

    monkeypatch.setattr(process, "_clone", refuse)


def test_without_a_cgroup_it_is_a_plain_fork() -> None:
    assert "crisp-test" not in fork_and_ask(lambda: process.fork_into(None), where)


@needs_v2
def test_a_child_is_born_in_the_cgroup(cgroup: int) -> None:
    assert f"crisp-test-{os.getpid()}" in fork_and_ask(lambda: process.fork_into(cgroup), where)


@needs_v2
def test_where_clone3_is_refused_the_child_joins_before_it_goes_on(
    cgroup: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_clone3(monkeypatch, errno.ENOSYS)
    reasons: list[SyscallError] = []
    answer = fork_and_ask(lambda: process.fork_into(cgroup, refused=reasons.append), where)
    assert f"crisp-test-{os.getpid()}" in answer
    assert [reason.errno for reason in reasons] == [errno.ENOSYS]


def test_an_error_that_is_no_refusal_is_raised() -> None:
    with pytest.raises(SyscallError) as failed:
        process.fork_into(999_999)
    assert (failed.value.call, failed.value.errno) == ("clone3", errno.EBADF)


def test_a_child_that_cannot_join_is_not_left_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    refuse_clone3(monkeypatch, errno.EPERM)

    def work() -> None:
        no_cgroup = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
        with pytest.raises(FileNotFoundError):
            process.fork_into(no_cgroup)
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)

    in_child(work)  # which has no other children


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
    def work() -> tuple[int, int, str]:
        process.set_dumpable(False)
        process.set_child_subreaper(True)
        process.set_no_new_privs()
        status = Path("/proc/self/status").read_text()
        return process.prctl(3), process.prctl(39), status.split("NoNewPrivs:")[1].split()[0]

    assert in_child(work) == (0, 1, "1")
    with pytest.raises(SyscallError) as failed:
        process.prctl(123456)
    assert failed.value.errno == errno.EINVAL
