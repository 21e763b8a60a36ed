"""The monitor follows a command inside a container: its streams, its end, the end of its time."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from runtime.errors import AlreadyExists, FailedPrecondition, HostFault, NotFound, StartRefused
from tests.descriptors import open_descriptors
from tests.kernel.runtime.containers import needs_busybox
from tests.kernel.runtime.driven import below
from tests.kernel.runtime.execs import Container, one, read_all, read_terminal
from tests.kernel.runtime.launched import needs_launch

pytestmark = [needs_busybox, needs_launch]

__all__ = ["one"]


def test_a_command_runs_in_the_container(one: Container) -> None:
    code, out, err = one.run("sh", "-c", "pwd; ls /; echo oops >&2; exit 9")
    assert (code, err) == (9, "oops\n")
    assert out.split()[0] == "/"
    assert "bin" in out.split()


def test_it_has_its_own_cgroup_below_the_containers(one: Container) -> None:
    cgroup = below(one.cgroup, "exec-1")
    if cgroup["v2"] is None:
        pytest.skip("needs a cgroup v2 tree")
    result, streams = one.pod.ask("exec", one.exec("sleep", "100", cgroup=cgroup))
    for path in [cgroup["v2"], *cgroup["v1"]]:
        assert Path(path, "cgroup.procs").read_text().split() == [str(result["pid"])]
    one.pod.do("kill_exec", {"exec": "e"})
    assert one.pod.event("exec_exit")["code"] == 137
    for stream in streams:
        os.close(stream)


def test_stdin_reaches_the_command(one: Container) -> None:
    _, (stdout, stderr, stdin) = one.pod.ask("exec", one.exec("cat", stdin=True))
    os.write(stdin, b"hello")
    os.close(stdin)
    assert one.pod.event("exec_exit")["code"] == 0
    assert (read_all(stdout), read_all(stderr)) == ("hello", "")


def test_a_terminals_master_is_the_one_stream(one: Container) -> None:
    _, (master,) = one.pod.ask("exec", one.exec("sh", "-c", "tty; read x; echo $x", process={"terminal": True}))
    os.write(master, b"typed\n")
    assert one.pod.event("exec_exit")["code"] == 0
    # The echo of what was typed may come before the command's first word.
    assert sorted(read_terminal(master).split()) == ["/dev/pts/0", "typed", "typed"]


def test_a_command_that_cannot_run_leaves_nothing(one: Container) -> None:
    before = len(open_descriptors())
    for changes in ({}, {"terminal": True}):
        with pytest.raises(StartRefused, match="nonesuch"):
            one.pod.ask("exec", one.exec("nonesuch", process=changes))
        assert one.pod.monitor.pod.execs == {}
        assert len(open_descriptors()) == before


def test_a_timeout_kills_all_that_the_command_has_started(one: Container) -> None:
    cgroup = below(one.cgroup, "exec-1")
    began = time.monotonic()
    _, streams = one.pod.ask("exec", one.exec("sh", "-c", "sleep 100 & sleep 100", cgroup=cgroup, timeout=0.3))
    event = one.pod.event("exec_exit")
    assert (event["exec"], event["code"], event["timed_out"]) == ("e", 137, True)
    assert time.monotonic() - began >= 0.3
    path = cgroup["v2"] or cgroup["v1"][0]
    one.pod.turn_until(lambda: Path(path, "cgroup.procs").read_text() == "")
    for stream in streams:
        os.close(stream)


def test_a_timeout_works_without_a_daemon(one: Container) -> None:
    result, streams = one.pod.ask("exec", one.exec("sleep", "100", timeout=0.2))
    for stream in streams:
        os.close(stream)
    while os.path.exists(f"/proc/{result['pid']}"):
        one.pod.monitor.loop.turn(0.05)
    assert one.pod.event("exec_exit")["timed_out"] is True


def test_a_normal_end_kills_nothing_that_it_left(one: Container) -> None:
    cgroup = below(one.cgroup, "exec-1")
    assert one.run("sh", "-c", "sleep 100 >/dev/null 2>&1 &", cgroup=cgroup, timeout=50)[0] == 0
    path = cgroup["v2"] or cgroup["v1"][0]
    assert len(Path(path, "cgroup.procs").read_text().split()) == 1


def test_a_missing_filter_is_never_taken_for_none(one: Container) -> None:
    with pytest.raises(HostFault, match=r"read the seccomp program: /absent.bpf"):
        one.pod.ask("exec", one.exec("true", seccomp="/absent.bpf"))


def test_two_execs_of_one_name_are_refused(one: Container) -> None:
    _, streams = one.pod.ask("exec", one.exec("sleep", "100"))
    with pytest.raises(AlreadyExists):
        one.pod.ask("exec", one.exec("sleep", "100"))
    one.pod.do("kill_exec", {"exec": "e"})
    for stream in streams:
        os.close(stream)


def test_a_container_that_is_not_there_or_has_ended_takes_no_exec(one: Container) -> None:
    with pytest.raises(NotFound):
        one.pod.ask("exec", one.exec("true", container="other"))
    one.pod.do("kill", {"container": "one"})
    one.pod.event("exit")
    with pytest.raises(FailedPrecondition, match="not running"):
        one.pod.ask("exec", one.exec("true"))


def test_the_end_of_the_container_is_the_end_of_its_execs(one: Container) -> None:
    _, streams = one.pod.ask("exec", one.exec("sleep", "100", cgroup=below(one.cgroup, "exec-1")))
    one.pod.do("signal", {"container": "one", "signal": int(signal.SIGKILL)})
    one.pod.event("exit")
    assert one.pod.event("exec_exit")["code"] == 137
    for stream in streams:
        os.close(stream)


def test_an_unknown_exec_cannot_be_killed(one: Container) -> None:
    with pytest.raises(NotFound):
        one.pod.do("kill_exec", {"exec": "absent"})


def test_a_fork_that_fails_leaves_no_pipe(one: Container) -> None:
    before = len(open_descriptors())
    with pytest.raises(HostFault):
        one.pod.ask("exec", one.exec("true", cgroup={"v1": [], "v2": "/sys/fs/cgroup/unified/absent-crisp-test"}))
    assert len(open_descriptors()) == before
