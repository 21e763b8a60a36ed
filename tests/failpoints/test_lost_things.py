"""What somebody deleted, replaced or filled up does not keep a pod from being stopped and removed."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from proto import api_pb2 as api
from runtime.linux import mount
from tests.failpoints.serving import Daemon, in_folder, serving, wait_for
from tests.failpoints.truth import check_nothing_remains, check_truth, monitors_of

pytestmark = pytest.mark.leaks("module")

NAMESPACES = ("network", "ipc", "uts", "pid")


@pytest.fixture(scope="module")
def shared() -> Iterator[Daemon]:
    with serving() as found:
        yield found


@pytest.fixture
def daemon(shared: Daemon) -> Iterator[Daemon]:
    yield shared
    shared.disarm()
    shared.remove_pods()
    check_nothing_remains(shared)


def running_pod(daemon: Daemon) -> tuple[str, Path]:
    """A pod with a running container, and its directory."""
    request = daemon.pod()
    sandbox = daemon.run_pod(request)
    daemon.run(sandbox, request)
    return sandbox, daemon.state / "pods" / sandbox


def unpin(folder: Path) -> None:
    for kind in NAMESPACES:
        mount.umount2(str(folder / "ns" / kind), mount.MNT_DETACH)


def delete_pins(folder: Path) -> None:
    unpin(folder)
    shutil.rmtree(folder / "ns")


def replace_pins_by_files(folder: Path) -> None:
    unpin(folder)


def replace_pins_by_directories(folder: Path) -> None:
    unpin(folder)
    for kind in NAMESPACES:
        (folder / "ns" / kind).unlink()
        (folder / "ns" / kind / "below").mkdir(parents=True)


def replace_pins_by_links(folder: Path) -> None:
    """To a mount that is none of ours: it has to stay."""
    unpin(folder)
    for kind in NAMESPACES:
        (folder / "ns" / kind).unlink()
        (folder / "ns" / kind).symlink_to("/proc")


def replace_pins_by_other_namespaces(folder: Path) -> None:
    unpin(folder)
    for kind in NAMESPACES:
        mount.mount("/proc/self/ns/net", str(folder / "ns" / kind), "", mount.MS_BIND)


def pin_twice(folder: Path) -> None:
    for kind in NAMESPACES:
        mount.mount("/proc/self/ns/net", str(folder / "ns" / kind), "", mount.MS_BIND)


def replace_the_folder_of_pins_by_a_file(folder: Path) -> None:
    delete_pins(folder)
    (folder / "ns").touch()


def delete_the_socket(folder: Path) -> None:
    (folder / "monitor.sock").unlink()


def delete_the_exits(folder: Path) -> None:
    shutil.rmtree(folder / "exits")


def delete_all(folder: Path) -> None:
    unpin(folder)
    mount.umount2(str(folder / "shm"), mount.MNT_DETACH)
    shutil.rmtree(folder)


LOSSES: list[Callable[[Path], None]] = [
    delete_pins,
    replace_pins_by_files,
    replace_pins_by_directories,
    replace_pins_by_links,
    replace_pins_by_other_namespaces,
    pin_twice,
    replace_the_folder_of_pins_by_a_file,
    delete_the_socket,
    delete_the_exits,
    delete_all,
]


@pytest.mark.parametrize("restarted", [False, True], ids=["", "restarted"])
@pytest.mark.parametrize("lose", LOSSES, ids=lambda lose: lose.__name__)
def test_a_pod_that_lost_something_is_stopped_and_removed(
    daemon: Daemon, lose: Callable[[Path], None], restarted: bool
) -> None:
    sandbox, folder = running_pod(daemon)
    lose(folder)
    if restarted:
        daemon.restart()
    daemon.stop_pod(sandbox)
    wait_for(lambda: not monitors_of(daemon), "the monitor to be gone")  # it answers before it ends
    daemon.remove_pod(sandbox)
    assert Path("/proc/self").exists(), "what a link named was unmounted"
    check_nothing_remains(daemon)


def test_a_container_whose_directory_is_gone_is_removed(daemon: Daemon) -> None:
    request = daemon.pod()
    sandbox = daemon.run_pod(request)
    container = daemon.run(sandbox, request)
    shutil.rmtree(daemon.root / "containers" / container)
    daemon.runtime.RemoveContainer(api.RemoveContainerRequest(container_id=container))
    assert not daemon.containers()
    daemon.run(sandbox, request)


# ---------------------------------------------------------------------------- names


def test_a_name_is_free_after_a_failed_creation_and_after_a_removal(daemon: Daemon) -> None:
    request = daemon.pod()
    daemon.arm("RunPodSandbox/write_files:after", "fail", 1)
    with pytest.raises(grpc.RpcError):
        daemon.run_pod(request)
    changed = daemon.pod(request.config.metadata.name, labels={"another": "request"})
    sandbox = daemon.run_pod(changed)
    daemon.arm("CreateContainer/make_container_cgroup:after", "fail", 1)
    with pytest.raises(grpc.RpcError):
        daemon.run(sandbox, changed)
    container = daemon.run(sandbox, changed, "sleep", "2000")
    daemon.runtime.RemoveContainer(api.RemoveContainerRequest(container_id=container))
    assert daemon.run(sandbox, changed) != container
    daemon.remove_pod(sandbox)
    assert daemon.run_pod(request) != sandbox


def test_a_container_that_could_not_start_for_a_reason_of_the_host_starts_at_the_next_try(daemon: Daemon) -> None:
    request = daemon.pod()
    sandbox = daemon.run_pod(request)
    container = daemon.runtime.CreateContainer(daemon.container(sandbox, request)).container_id
    daemon.arm("StartContainer/start_init:mid", "errno:EAGAIN", 1)
    with pytest.raises(grpc.RpcError) as refused:
        daemon.runtime.StartContainer(api.StartContainerRequest(container_id=container))
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert daemon.status(container).state == api.CONTAINER_CREATED
    daemon.runtime.StartContainer(api.StartContainerRequest(container_id=container))
    check_truth(daemon)


# ---------------------------------------------------------------------------- a full disk


def test_what_cannot_be_stored_for_want_of_space_is_taken_back_and_said(daemon: Daemon) -> None:
    request = daemon.pod()
    daemon.arm("RunPodSandbox:store", "errno:ENOSPC", 1)
    with pytest.raises(grpc.RpcError) as refused:
        daemon.run_pod(request)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    check_nothing_remains(daemon)
    daemon.run_pod(request)


@pytest.mark.timeout(120)
def test_on_a_full_disk_nothing_begins_and_everything_can_be_stopped_and_removed() -> None:
    with in_folder() as daemon, small_disk(daemon.root):
        daemon.start()
        daemon.import_demo_image()
        requests = [daemon.pod() for _ in range(3)]
        pods = [daemon.run_pod(request) for request in requests]
        containers = [daemon.run(pod, request) for pod, request in zip(pods, requests, strict=True)]
        ballast = fill(daemon.root)
        codes = {code_of(daemon) for _ in range(40)}  # what has room in pages that are there already may still succeed
        assert codes <= {None, grpc.StatusCode.RESOURCE_EXHAUSTED}, codes
        assert grpc.StatusCode.RESOURCE_EXHAUSTED in codes
        daemon.runtime.StopContainer(api.StopContainerRequest(container_id=containers[0], timeout=0))
        assert daemon.status(containers[0]).exit_code == 137
        daemon.stop_pod(pods[1])
        daemon.remove_pods()
        check_nothing_remains(daemon)
        ballast.unlink()
        daemon.run_pod()
        check_truth(daemon)
        daemon.remove_pods()
        daemon.stop()


@contextlib.contextmanager
def small_disk(path: Path) -> Iterator[None]:
    path.mkdir()
    mount.mount("small", str(path), "tmpfs", 0, "size=48m,mode=700")
    try:
        yield
    finally:
        mount.umount2(str(path), mount.MNT_DETACH)


def fill(folder: Path) -> Path:
    """A file that takes all the space there is."""
    ballast = folder / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        for size in (1 << 20, 4096):
            with pytest.raises(OSError) as full:
                while True:
                    file.write(bytes(size))
            assert full.value.errno == errno.ENOSPC
    return ballast


def code_of(daemon: Daemon) -> grpc.StatusCode | None:
    try:
        daemon.run_pod()
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return None


# ---------------------------------------------------------------------------- a lost database


def test_pods_that_no_record_knows_are_gone_after_the_next_start(daemon: Daemon) -> None:
    for _ in range(2):
        running_pod(daemon)
    daemon.kill()
    for name in os.listdir(daemon.root):
        if name.startswith("state.db"):
            (daemon.root / name).unlink()
    daemon.start()
    assert not daemon.pods()
    check_nothing_remains(daemon)
    daemon.import_demo_image()


# ---------------------------------------------------------------------------- other daemons


def test_a_second_daemon_on_the_same_root_is_refused_with_the_pid_of_the_first(daemon: Daemon) -> None:
    with in_folder() as second:
        config = (second.folder / "config.toml").read_text()
        second.root = daemon.root
        (second.folder / "config.toml").write_text(config.replace(f"{second.folder}/root", str(daemon.root)))
        second.launch()
        assert second.process is not None and second.process.wait(60) == 1
        assert daemon.process is not None and f"(pid {daemon.process.pid})" in second.log_tail()
        assert daemon.pods() == []
        second.process = None
        (second.folder / "config.toml").write_text(config)


def test_two_daemons_side_by_side_do_not_disturb_each_other(daemon: Daemon) -> None:
    with serving() as other:
        both = (daemon, other)
        requests = [each.pod("same-name") for each in both]
        pods = [each.run_pod(request) for each, request in zip(both, requests, strict=True)]
        containers = [each.run(pod, request) for each, pod, request in zip(both, pods, requests, strict=True)]
        for each, container in zip(both, containers, strict=True):
            assert reaches_its_gateway(each, container)
        other.restart()
        assert daemon.status(containers[0]).state == api.CONTAINER_RUNNING
        assert not daemon.fsck() and not other.fsck()
        other.remove_pods()
        check_nothing_remains(other)
        other.stop()
        assert reaches_its_gateway(daemon, containers[0])
        check_truth(daemon)


def reaches_its_gateway(daemon: Daemon, container: str) -> bool:
    ping = ["ping", "-c", "1", "-W", "5", f"10.214.{daemon.number}.1"]
    answer = daemon.runtime.ExecSync(api.ExecSyncRequest(container_id=container, cmd=ping, timeout=20))
    return bool(answer.exit_code == 0)
