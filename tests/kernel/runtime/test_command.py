"""A command is inside the container before it runs, as its process asks for, and brings nothing of the host."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.channel import close_all
from runtime.command import plan_command
from runtime.errors import InvalidArgument, StartRefused
from tests.kernel.runtime.containers import Image, needs_busybox
from tests.kernel.runtime.driven import SANDBOX, cgroups, driven
from tests.kernel.runtime.execs import Container, one, read_terminal
from tests.kernel.runtime.launched import launch, needs_launch, wait_report

pytestmark = [needs_busybox, needs_launch]

__all__ = ["one"]


def test_it_is_in_every_namespace_of_the_container(one: Container) -> None:
    links = "for n in pid net ipc uts mnt cgroup; do readlink /proc/self/ns/$n; done"
    _, out, _ = one.run("sh", "-c", links)
    wanted = [os.readlink(f"/proc/{one.pid}/ns/{kind}") for kind in ("pid", "net", "ipc", "uts", "mnt", "cgroup")]
    assert out.split() == wanted


def test_it_starts_with_three_descriptors_and_nothing_inherited(one: Container) -> None:
    # ls has the directory itself open as the fourth.
    assert one.run("ls", "/proc/self/fd")[1].split() == ["0", "1", "2", "3"]
    _, out, _ = one.run("grep", "-E", "CapInh|CapAmb|SigIgn|SigBlk", "/proc/self/status")
    assert [int(line.split()[1], 16) for line in out.splitlines()] == [0, 0, 0, 0]


def test_it_is_the_user_that_is_asked_for_and_owns_its_streams(one: Container) -> None:
    user = {"uid": 1000, "gid": 1000, "additionalGids": [5]}
    code, out, err = one.run("sh", "-c", "id -u; id -G; echo reopened > /dev/stdout", process={"user": user})
    assert (code, err) == (0, "")
    assert out == "1000\n1000 5\nreopened\n"


def test_its_terminal_is_the_containers_own_and_controls_it(one: Container) -> None:
    command = "tty; tty < /dev/tty; stat -Lc %u /proc/self/fd/0"
    user = {"uid": 1000, "gid": 1000, "additionalGids": []}
    process = {"terminal": True, "user": user}
    _, (master,) = one.pod.ask("exec", one.exec("sh", "-c", command, process=process))
    assert one.pod.event("exec_exit")["code"] == 0
    assert read_terminal(master).split() == ["/dev/pts/0", "/dev/tty", "1000"]


@pytest.mark.parametrize(
    ("args", "changes", "said"),
    [
        (["nonesuch"], {}, "nonesuch"),
        (["/etc/passwd"], {}, "permission denied"),
        (["true"], {"cwd": "/absent"}, "enter the working directory: /absent: no such file"),
        (["true"], {"cwd": "/bin/busybox"}, "not a directory"),
        (["/bin"], {}, 'exec: "/bin": is a directory'),
        (["true"], {"terminal": True, "cwd": "/absent"}, "enter the working directory: /absent: no such file"),
    ],
)
def test_a_command_that_cannot_run_is_refused(
    one: Container, args: list[str], changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(StartRefused, match=said):
        one.pod.ask("exec", one.exec(*args, process=changes))


def test_a_command_that_asks_for_what_cannot_be_is_refused_while_its_script_is_written(one: Container) -> None:
    rlimits = [{"type": "RLIMIT_NOSUCH", "soft": 1, "hard": 1}]
    with pytest.raises(InvalidArgument, match="set the resource limits: no such resource limit"):
        plan_command(one.exec("true", process={"rlimits": rlimits}), None)
    with pytest.raises(StartRefused, match="execute the command: there is no command"):
        plan_command(one.exec(), None)


def test_a_container_that_has_ended_meanwhile_is_not_joined(one: Container) -> None:
    """A pidfd of it is still there: its namespaces are not."""
    target = os.pidfd_open(one.pid)
    one.pod.do("signal", {"container": "one", "signal": int(signal.SIGKILL)})
    one.pod.event("exit")
    null = os.open("/dev/null", os.O_RDWR)
    script = plan_command(one.exec("true"), None)
    pid, report = launch(script, [null, null, null, target])
    handed, fault = wait_report(script, report)
    os.waitpid(pid, 0)
    os.close(null)
    os.close(target)
    assert handed == []
    assert isinstance(fault, StartRefused)
    assert str(fault) == "join the container: one: has ended"


@pytest.mark.parametrize("number", range(12))
def test_no_descriptor_leads_out_as_working_directory(one: Container, number: int) -> None:
    with pytest.raises(StartRefused):
        one.pod.ask("exec", one.exec("true", process={"cwd": f"/proc/self/fd/{number}"}))


def test_the_oom_score_is_what_its_process_has(one: Container) -> None:
    inherited = Path("/proc/self/oom_score_adj").read_text()
    assert one.run("cat", "/proc/self/oom_score_adj")[1] == inherited
    assert one.run("cat", "/proc/self/oom_score_adj", process={"oomScoreAdj": 654})[1] == "654\n"


def test_a_container_cannot_look_into_an_exec_that_joins(one: Container) -> None:
    # The container's own root polls what appears beside it while a hundred execs join.
    poll = "while :; do for p in /proc/[0-9]*; do ls -l $p/fd $p/root 2>/dev/null; done; done"
    _, (stdout, stderr) = one.pod.ask("exec", one.exec("sh", "-c", poll, exec="poll"))
    os.set_blocking(stdout, False)
    seen = b""
    for _ in range(60):
        assert one.run("true")[0] == 0
        while True:
            try:
                seen += os.read(stdout, 65536)
            except BlockingIOError:
                break
    one.pod.do("kill_exec", {"exec": "poll"})
    one.pod.event("exec_exit")
    os.close(stdout)
    os.close(stderr)
    assert b"pipe:" in seen  # it could look at something
    for secret in (b"/proc/self/ns", b"exits", str(one.pod.directory).encode(), b"eventpoll", b"pidfd"):
        assert secret not in seen


IDS = {"host": 700_000, "size": 65_536}


@pytest.fixture
def shifted(tmp_path: Path) -> Iterator[Container]:
    """A container in a pod with a user namespace."""
    for name in ("pod", "image"):
        (tmp_path / name).mkdir()
    made = Image(tmp_path / "image")
    os.chown(made.path / "upper", IDS["host"], IDS["host"])
    with cgroups("shifted") as dirs, driven(tmp_path / "pod") as pod:
        kinds = ["user", "network", "ipc", "uts"]
        _, descriptors = pod.ask("sandbox", {**SANDBOX, "namespaces": kinds, "ids": IDS})
        close_all(descriptors)
        yield Container(pod, made, dirs, IDS)


def test_it_is_in_the_containers_user_namespace_and_who_it_is_there(shifted: Container) -> None:
    user = {"uid": 1000, "gid": 1000, "additionalGids": [5]}
    script = "cat /proc/self/uid_map; id -u; id -G; echo reopened > /dev/stdout; readlink /proc/self/ns/user"
    code, out, err = shifted.run("sh", "-c", script, process={"user": user}, ids=IDS)
    assert (code, err) == (0, "")
    inside = os.readlink(f"/proc/{shifted.pid}/ns/user")
    assert out.split() == ["0", "700000", "65536", "1000", "1000", "5", "reopened", inside]
    assert shifted.run("sh", "-c", "echo $(id -u) $(cat /proc/1/comm)", ids=IDS)[1] == "0 sleep\n"


def test_its_terminal_there_is_its_own(shifted: Container) -> None:
    user = {"uid": 7, "gid": 7, "additionalGids": []}
    process = {"terminal": True, "user": user}
    _, (master,) = shifted.pod.ask(
        "exec", shifted.exec("sh", "-c", "tty; stat -Lc %u /proc/self/fd/0", process=process, ids=IDS)
    )
    assert shifted.pod.event("exec_exit")["code"] == 0
    assert read_terminal(master).split() == ["/dev/pts/0", "7"]
