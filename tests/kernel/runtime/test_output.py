"""What a container writes is in its log when its end is told, whatever the disk and other readers do."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from runtime import crilog, output
from runtime.errors import FailedPrecondition
from tests.descriptors import open_descriptors
from tests.kernel.runtime.conftest import Clock
from tests.kernel.runtime.containers import Image, bind, needs_busybox
from tests.kernel.runtime.driven import Driven
from tests.kernel.runtime.starts import answer, exit_of, log_of, logged, request

pytestmark = needs_busybox


def test_a_process_elsewhere_that_holds_the_output_gets_a_finite_time(
    pod: Driven, image: Image, clock: Clock, tmp_path: Path
) -> None:
    before = len(open_descriptors())
    (tmp_path / "gate").mkdir()
    # Without a cgroup and without a PID namespace nothing ends what the shell has left.
    script = "(while [ ! -e /gate/open ]; do sleep 0.01; done; echo late; exec sleep 1000) & echo $!; exit 0"
    mounts = [bind(tmp_path / "gate", "/gate")]
    pod.do("start", request(image, "sh", "-c", script, pid_mode="node", process={"mounts": mounts}))
    assert exit_of(pod)["code"] == 0
    holder = int(logged(image))
    (tmp_path / "gate/open").touch()
    pod.turn_until(lambda: logged(image) == f"{holder}\nlate\n")
    clock.advance(output.DRAIN_SECONDS - 0.1)
    pod.monitor.loop.turn(0)
    assert len(open_descriptors()) > before
    clock.advance(0.2)
    pod.monitor.loop.turn(0)
    assert len(open_descriptors()) == before
    os.kill(holder, signal.SIGKILL)


def test_all_that_was_written_is_in_the_log_when_the_exit_is_told(pod: Driven, image: Image) -> None:
    lines = "".join(f"line {number}\n" for number in range(5000))
    (image.layer / "lines").write_text(lines)
    pod.do("start", request(image, "cat", "/lines"))
    exit_of(pod)
    assert logged(image) == lines


def test_the_log_costs_a_few_times_what_its_prefixes_cost(pod: Driven, image: Image) -> None:
    size = 64 * 1024 * 1024
    lines = (b"y" * 99 + b"\n") * (size // 100)
    (image.layer / "lines").write_bytes(lines)
    log = f"/dev/shm/crisp-test-{os.getpid()}.log"
    pod.do("start", request(image, "cat", "/lines", log_path=log))
    began = time.thread_time()
    exit_of(pod)
    spent = time.thread_time() - began
    assert os.path.getsize(log) == size // 100 * 100 + size // 100 * 40
    os.unlink(log)
    began = time.thread_time()
    lines.replace(b"\n", b"\n" + b"x" * 40)
    prefixes = time.thread_time() - began
    # Of processor time, and of the same machine's: 1.6 times here, where both are read and written as well.
    assert spent < 8 * prefixes, f"{size / spent / 1e6:.0f} MB/s of CPU, the prefixes alone {size / prefixes / 1e6:.0f}"


def test_a_log_is_reopened_before_the_answer(pod: Driven, image: Image) -> None:
    log = log_of(image)
    pod.do("start", request(image, "sh", "-c", "echo one; read x; echo two; sleep 100", stdin=True))
    pod.turn_until(lambda: log.exists() and "one" in log.read_text())
    log.rename(image.path / "log/old.log")
    pod.do("reopen_log", {"container": "one"})
    assert log.read_text() == ""
    answer(pod, b"go\n")
    pod.turn_until(lambda: "two" in log.read_text())
    assert "two" not in (image.path / "log/old.log").read_text()


def test_the_log_of_an_ended_container_is_not_reopened(pod: Driven, image: Image) -> None:
    pod.do("start", request(image, "true"))
    exit_of(pod)
    with pytest.raises(FailedPrecondition, match="its log is closed"):
        pod.do("reopen_log", {"container": "one"})


def test_without_a_log_path_output_is_discarded_and_never_blocks(pod: Driven, image: Image) -> None:
    pod.do("start", request(image, "sh", "-c", "head -c 1000000 /dev/zero; exit 6", log_path=None))
    assert exit_of(pod)["code"] == 6
    assert not (image.path / "log").exists()


def test_a_full_disk_never_blocks_the_container(pod: Driven, image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, parts: list[bytes]) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(crilog.os, "writev", full)  # type: ignore[attr-defined] # the os module itself
    pod.do("start", request(image, "sh", "-c", "i=0; while [ $i -lt 3000 ]; do echo $i; i=$((i+1)); done; exit 7"))
    end = exit_of(pod)
    assert (end["code"], end["log_dropped"]) == (7, 3000)
    assert pod.do("hello")["containers"]["one"]["log_dropped"] == 3000
    told = [event["dropped"] for event in pod.events if event["event"] == "log_dropped"]
    assert told[-1] == 3000 and told == sorted(told)
    assert "3000 entries of the log of one" in (pod.directory / "monitor.log").read_text()


def test_what_a_full_disk_refuses_is_told_while_the_container_runs_and_not_at_each_line(
    pod: Driven, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, parts: list[bytes]) -> int:
        raise OSError(28, "No space left on device")

    plain = os.writev
    monkeypatch.setattr(crilog.os, "writev", full)  # type: ignore[attr-defined]
    monkeypatch.setattr(output, "DROPS_SECONDS", 0.05)
    pod.do("start", request(image, "sh", "-c", "echo 1; echo 2; echo 3; read x; echo 4; exit 0", stdin=True))
    pod.turn_until(lambda: pod.monitor.pod.containers["one"].describe()["log_dropped"] == 3)
    assert pod.event("log_dropped") == {"event": "log_dropped", "container": "one", "dropped": 3}
    monkeypatch.setattr(crilog.os, "writev", plain)  # type: ignore[attr-defined]
    stdin = pod.monitor.pod.containers["one"].stdin
    assert stdin is not None
    os.write(stdin, b"go\n")
    assert exit_of(pod)["log_dropped"] == 3
    assert logged(image) == "4\n" and not [event for event in pod.events if event["event"] == "log_dropped"]


def test_a_container_that_loses_nothing_says_nothing_of_it(pod: Driven, image: Image) -> None:
    pod.do("start", request(image, "echo", "x"))
    assert "log_dropped" not in exit_of(pod)
    assert [event["event"] for event in pod.events] == []


def test_a_terminals_output_is_logged_as_stdout(pod: Driven, image: Image) -> None:
    pod.do("start", request(image, "sh", "-c", "tty; echo err >&2", process={"terminal": True}))
    exit_of(pod)
    assert logged(image) == "/dev/pts/0\r\nerr\r\n"


def test_who_does_not_read_holds_the_output_up_until_it_reads_again(pod: Driven, image: Image) -> None:
    size = 1 << 20
    pod.do("start", request(image, "sh", "-c", f"read x; head -c {size} /dev/zero; exit 0", stdin=True))
    _, (near,) = pod.ask("attach", {"container": "one", "attach": "a", "streams": ["stdout"], "stdin": False})
    answer(pod, b"go\n")
    pod.turn_until(lambda: len(logged(image)) > 0)
    for _ in range(10):
        pod.monitor.loop.turn(0)
    assert len(logged(image)) < size
    os.set_blocking(near, False)
    heard = 0

    def ended() -> bool:
        nonlocal heard
        try:
            while chunk := os.read(near, size):
                heard += len(chunk)
        except BlockingIOError:
            return False
        return True

    pod.turn_until(ended)
    os.close(near)
    assert exit_of(pod)["code"] == 0
    assert heard == len(logged(image)) == size
