"""The demo's pod: the requests that it sends, and the log line that it waits for."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from cri.cli import demo_pod
from cri.cli.client import open_channel
from cri.cli.demo_pod import LABEL, DemoPod
from proto import api_pb2 as api
from proto import api_pb2_grpc
from runtime.errors import Unavailable


class FakeRuntime(api_pb2_grpc.RuntimeServiceServicer):
    """Knows the pods that were run, by id, and what was asked."""

    def __init__(self) -> None:
        self.pods: dict[str, api.PodSandboxConfig] = {}
        self.asked: list[str] = []
        self.created: Any = None

    def RunPodSandbox(self, request: Any, context: Any) -> Any:
        self.asked.append("run")
        self.pods["pod"] = request.config
        return api.RunPodSandboxResponse(pod_sandbox_id="pod")

    def CreateContainer(self, request: Any, context: Any) -> Any:
        self.asked.append("create")
        self.created = request
        return api.CreateContainerResponse(container_id="container")

    def StartContainer(self, request: Any, context: Any) -> Any:
        self.asked.append(f"start {request.container_id}")
        return api.StartContainerResponse()

    def ListPodSandbox(self, request: Any, context: Any) -> Any:
        wanted = dict(request.filter.label_selector)
        found = [id for id, pod in self.pods.items() if wanted.items() <= dict(pod.labels).items()]
        return api.ListPodSandboxResponse(items=[api.PodSandbox(id=id) for id in found])

    def StopPodSandbox(self, request: Any, context: Any) -> Any:
        self.asked.append(f"stop {request.pod_sandbox_id}")
        return api.StopPodSandboxResponse()

    def RemovePodSandbox(self, request: Any, context: Any) -> Any:
        self.asked.append(f"remove {request.pod_sandbox_id}")
        self.pods.pop(request.pod_sandbox_id)
        return api.RemovePodSandboxResponse()


@pytest.fixture
def runtime(state: Path) -> Iterator[FakeRuntime]:
    fake = FakeRuntime()  # type: ignore[abstract]
    server = grpc.server(ThreadPoolExecutor(2))
    api_pb2_grpc.add_RuntimeServiceServicer_to_server(fake, server)
    server.add_insecure_port(f"unix:{state}/crisp.sock")
    server.start()
    yield fake
    server.stop(0).wait()


@pytest.fixture
def pod(runtime: FakeRuntime, state: Path) -> Iterator[DemoPod]:
    with open_channel(f"{state}/crisp.sock") as channel:
        yield DemoPod(channel, f"{state}/demo")


def test_a_pod_is_made_in_three_calls_that_are_timed(pod: DemoPod, runtime: FakeRuntime, state: Path) -> None:
    pod.start("crisp.local/demo:latest")
    assert runtime.asked == ["run", "create", "start container"]
    assert list(pod.took) == ["RunPodSandbox", "CreateContainer", "StartContainer"]
    assert all(took > 0 for took in pod.took.values())
    assert runtime.created.config.image.image == "crisp.local/demo:latest"
    assert runtime.created.sandbox_config == runtime.pods["pod"]
    assert runtime.created.config.labels["io.kubernetes.pod.name"] == runtime.pods["pod"].metadata.name
    assert (state / "demo").stat().st_mode & 0o777 == 0o700


def test_only_the_demos_own_pods_are_removed(pod: DemoPod, runtime: FakeRuntime) -> None:
    runtime.pods = {
        "old": api.PodSandboxConfig(labels={LABEL: "true"}),
        "other": api.PodSandboxConfig(labels={"app": "web"}),
    }
    assert pod.remove_all() == 1
    assert runtime.asked == ["stop old", "remove old"]
    assert list(runtime.pods) == ["other"]


def test_the_first_line_is_waited_for_whole(pod: DemoPod, state: Path) -> None:
    (state / "demo").mkdir()

    def write() -> None:
        with open(state / "demo" / "hello.log", "w") as log:
            for part in ("2026-01-01T00:00:00Z stdout ", "F hello ", "world\n"):
                time.sleep(0.02)
                log.write(part)
                log.flush()

    writer = threading.Thread(target=write)
    writer.start()
    assert pod.first_line() == "hello world"
    writer.join()


def test_a_container_that_says_nothing_is_told(pod: DemoPod, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_pod, "LOG_WAIT", 0.02)
    with pytest.raises(Unavailable, match=r"hello\.log: the container said nothing"):
        pod.first_line()
