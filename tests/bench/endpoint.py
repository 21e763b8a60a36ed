"""One CRI endpoint that is measured: its calls, timed.

``workload`` has the messages, ``measures`` the order of the calls.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from typing import Any

import grpc

from proto import api_pb2 as api
from proto import api_pb2_grpc as rpc
from tests.bench.report import Samples

EXEC = ("/bin/true",)


class Endpoint:
    """A runtime behind ``address`` (``unix://...``); ``name`` is its column in the report."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.samples = Samples()
        options = [("grpc.max_receive_message_length", 64 << 20)]
        self._channel = grpc.insecure_channel(address, options=options)
        self.runtime: Any = rpc.RuntimeServiceStub(self._channel)
        self.images: Any = rpc.ImageServiceStub(self._channel)
        version = self.runtime.Version(api.VersionRequest())
        self.name = f"{version.runtime_name} {version.runtime_version}"

    def close(self) -> None:
        self._channel.close()

    def add_time(self, measure: str, began: float) -> None:
        """What has passed since ``began`` (of ``time.perf_counter``), in milliseconds."""
        self.samples.add(measure, (time.perf_counter() - began) * 1e3, "ms")

    def timed(self, measure: str, call: Callable[[Any], Any], request: Any) -> Any:
        began = time.perf_counter()
        answer = call(request)
        self.add_time(measure, began)
        return answer

    def server_pid(self) -> int:
        """The process that listens on the socket."""
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(self.address.removeprefix("unix://"))
            credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return int(struct.unpack("iII", credentials)[0])

    def state_directory(self) -> str:
        """Where the endpoint says that it keeps images and containers."""
        answer = self.images.ImageFsInfo(api.ImageFsInfoRequest())
        return str(answer.image_filesystems[0].fs_id.mountpoint)

    def run_pod(self, sandbox: api.PodSandboxConfig, measure: str) -> str:
        request = api.RunPodSandboxRequest(config=sandbox)
        return str(self.timed(measure, self.runtime.RunPodSandbox, request).pod_sandbox_id)

    def start(self, pod: str, sandbox: api.PodSandboxConfig, config: api.ContainerConfig) -> str:
        request = api.CreateContainerRequest(pod_sandbox_id=pod, config=config, sandbox_config=sandbox)
        began = time.perf_counter()
        id = str(self.timed("CreateContainer", self.runtime.CreateContainer, request).container_id)
        self.timed("StartContainer", self.runtime.StartContainer, api.StartContainerRequest(container_id=id))
        self.add_time("Create+Start", began)
        return id

    def exec(self, container: str) -> None:
        request = api.ExecSyncRequest(container_id=container, cmd=EXEC, timeout=10)
        answer = self.timed("ExecSync true", self.runtime.ExecSync, request)
        if answer.exit_code:
            raise AssertionError(f"{self.name}: {EXEC} ended with {answer.exit_code}: {answer.stderr!r}")

    def stop(self, container: str) -> None:
        request = api.StopContainerRequest(container_id=container, timeout=10)
        self.timed("StopContainer (exits on TERM)", self.runtime.StopContainer, request)

    def remove_pod(self, pod: str) -> None:
        self.timed("StopPodSandbox", self.runtime.StopPodSandbox, api.StopPodSandboxRequest(pod_sandbox_id=pod))
        self.timed("RemovePodSandbox", self.runtime.RemovePodSandbox, api.RemovePodSandboxRequest(pod_sandbox_id=pod))

    def discard(self, pod: str) -> None:
        """Remove a pod whose end is not measured."""
        self.runtime.StopPodSandbox(api.StopPodSandboxRequest(pod_sandbox_id=pod))
        self.runtime.RemovePodSandbox(api.RemovePodSandboxRequest(pod_sandbox_id=pod))

    def discard_all(self, namespace: str = "bench") -> None:
        """What a run that failed has left."""
        for pod in self.runtime.ListPodSandbox(api.ListPodSandboxRequest()).items:
            if pod.metadata.namespace == namespace:
                self.discard(pod.id)
