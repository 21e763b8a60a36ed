"""A monitor answers, outlives its daemon, forgets nothing, and ends with its pod."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from runtime import channel, monitor
from runtime.errors import AlreadyExists, FailedPrecondition, HostFault, NotFound, NotSupported
from runtime.linux.script import Script
from runtime.loop import Loop
from runtime.monitor import Monitor
from runtime.procfs import start_time
from tests.kernel.runtime.containers import Image, needs_busybox
from tests.kernel.runtime.driven import NOWHERE, SANDBOX, Driven, cgroups, driven
from tests.kernel.runtime.launched import executing


def sleep(*args: Any) -> NoReturn:
    os.execv("/bin/sleep", ["sleep", "1000"])


def answer_nothing(*args: Any) -> NoReturn:
    os._exit(0)


SLEEPER = executing(["/bin/sleep", "1000"])


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Driven]:
    """A pod whose containers are sleeping processes of the host."""
    with driven(tmp_path, SLEEPER) as made:
        yield made


def start(name: str, **changes: Any) -> dict[str, Any]:
    process = {"terminal": False, "user": {"uid": 0, "gid": 0, "additionalGids": []}}
    spec = {"process": process, "linux": {"namespaces": []}}
    made = {"container": name, "spec": spec, "cgroup": NOWHERE, "pid_mode": "node", "log_path": None}
    return {**made, "stdin": False, "memory_events": None, **changes}


def test_hello_tells_who_it_is_and_what_runs(pod: Driven) -> None:
    pid = pod.do("start", start("one"))["pid"]
    pod.do("start", start("two"))
    pod.do("kill", {"container": "two"})
    pod.event("exit")
    hello = pod.do("hello")
    assert (hello["version"], hello["pid"], hello["start_time"]) == (1, os.getpid(), start_time(os.getpid()))
    assert (hello["sandbox"], hello["pause"]) == ("sandbox-one", None)
    assert hello["containers"]["one"] == {"pid": pid, "state": "running", "exit": None, "log_dropped": 0}
    assert hello["containers"]["two"]["state"] == "exited"
    assert hello["containers"]["two"]["exit"]["code"] == 137


def test_unknown_operations_and_containers_are_refused(pod: Driven) -> None:
    with pytest.raises(NotSupported):
        pod.do("fly")
    for op, args in (("signal", {"signal": 15}), ("kill", {}), ("reopen_log", {}), ("forget", {})):
        with pytest.raises(NotFound):
            pod.do(op, {"container": "absent", **args})


def test_a_request_without_its_arguments_is_refused_and_harms_nothing(pod: Driven) -> None:
    with pytest.raises(HostFault, match="KeyError"):
        pod.do("start", {"container": "one"})
    with pytest.raises(HostFault, match="KeyError"):
        pod.do("signal", {})
    assert pod.do("hello")["containers"] == {}


def test_an_exited_container_is_remembered_until_it_is_forgotten(pod: Driven) -> None:
    pod.do("start", start("one"))
    with pytest.raises(FailedPrecondition, match="has not ended"):
        pod.do("forget", {"container": "one"})
    pod.do("kill", {"container": "one"})
    pod.event("exit")
    with pytest.raises(AlreadyExists):
        pod.do("start", start("one"))
    pod.do("forget", {"container": "one"})
    assert pod.do("hello")["containers"] == {}


def test_only_so_many_exited_containers_are_remembered(pod: Driven, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "REMEMBERED", 3)
    for number in range(6):
        pod.do("start", start(f"c{number}"))
        pod.do("kill", {"container": f"c{number}"})
        pod.event("exit")
    pod.do("start", start("last"))
    assert list(pod.do("hello")["containers"]) == ["c4", "c5", "last"]


def connect(directory: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout(30)
    sock.connect(str(directory / "monitor.sock"))
    return sock


def test_containers_outlive_the_daemon_and_the_next_one_finds_them(pod: Driven) -> None:
    pod.ask("sandbox", {**SANDBOX, "namespaces": []})
    pid = pod.do("start", start("one"))["pid"]
    pod.hang_up()
    pod.monitor.loop.turn(1)
    assert not pod.monitor.loop.stopped
    os.kill(pid, signal.SIGKILL)  # it ends while nobody is there
    while not (pod.directory / "exits/one.json").exists():
        pod.monitor.loop.turn(0.05)
    pod._near = connect(pod.directory)
    pod._near.setblocking(False)
    assert pod.do("hello")["containers"]["one"]["exit"]["code"] == 137


def test_a_blank_monitor_whose_daemon_has_gone_ends(tmp_path: Path) -> None:
    with driven(tmp_path, SLEEPER) as pod:
        pod.hang_up()
        pod.monitor.loop.run()  # comes back
        assert pod.monitor.loop.stopped


def test_a_monitor_whose_daemon_has_gone_ends_with_the_last_process_of_its_pod(tmp_path: Path) -> None:
    with driven(tmp_path, SLEEPER) as pod:
        pause = pod.do("sandbox", {**SANDBOX, "namespaces": []})["pause_pid"]
        pod.hang_up()
        pod.monitor.loop.turn(0.2)
        assert not pod.monitor.loop.stopped
        os.kill(pause, signal.SIGKILL)
        pod.monitor.loop.run()  # comes back
        assert pod.monitor.loop.stopped


def test_shutdown_kills_everything_answers_and_ends(tmp_path: Path) -> None:
    pod = Driven(tmp_path, SLEEPER)
    with cgroups("shutdown") as dirs:
        pause = pod.do("sandbox", {**SANDBOX, "namespaces": [], "cgroup": dirs})["pause_pid"]
        pids = [pod.do("start", start(name))["pid"] for name in ("one", "two")]
        assert pod.do("shutdown") == {}
        assert pod.monitor.loop.stopped
        assert sorted(event["event"] for event in pod.events) == ["exit", "exit", "pause_exit"]
        assert not any(os.path.exists(f"/proc/{pid}") for pid in (pause, *pids))
        pod.close()
    assert sorted(os.listdir(tmp_path)) == ["exits"]
    assert sorted(os.listdir(tmp_path / "exits")) == ["one.json", "two.json"]


def test_nothing_starts_in_a_pod_that_is_shut_down(pod: Driven) -> None:
    pod.do("start", start("one"))
    number = pod.begin("shutdown", {})
    refused = pod.begin("start", start("two"))
    with pytest.raises(FailedPrecondition, match="shut down"):
        pod.end(refused)
    assert pod.end(number) == ({}, [])


def test_a_shutdown_that_something_survives_is_a_fault(pod: Driven, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "SHUTDOWN_SECONDS", 0.1)
    pod.do("start", start("one"))
    monkeypatch.setattr("runtime.container.Container.kill", lambda container: None)
    with pytest.raises(HostFault, match="1 processes do not end"):
        pod.do("shutdown")
    monkeypatch.undo()


@needs_busybox
def test_a_user_is_looked_up_in_the_image(tmp_path: Path) -> None:
    (tmp_path / "image").mkdir()
    image = Image(tmp_path / "image")
    with driven(tmp_path) as pod:
        request: dict[str, Any] = {"rootfs": image.request()["rootfs"], "gid": None, "groups": [], "policy": "Merge"}
        assert pod.do("resolve_user", {**request, "user": "app"}) == {
            "uid": 1000,
            "gid": 1000,
            "additionalGids": [1000],
            "home": "/home/app",
        }
        with pytest.raises(FailedPrecondition):
            pod.do("resolve_user", {**request, "user": "nobody-knows"})
        assert pod.do("hello")["containers"] == {}


@needs_busybox
def test_a_path_is_looked_up_in_the_image(tmp_path: Path) -> None:
    (tmp_path / "image").mkdir()
    image = Image(tmp_path / "image")
    with driven(tmp_path) as pod:
        rootfs = image.request()["rootfs"]
        assert pod.do("find_in_image", {"rootfs": rootfs, "path": "etc"}) == {"directory": True}
        with pytest.raises(FailedPrecondition, match="nothing/here: is not in the image"):
            pod.do("find_in_image", {"rootfs": rootfs, "path": "nothing/here"})


def test_a_look_into_an_image_that_hangs_is_ended(pod: Driven, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr("runtime.image.probe_rootfs", sleep)
    # It executes sleep, which is not an answer; then it is killed, so that nothing of it is left.
    with pytest.raises(HostFault, match="ended without an answer"):
        pod.do("resolve_user", {"rootfs": {}, "user": ""})
    pod.turn_until(lambda: len(pod.monitor.pod.children) == 0)


def test_a_child_that_says_nothing_is_a_fault(pod: Driven, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.image.probe_rootfs", answer_nothing)
    with pytest.raises(HostFault, match="ended without an answer"):
        pod.do("resolve_user", {"rootfs": {}, "user": ""})


def test_a_fault_of_its_own_is_noted_and_survived(pod: Driven) -> None:
    def fail() -> None:
        raise RuntimeError("a bug")

    pod.monitor.loop.later(0, fail)
    pod.do("hello")
    assert "RuntimeError: a bug (at " in (pod.directory / "monitor.log").read_text()


def test_it_lives_until_the_pod_is_shut_down(tmp_path: Path) -> None:
    near, far = channel.pair()
    near.settimeout(30)
    pid = os.fork()
    if pid == 0:
        near.close()
        Monitor(-1).live("forked", os.open(tmp_path, os.O_RDONLY), far)
        os._exit(0)
    far.close()
    for number, op in enumerate(("hello", "shutdown")):
        channel.send(near, channel.request(number, op, {}))
        received = channel.receive(near)
        assert received is not None
        assert received[0]["id"] == number
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert channel.receive(near) is None
    near.close()


def test_what_ends_it_untimely_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(loop: Loop) -> None:
        raise MemoryError("none left")

    monkeypatch.setattr(Loop, "run", fail)
    near, far = channel.pair()
    made = Monitor(-1)
    with pytest.raises(MemoryError):
        made.live("sandbox", os.open(tmp_path, os.O_RDONLY), far)
    made.close()
    near.close()
    assert "MemoryError: none left" in (tmp_path / "monitor.log").read_text()


def ending(status: int) -> Script:
    script = Script()
    script.call("exit_group", status)
    return script


def test_the_end_of_a_script_that_makes_mountpoints_is_told(tmp_path: Path) -> None:
    with driven(tmp_path, ending(0)) as pod:
        assert pod.do("make_mountpoints") == {}
        pod.stand_in = ending(3)
        with pytest.raises(HostFault, match="wait status 768") as failed:
            pod.do("make_mountpoints")
        assert failed.value.step == "make mountpoints"


def test_a_call_that_fails_while_mountpoints_are_made_is_told(tmp_path: Path) -> None:
    script = Script()
    script.call("chdir", "/nowhere", object="/nowhere")
    with driven(tmp_path, script) as pod, pytest.raises(HostFault, match="/nowhere"):
        pod.do("make_mountpoints")


def test_making_mountpoints_does_not_last_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "MAKE_SECONDS", 0.05)
    with driven(tmp_path, SLEEPER) as pod, pytest.raises(HostFault, match="wait status 9"):
        pod.do("make_mountpoints")


def test_no_mountpoints_are_made_for_a_pod_that_is_shut_down(tmp_path: Path) -> None:
    with driven(tmp_path, ending(0)) as pod:
        pod.monitor._shut = True
        with pytest.raises(FailedPrecondition, match="being shut down"):
            pod.do("make_mountpoints")
