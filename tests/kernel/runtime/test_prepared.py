"""A container that is prepared starts as any other does, or as if it had never been prepared."""

from __future__ import annotations

import os
import signal
import struct
from pathlib import Path

import pytest

from runtime import prepared
from runtime.errors import AlreadyExists, FailedPrecondition, HostFault, NotFound, StartRefused
from runtime.linux.capabilities import mask
from runtime.linux.numbers import NUMBERS
from runtime.program import LAUNCH
from tests.descriptors import open_descriptors
from tests.kernel.runtime.conftest import Clock
from tests.kernel.runtime.containers import DEFAULT_CAPABILITIES, Image, needs_busybox
from tests.kernel.runtime.driven import Driven, cgroups
from tests.kernel.runtime.starts import ONE, answer, exit_of, log_of, logged, request

pytestmark = needs_busybox

ALLOW = struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000)
DEFAULT_MASK = mask(DEFAULT_CAPABILITIES)


def waiting(pod: Driven) -> int:
    """The pid of the process that waits."""
    (pid,) = pod.monitor.pod.children._children
    waits = str(NUMBERS["read"])
    pod.turn_until(lambda: Path(f"/proc/{pid}/syscall").read_text().split()[0] == waits)
    return pid


def wait_state(pod: Driven, pid: int, state: str) -> None:
    pod.turn_until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith(state))


def test_nothing_of_it_is_told_or_executed_before_its_release(pod: Driven, image: Image) -> None:
    pod.do("prepare", request(image, "sh", "-c", "echo ran; exit 3"))
    pid = waiting(pod)
    assert os.path.samefile(f"/proc/{pid}/exe", LAUNCH)
    assert pod.do("hello")["containers"] == {}
    assert log_of(image).read_bytes() == b""
    started = pod.do("release", ONE)
    assert started["pid"] == pid
    assert exit_of(pod)["code"] == 3
    assert logged(image) == "ran\n"
    assert pod.monitor.pod.prepared == {}


def test_it_waits_without_what_the_container_may_not_have(pod: Driven, image: Image, tmp_path: Path) -> None:
    """Whoever shares its PID namespace has a minute to get at it: there has to be nothing to be had."""
    program = tmp_path / "seccomp"
    program.write_bytes(ALLOW)
    user = {"uid": 1000, "gid": 1000, "additionalGids": []}
    process = {"user": user, "noNewPrivileges": True}
    pod.do("prepare", request(image, "true", seccomp=str(program), process=process))
    pid = waiting(pod)
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    assert status["Uid"].split() == ["1000"] * 4 and int(status["CapEff"], 16) == DEFAULT_MASK
    assert int(status["CapPrm"], 16) == int(status["CapBnd"], 16) == DEFAULT_MASK
    assert (status["Seccomp"].strip(), status["NoNewPrivs"].strip()) == ("2", "1")
    assert len(os.listdir(f"/proc/{pid}/fd")) == 4, "the streams and the report"


def test_nobody_of_its_own_user_looks_into_it(pod: Driven, image: Image) -> None:
    user = {"uid": 1000, "gid": 1000, "additionalGids": []}
    pod.do("prepare", request(image, "true", process={"user": user}))
    pid = waiting(pod)
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setresgid(1000, 1000, 1000)
        os.setresuid(1000, 1000, 1000)
        try:
            os.listdir(f"/proc/{pid}/fd")
        except PermissionError:
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_terminal_is_made_before_the_release_and_used_after_it(pod: Driven, image: Image) -> None:
    pod.do("prepare", request(image, "tty", process={"terminal": True}))
    waiting(pod)
    pod.do("release", ONE)
    assert exit_of(pod)["code"] == 0
    assert logged(image) == "/dev/pts/0\r\n"


def test_what_is_discarded_is_gone_when_that_is_answered(pod: Driven, image: Image) -> None:
    before = len(open_descriptors())
    with cgroups("discard") as dirs:
        pod.do("prepare", request(image, "sleep", "100", cgroup=dirs))
        pid = waiting(pod)
        pod.do("discard", ONE)
        assert not os.path.exists(f"/proc/{pid}")
        assert pod.events == [] and pod.do("hello")["containers"] == {}
        pod.do("discard", ONE)  # nothing to do any more
        pod.do("start", request(image, "true", cgroup=dirs))
        assert exit_of(pod)["code"] == 0
    assert len(open_descriptors()) == before


def test_only_what_is_prepared_can_be_released(pod: Driven, image: Image) -> None:
    with pytest.raises(NotFound, match="not prepared"):
        pod.do("release", ONE)
    pod.do("prepare", request(image, "sleep", "100"))
    pod.do("release", ONE)
    with pytest.raises(NotFound, match="not prepared"):
        pod.do("release", ONE)


def test_it_is_neither_prepared_nor_started_twice(pod: Driven, image: Image) -> None:
    pod.do("prepare", request(image, "sleep", "100"))
    for op in ("prepare", "start"):
        with pytest.raises(AlreadyExists):
            pod.do(op, request(image, "sleep", "100"))
    pod.do("release", ONE)
    for op in ("prepare", "start"):
        with pytest.raises(AlreadyExists):
            pod.do(op, request(image, "sleep", "100"))


def test_one_that_the_kernel_has_killed_is_not_released(pod: Driven, image: Image) -> None:
    pod.do("prepare", request(image, "sleep", "100"))
    pid = waiting(pod)
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(NotFound, match="not prepared"):
        pod.do("release", ONE)
    pod.turn_until(lambda: not pod.monitor.pod.prepared)
    assert pod.events == []


def test_a_script_that_fails_before_the_release_is_forgotten(pod: Driven, image: Image) -> None:
    wrong = request(image, "true")
    wrong["rootfs"]["lowerdirs"] = ["/nonexistent"]
    pod.do("prepare", wrong)
    pod.turn_until(lambda: not pod.monitor.pod.prepared)
    with pytest.raises(NotFound, match="not prepared"):
        pod.do("release", ONE)
    with pytest.raises(HostFault, match="/nonexistent"):
        pod.do("start", wrong)


def test_what_fails_after_the_release_is_the_starts_fault(pod: Driven, image: Image) -> None:
    before = len(open_descriptors())
    pod.do("prepare", request(image, "nonesuch"))
    waiting(pod)
    with pytest.raises(StartRefused, match="nonesuch"):
        pod.do("release", ONE)
    assert pod.do("hello")["containers"] == {}
    assert len(open_descriptors()) == before


def test_one_that_somebody_has_stopped_goes_on_when_it_is_released(pod: Driven, image: Image) -> None:
    pod.do("prepare", request(image, "true"))
    pid = waiting(pod)
    os.kill(pid, signal.SIGSTOP)
    wait_state(pod, pid, "T")
    pod.do("release", ONE)
    assert exit_of(pod)["code"] == 0


def test_it_does_not_wait_for_ever(pod: Driven, image: Image, clock: Clock) -> None:
    pod.do("prepare", request(image, "true"))
    pid = waiting(pod)
    clock.advance(prepared.SECONDS - 1)
    assert pod.do("hello") and pod.monitor.pod.prepared
    clock.advance(2)
    pod.turn_until(lambda: not pod.monitor.pod.prepared)
    assert not os.path.exists(f"/proc/{pid}")


def test_what_was_released_is_left_alone_by_the_clock(pod: Driven, image: Image, clock: Clock) -> None:
    pod.do("prepare", request(image, "sh", "-c", "read x; exit 5", stdin=True))
    pod.do("release", ONE)
    clock.advance(prepared.SECONDS + 1)
    assert pod.do("hello")["containers"]["one"]["state"] == "running"
    answer(pod, b"go\n")
    assert exit_of(pod)["code"] == 5


def test_a_pod_that_is_shut_down_takes_it_along(pod: Driven, image: Image) -> None:
    pod.do("prepare", request(image, "true"))
    pid = waiting(pod)
    pod.do("shutdown")
    assert not os.path.exists(f"/proc/{pid}")


def test_nothing_is_prepared_in_a_pod_that_is_being_shut_down(pod: Driven, image: Image) -> None:
    number = pod.begin("prepare", request(image, "true"))
    pod.end(number)
    shutdown = pod.begin("shutdown", {})
    late = pod.begin("prepare", request(image, "true", container="two"))
    pod.end(shutdown)
    with pytest.raises(FailedPrecondition, match="shut down"):
        pod.end(late)
