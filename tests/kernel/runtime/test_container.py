"""A container's start, log and end, as its monitor tells them, are exact."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from runtime import container, exits
from runtime.errors import AlreadyExists, FailedPrecondition, HostFault, InvalidArgument, NotFound, StartRefused
from runtime.linux.script import Script
from tests.descriptors import open_descriptors
from tests.kernel.runtime.containers import Image, needs_busybox
from tests.kernel.runtime.driven import NOWHERE, SANDBOX, Driven, cgroups, driven
from tests.kernel.runtime.starts import answer, exit_of, logged, request

pytestmark = needs_busybox


def test_a_container_runs_logs_and_ends(pod: Driven, image: Image) -> None:
    before = time.time_ns()
    started = pod.do("start", request(image, "sh", "-c", "echo out; echo err >&2; exit 3"))
    record = exit_of(pod)
    assert record["pid"] == started["pid"]
    assert (record["code"], record["signal"], record["oom"]) == (3, 0, False)
    assert before < started["started_at"] < time.time_ns()
    assert before < record["finished_at"] < time.time_ns()
    assert (logged(image), logged(image, "stderr")) == ("out\n", "err\n")


@pytest.mark.parametrize("code", [0, 1, 255])
def test_exit_codes_are_exact(pod: Driven, image: Image, code: int) -> None:
    pod.do("start", request(image, "sh", "-c", f"exit {code}"))
    assert exit_of(pod)["code"] == code


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, 137), (signal.SIGTERM, 143)])
def test_an_end_by_signal_is_128_and_its_number(pod: Driven, image: Image, number: int, code: int) -> None:
    pod.do("start", request(image, "sleep", "100", pid_mode="node"))
    pod.do("signal", {"container": "one", "signal": number})
    record = exit_of(pod)
    assert (record["code"], record["signal"], record["oom"]) == (code, number, False)
    pod.do("signal", {"container": "one", "signal": number})  # nobody there any more


def test_the_record_is_on_disk_before_anyone_is_told(
    pod: Driven, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    write = exits.write_exit
    announce = pod.monitor.pod.announce

    def writing(directory: int, record: Any) -> None:
        write(directory, record)
        order.append("written")

    def announcing(event: Any) -> None:
        order.append("told")
        announce(event)

    monkeypatch.setattr(exits, "write_exit", writing)
    pod.monitor.pod.announce = announcing
    pod.do("start", request(image, "true"))
    exit_of(pod)
    assert order == ["written", "told"]


def test_an_exit_is_told_and_kept_even_where_it_cannot_be_written(pod: Driven, image: Image) -> None:
    pod.do("start", request(image, "sh", "-c", "read x; exit 4", stdin=True))
    os.rmdir(pod.directory / "exits")
    answer(pod, b"go\n")
    assert pod.event("exit")["record"]["code"] == 4
    assert pod.do("hello")["containers"]["one"]["exit"]["code"] == 4
    assert "record the exit" in (pod.directory / "monitor.log").read_text()


def test_an_entrypoint_that_is_missing_refuses_the_start_and_leaves_nothing(pod: Driven, image: Image) -> None:
    before = len(open_descriptors())
    with pytest.raises(StartRefused, match="nonesuch"):
        pod.do("start", request(image, "nonesuch"))
    assert pod.do("hello")["containers"] == {}
    assert pod.events == []
    assert len(open_descriptors()) == before
    pod.do("start", request(image, "true"))  # and the same name starts again
    assert exit_of(pod)["code"] == 0


def test_a_reason_of_the_host_is_a_host_fault(pod: Driven, image: Image) -> None:
    wrong = request(image, "true")
    wrong["rootfs"]["lowerdirs"] = ["/nonexistent"]
    with pytest.raises(HostFault, match="/nonexistent"):
        pod.do("start", wrong)


def test_a_log_that_cannot_be_opened_refuses_the_start(pod: Driven, image: Image) -> None:
    (image.path / "log").symlink_to("/dev")
    with pytest.raises(InvalidArgument, match="not a regular file"):
        pod.do("start", request(image, "true", log_path=f"{image.path}/log/null"))
    assert len(pod.monitor.pod.children) == 0


def test_a_shortage_of_descriptors_closes_the_log_again(
    pod: Driven, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(**how: bool) -> NoReturn:
        raise OSError(24, "Too many open files")

    before = len(open_descriptors())
    monkeypatch.setattr(container, "Stdio", short)
    with pytest.raises(HostFault, match="EMFILE"):
        pod.do("start", request(image, "true"))
    assert len(open_descriptors()) == before


def test_the_same_container_is_not_started_twice(pod: Driven, image: Image) -> None:
    pod.do("start", request(image, "sleep", "100"))
    with pytest.raises(AlreadyExists):
        pod.do("start", request(image, "sleep", "100"))


def test_a_killed_container_leaves_no_process(pod: Driven, image: Image) -> None:
    with cgroups("kill") as dirs:
        pod.do("start", request(image, "sh", "-c", "sleep 100 & sleep 100", cgroup=dirs, pid_mode="node"))
        pod.do("kill", {"container": "one"})
        assert exit_of(pod)["code"] == 137
        pod.turn_until(lambda: remaining(dirs) == [])


def test_what_outlives_the_main_process_is_killed(pod: Driven, image: Image) -> None:
    with cgroups("rest") as dirs:
        pod.do("start", request(image, "sh", "-c", "sleep 100 & sleep 100 & exit 5", cgroup=dirs, pid_mode="node"))
        assert exit_of(pod)["code"] == 5
        pod.turn_until(lambda: remaining(dirs) == [])


def remaining(dirs: Any) -> list[str]:
    path = dirs["v2"] or dirs["v1"][0]
    return Path(path, "cgroup.procs").read_text().split()


def test_a_container_without_stdin_reads_nothing(pod: Driven, image: Image) -> None:
    pod.do("start", request(image, "sh", "-c", "cat; echo done"))
    exit_of(pod)
    assert logged(image) == "done\n"


def test_a_terminal_is_resized_and_typed_into_until_its_container_ends(pod: Driven, image: Image) -> None:
    before = len(open_descriptors())
    script = "read x; stty size; exit 0"
    pod.do("start", request(image, "sh", "-c", script, stdin=True, process={"terminal": True}))
    size, ask = {"container": "one", "width": 101, "height": 42}, {"container": "one", "attach": "a"}
    pod.do("resize", size)
    _, (near, typed) = pod.ask("attach", {**ask, "streams": ["stdout"], "stdin": True})
    os.write(typed, b"go\n")
    assert exit_of(pod)["code"] == 0
    assert "42 101" in logged(image)
    with pytest.raises(FailedPrecondition, match="has no terminal"):
        pod.do("resize", size)
    with pytest.raises(FailedPrecondition, match="is not running"):
        pod.do("attach", {**ask, "streams": ["stdout"], "stdin": False})
    os.close(near)
    os.close(typed)
    assert len(open_descriptors()) == before


def test_containers_have_the_pods_namespaces_and_pids_as_asked(pod: Driven, image: Image, tmp_path: Path) -> None:
    made, descriptors = pod.ask("sandbox", {**SANDBOX, "namespaces": ["network", "ipc", "uts", "pid"]})
    for descriptor in descriptors:
        os.close(descriptor)
    pause = made["pause_pid"]
    pids = {}
    for name, mode, target in (("own", "container", None), ("pod", "pod", None), ("of", "target", "own")):
        (tmp_path / f"image-{name}").mkdir()
        start = request(Image(tmp_path / f"image-{name}"), "sleep", "100", container=name, pid_mode=mode, target=target)
        pids[name] = pod.do("start", start)["pid"]
    start = request(image, "sleep", "100", container="node", pid_mode="node")
    pids["node"] = pod.do("start", start)["pid"]

    def namespace(pid: int | str, kind: str) -> str:
        return os.readlink(f"/proc/{pid}/ns/{kind}")

    for kind in ("net", "ipc", "uts"):
        assert {namespace(pid, kind) for pid in pids.values()} == {namespace(pause, kind)}
        assert namespace(pause, kind) != namespace("self", kind)
    assert namespace(pids["pod"], "pid") == namespace(pause, "pid")
    assert namespace(pids["of"], "pid") == namespace(pids["own"], "pid") != namespace(pause, "pid")
    assert namespace(pids["node"], "pid") == namespace("self", "pid")


@pytest.mark.parametrize(
    ("mode", "target", "fault"), [("pod", None, FailedPrecondition), ("target", "absent", NotFound)]
)
def test_a_pid_namespace_that_is_not_there_refuses_the_start(
    pod: Driven, image: Image, mode: str, target: str | None, fault: type[Exception]
) -> None:
    before = len(open_descriptors())
    with pytest.raises(fault):
        pod.do("start", request(image, "true", pid_mode=mode, target=target))
    assert len(open_descriptors()) == before


def counter(path: Path) -> Callable[[int], None]:
    def set_to(value: int) -> None:
        path.write_text(f"low 0\noom 1\noom_kill {value}\n")

    return set_to


@pytest.mark.parametrize(
    ("moved", "number", "oom"),
    [(True, signal.SIGKILL, True), (False, signal.SIGKILL, False), (True, signal.SIGTERM, False)],
)
def test_oom_needs_the_counter_to_move_and_sigkill(
    pod: Driven, image: Image, moved: bool, number: int, oom: bool
) -> None:
    kills = counter(image.path / "memory.events")
    kills(4)
    events = str(image.path / "memory.events")
    pod.do("start", request(image, "sleep", "100", pid_mode="node", memory_events=events))
    kills(5 if moved else 4)
    pod.do("signal", {"container": "one", "signal": number})
    assert exit_of(pod)["oom"] is oom


def test_who_outlived_an_oom_kill_of_a_child_and_is_killed_by_us_is_not_oom_killed(pod: Driven, image: Image) -> None:
    kills = counter(image.path / "memory.events")
    kills(0)
    events = str(image.path / "memory.events")
    pod.do("start", request(image, "sleep", "100", pid_mode="node", memory_events=events))
    kills(1)
    pod.do("kill", {"container": "one"})
    record = exit_of(pod)
    assert (record["code"], record["oom"]) == (137, False)


def test_an_unreadable_counter_is_noted_and_no_oom(pod: Driven, image: Image) -> None:
    pod.do("start", request(image, "true", memory_events="/proc/self/mem"))
    assert exit_of(pod)["oom"] is False
    assert "count OOM kills" in (pod.directory / "monitor.log").read_text()


def test_a_real_oom_kill_is_told(pod: Driven, image: Image) -> None:
    if not os.path.exists("/sys/fs/cgroup/memory/memory.oom_control"):
        pytest.skip("needs the memory controller of cgroup v1")
    with cgroups("oom", "memory") as dirs:
        memory = next(path for path in dirs["v1"] if "/memory/" in path)
        Path(memory, "memory.limit_in_bytes").write_text("8M")
        hog = "x=$(head -c 64000000 /dev/zero | tr '\\0' x); echo ${#x}"
        start = request(image, "sh", "-c", f"exec sh -c '{hog}'".replace("'\\0'", '"\\0"'), cgroup=dirs)
        start["memory_events"] = f"{memory}/memory.oom_control"
        (image.layer / "bin/tr").symlink_to("busybox")
        pod.do("start", start)
        record = exit_of(pod)
        assert (record["code"], record["oom"]) == (137, True)


def test_an_init_that_dies_silently_counts_as_started_and_ended(tmp_path: Path) -> None:
    vanishing = Script()
    vanishing.call("exit_group", 5)
    with driven(tmp_path, vanishing) as pod:
        spec = {"process": {"terminal": False}, "linux": {"namespaces": []}}
        start = {"container": "one", "spec": spec, "cgroup": NOWHERE, "pid_mode": "node", "log_path": None}
        pod.do("start", {**start, "stdin": False, "memory_events": None})
        assert pod.event("exit")["record"]["code"] == 5
