"""Daemons and monitors that are killed while pods run: who is there afterwards, and what is said.

The counting pods print a thousand numbered lines a second (``counter.c``).
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import grpc
import pytest

from proto import admin_pb2 as admin
from proto import api_pb2 as api
from runtime.procfs import start_time
from tests.failpoints.razing import clear_state
from tests.failpoints.serving import PATIENCE, Daemon, serving, wait_for
from tests.failpoints.truth import check_nothing_remains, check_truth, is_alive, monitors_of, processes_in

pytestmark = pytest.mark.leaks("module")

PODS, KILLS = 20, 5
SHORTEST, LONGER = 4000, 400
"""Lines of the first counting container, and how many more each of the others prints."""


@pytest.fixture(scope="module")
def shared() -> Iterator[Daemon]:
    with serving() as found:
        yield found


@pytest.fixture
def daemon(shared: Daemon) -> Iterator[Daemon]:
    """A daemon that serves and has no pods, before and after."""
    yield shared
    if not shared.is_alive:
        shared.start()
    shared.remove_pods()
    check_nothing_remains(shared)


@pytest.fixture(scope="module")
def counter(shared: Daemon) -> Path:
    compiler = os.environ.get("CC", "gcc")
    if shutil.which(compiler) is None:
        pytest.skip(f"no C compiler ({compiler})")
    program = shared.folder / "counter"
    source = Path(__file__).with_name("counter.c")
    subprocess.run([compiler, "-O1", "-static", "-o", program, source], check=True)
    return program


def start_counting(daemon: Daemon, counter: Path, lines: int, code: int) -> str:
    pod = daemon.pod()
    mount = api.Mount(container_path="/counter", host_path=str(counter), readonly=True)
    return daemon.run(daemon.run_pod(pod), pod, "/counter", str(lines), str(code), mounts=[mount])


def numbers_logged(daemon: Daemon, container: str) -> list[int]:
    """Of every line, in the order of the log."""
    lines = Path(daemon.status(container).log_path).read_bytes().splitlines()
    assert all(line.split(b" ", 3)[1:3] == [b"stdout", b"F"] for line in lines)
    return [int(line.rpartition(b" ")[2]) for line in lines]


@pytest.mark.timeout(180)
def test_five_kills_lose_no_pod_no_line_and_no_exit_code(daemon: Daemon, counter: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    wanted = {start_counting(daemon, counter, SHORTEST + LONGER * n, n + 1): n for n in range(PODS)}
    ready = {pod.id for pod in daemon.pods()}
    for _ in range(KILLS):
        time.sleep(moments.uniform(0.1, 1.0))
        daemon.kill()
        time.sleep(moments.uniform(0.0, 0.5))
        daemon.start()
        pods = daemon.pods()
        assert {pod.id for pod in pods} == ready and len(ready) == PODS
        assert all(pod.state == api.SANDBOX_READY for pod in pods)
        assert {each.id for each in daemon.containers()} == set(wanted)
        assert all(each.state in (api.CONTAINER_RUNNING, api.CONTAINER_EXITED) for each in daemon.containers())
    running = api.CONTAINER_RUNNING
    wait_for(lambda: all(each.state != running for each in daemon.containers()), "all to have counted", 90)
    for container, n in wanted.items():
        status = daemon.status(container)
        assert (status.exit_code, status.reason) == (n + 1, "Error"), status
        assert numbers_logged(daemon, container) == list(range(1, SHORTEST + LONGER * n + 1)), f"seed {seed}"


def two_pods(daemon: Daemon) -> tuple[list[str], list[str]]:
    """The ids of two pods and of a sleeping container in each."""
    requests = [daemon.pod(), daemon.pod()]
    pods = [daemon.run_pod(request) for request in requests]
    return pods, [daemon.run(pod, request) for pod, request in zip(pods, requests, strict=True)]


def kill_monitor(daemon: Daemon, sandbox: str) -> None:
    (pid,) = [pid for pid, owner in monitors_of(daemon).items() if owner == sandbox]
    os.kill(pid, 9)
    wait_for(lambda: not is_alive(pid), "the monitor to be dead")


def check_first_is_lost(daemon: Daemon, pods: list[str], containers: list[str], why: str) -> None:
    """The first pod was killed and says why; the other has noticed nothing."""
    lost, other = containers
    wait_for(lambda: daemon.status(lost).state == api.CONTAINER_EXITED, "the loss to be noticed")
    wait_for(lambda: daemon.pod_status(pods[0]).status.state == api.SANDBOX_NOTREADY, "the pod to be not ready")
    status = daemon.status(lost)
    assert (status.exit_code, status.reason, status.message) == (255, "ContainerStatusUnknown", why)
    assert f'"{why}"' in daemon.pod_status(pods[0]).info["info"]
    check_truth(daemon)
    assert daemon.pod_status(pods[1]).status.state == api.SANDBOX_READY
    answer = daemon.runtime.ExecSync(api.ExecSyncRequest(container_id=other, cmd=["echo", "here"], timeout=20))
    assert answer.stdout == b"here\n"


def test_a_killed_monitor_takes_its_own_containers_along_and_no_other(daemon: Daemon) -> None:
    pods, containers = two_pods(daemon)
    kill_monitor(daemon, pods[0])
    check_first_is_lost(daemon, pods, containers, "the pod's monitor ended")


def test_a_monitor_that_was_killed_with_the_daemon_is_reported_after_the_restart(daemon: Daemon) -> None:
    pods, containers = two_pods(daemon)
    daemon.kill()
    kill_monitor(daemon, pods[0])
    daemon.start()
    check_first_is_lost(daemon, pods, containers, "the pod's monitor ended while no daemon ran")


def test_a_monitor_that_cannot_be_asked_any_more_is_ended_with_its_pod(daemon: Daemon) -> None:
    pods, containers = two_pods(daemon)
    daemon.kill()
    (daemon.state / "pods" / pods[0] / "monitor.sock").unlink()
    daemon.start()
    check_first_is_lost(daemon, pods, containers, "the pod's monitor ended while no daemon ran")
    assert set(monitors_of(daemon).values()) == {pods[1]}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("restarted", [False, True], ids=["", "restarted"])
def test_a_pod_whose_monitor_hangs_is_stopped_and_removed(daemon: Daemon, restarted: bool) -> None:
    """Nothing but SIGKILL ends such a monitor; the other pod notices nothing."""
    pods, containers = two_pods(daemon)
    (pid,) = [pid for pid, owner in monitors_of(daemon).items() if owner == pods[0]]
    os.kill(pid, signal.SIGSTOP)
    if restarted:
        daemon.restart()
    daemon.stop_pod(pods[0])
    assert daemon.status(containers[0]).exit_code == 255
    wait_for(lambda: not is_alive(pid), "the monitor to be dead")
    assert daemon.status(containers[1]).state == api.CONTAINER_RUNNING
    daemon.remove_pod(pods[0])
    check_truth(daemon)


@pytest.mark.timeout(120)
def test_an_empty_pod_whose_monitor_hangs_is_removed(daemon: Daemon) -> None:
    sandbox = daemon.run_pod()
    (pid,) = monitors_of(daemon)
    os.kill(pid, signal.SIGSTOP)
    daemon.remove_pod(sandbox)
    wait_for(lambda: not is_alive(pid), "the monitor to be dead")


def test_a_command_of_an_earlier_daemon_is_in_nobodys_way(daemon: Daemon) -> None:
    _, (container, _) = two_pods(daemon)

    def asked(*command: str) -> api.ExecSyncRequest:
        return api.ExecSyncRequest(container_id=container, cmd=command, timeout=20)

    waits = daemon.runtime.ExecSync.future(asked("sh", "-c", "echo > /begun; exec sleep 10"))
    daemon.runtime.ExecSync(asked("sh", "-c", "while ! [ -e /begun ]; do sleep 0.01; done"))
    daemon.restart()
    assert waits.exception().code() is grpc.StatusCode.UNAVAILABLE
    for _ in range(4):
        assert daemon.runtime.ExecSync(asked("echo", "here")).stdout == b"here\n"


def test_a_killed_zygote_is_replaced_and_no_pod_notices(daemon: Daemon) -> None:
    pods, _ = two_pods(daemon)
    before = daemon.admin.DaemonInfo(admin.DaemonInfoRequest()).zygote_pid
    os.kill(before, 9)
    daemon.run_pod()
    assert daemon.admin.DaemonInfo(admin.DaemonInfoRequest()).zygote_pid not in (0, before)
    assert {pod.id for pod in daemon.pods() if pod.state == api.SANDBOX_READY} > set(pods)
    check_truth(daemon)


def test_an_answer_that_a_killed_daemon_never_gave_is_given_by_the_next_one_and_only_once(daemon: Daemon) -> None:
    request = daemon.pod()
    daemon.arm("RunPodSandbox:answer", "kill")
    with pytest.raises(Exception, match="UNAVAILABLE"):
        daemon.runtime.RunPodSandbox(request, timeout=PATIENCE)
    daemon.reap()
    daemon.start()
    (made,) = daemon.pods()
    assert daemon.run_pod(request) == made.id
    with pytest.raises(Exception, match="ALREADY_EXISTS"):
        daemon.run_pod(request)


def test_after_a_reboot_all_has_ended_and_records_images_and_names_are_kept(daemon: Daemon) -> None:
    pods, containers = two_pods(daemon)
    daemon.stop_pod(pods[1])
    cgroups = [f"/crisp-{daemon.instance}/{pod}" for pod in pods]
    daemon.kill()
    reboot(daemon, cgroups)
    daemon.start()
    assert {pod.id: pod.state for pod in daemon.pods()} == dict.fromkeys(pods, api.SANDBOX_NOTREADY)
    lost = daemon.status(containers[0])
    assert (lost.state, lost.exit_code, lost.reason) == (api.CONTAINER_EXITED, 255, "ContainerStatusUnknown")
    assert lost.message == "the node was restarted"
    with closing(sqlite3.connect(daemon.root / "state.db")) as connection:
        assert connection.execute("SELECT owner FROM leases WHERE released_at IS NULL").fetchall() == []
    assert daemon.run_pod() not in pods, "the image store or the network is not usable"
    check_truth(daemon)


def test_after_a_change_of_the_boot_id_nothing_runs_that_is_said_to_have_ended(daemon: Daemon) -> None:
    """Should a boot id ever change without a boot."""
    pods, containers = two_pods(daemon)
    daemon.kill()
    change_boot_id(daemon)
    daemon.start()
    assert {pod.id: pod.state for pod in daemon.pods()} == dict.fromkeys(pods, api.SANDBOX_NOTREADY)
    assert [daemon.status(container).message for container in containers] == ["the node was restarted"] * 2
    wait_for(lambda: not monitors_of(daemon), "the monitors to be gone")
    check_truth(daemon)


def test_after_a_reboot_nobody_is_killed_who_has_a_monitors_number_now(daemon: Daemon) -> None:
    """Pid and start time may be the same by chance; the directory in /run is what a boot takes away."""
    with subprocess.Popen(["sleep", "1000"]) as other:
        sandbox = daemon.run_pod()
        daemon.kill()
        reboot(daemon, [f"/crisp-{daemon.instance}/{sandbox}"])
        monitor = json.dumps({"pid": other.pid, "start_time": start_time(other.pid)})
        change = "UPDATE sandboxes SET record = CAST(json_set(CAST(record AS TEXT), '$.monitor', json(?)) AS BLOB)"
        with closing(sqlite3.connect(daemon.root / "state.db")) as connection, connection:
            connection.execute(change, (monitor,))
        daemon.start()
        daemon.remove_pods()
        assert other.poll() is None
        other.kill()


def reboot(daemon: Daemon, cgroups: list[str]) -> None:
    """What a reboot does to a node, as far as a daemon can tell: no processes, an empty /run, another boot id."""
    for pid in monitors_of(daemon):
        os.kill(pid, 9)
    for cgroup in cgroups:
        for pid in processes_in(cgroup):
            with contextlib.suppress(ProcessLookupError):  # most end with their monitor, a moment later
                os.kill(pid, 9)
        wait_for(lambda cgroup=cgroup: not processes_in(cgroup), "all processes to be gone")  # type: ignore[misc]
    clear_state(daemon)
    change_boot_id(daemon)


def change_boot_id(daemon: Daemon) -> None:
    change = "UPDATE sandboxes SET record = CAST(json_set(CAST(record AS TEXT), '$.boot_id', 'before') AS BLOB)"
    with closing(sqlite3.connect(daemon.root / "state.db")) as connection, connection:
        connection.execute(change)
        connection.execute("UPDATE meta SET value = 'before' WHERE key = 'boot_id'")
