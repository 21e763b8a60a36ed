"""The demo's pod: made, watched and removed through the CRI, as kubelet would.

``cri.cli.demo`` tells the story; this speaks to the socket.

Invariant: every pod that the demo makes carries the label ``crisp.demo``, and
``remove_all`` removes exactly those.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from runtime.errors import Unavailable

if TYPE_CHECKING:
    import grpc

    from proto import api_pb2 as api

LABEL = "crisp.demo"
KUBELETS = {
    "io.kubernetes.pod.name": "demo",
    "io.kubernetes.pod.namespace": "default",
    "io.kubernetes.container.name": "hello",
}
"""As kubelet labels its containers; `crictl ps` shows the pod's name from them."""

SCRIPT = 'echo "hello from $(hostname), pid $$, address $(hostname -i)"; trap "exit 0" TERM; sleep 2147483647 & wait'
"""Says where it is, then waits to be stopped."""

LOG_WAIT = 10.0
T = TypeVar("T")


class DemoPod:
    """One pod with one container; ``took`` has the seconds of each RPC, in order."""

    def __init__(self, channel: grpc.Channel, logs: str) -> None:
        """``logs`` is a folder of the demo's own."""
        from proto import api_pb2
        from proto.api_pb2_grpc import RuntimeServiceStub

        self._api = api_pb2
        self._runtime = RuntimeServiceStub(channel)
        self._logs = logs
        self.took: dict[str, float] = {}
        self.sandbox_id = ""
        self.container_id = ""

    def start(self, image: str) -> None:
        """RunPodSandbox, CreateContainer, StartContainer.

        Raises:
            grpc.RpcError: one of them failed.
        """
        api, runtime = self._api, self._runtime
        sandbox, container = self.sandbox_config(), self.container_config(image)
        os.makedirs(sandbox.log_directory, mode=0o700, exist_ok=True)
        run = api.RunPodSandboxRequest(config=sandbox)
        self.sandbox_id = self._timed("RunPodSandbox", lambda: runtime.RunPodSandbox(run)).pod_sandbox_id
        create = api.CreateContainerRequest(pod_sandbox_id=self.sandbox_id, config=container, sandbox_config=sandbox)
        self.container_id = self._timed("CreateContainer", lambda: runtime.CreateContainer(create)).container_id
        start = api.StartContainerRequest(container_id=self.container_id)
        self._timed("StartContainer", lambda: runtime.StartContainer(start))

    def first_line(self) -> str:
        """What the container said first, out of its CRI log.

        Raises:
            Unavailable: nothing within ``LOG_WAIT`` seconds.
        """
        path = f"{self._logs}/hello.log"
        deadline = time.monotonic() + LOG_WAIT
        while time.monotonic() < deadline:
            try:
                with open(path, encoding="utf-8", errors="replace") as log:
                    line = log.readline()
            except FileNotFoundError:
                line = ""
            if line.endswith("\n"):
                return line.rstrip("\n").split(" ", 3)[-1]
            time.sleep(0.005)
        raise Unavailable("the container said nothing", step="read the log", object=path)

    def remove_all(self) -> int:
        """Stop and remove the demo's pods, also those of an earlier one; how many there were."""
        api, runtime = self._api, self._runtime
        request = api.ListPodSandboxRequest(filter=api.PodSandboxFilter(label_selector={LABEL: "true"}))
        pods = runtime.ListPodSandbox(request, timeout=30).items
        for pod in pods:
            runtime.StopPodSandbox(api.StopPodSandboxRequest(pod_sandbox_id=pod.id), timeout=60)
            runtime.RemovePodSandbox(api.RemovePodSandboxRequest(pod_sandbox_id=pod.id), timeout=60)
        return len(pods)

    def sandbox_config(self) -> api.PodSandboxConfig:
        from proto import api_pb2 as api

        return api.PodSandboxConfig(
            metadata=api.PodSandboxMetadata(name="demo", namespace="default", uid=str(uuid.uuid4())),
            hostname="demo",
            log_directory=self._logs,
            labels={LABEL: "true"},
            linux=api.LinuxPodSandboxConfig(),
        )

    def container_config(self, image: str) -> api.ContainerConfig:
        from proto import api_pb2 as api

        return api.ContainerConfig(
            metadata=api.ContainerMetadata(name="hello"),
            image=api.ImageSpec(image=image),
            command=["/bin/sh", "-c", SCRIPT],
            log_path="hello.log",
            labels={LABEL: "true", **KUBELETS},
            linux=api.LinuxContainerConfig(),
        )

    def _timed(self, name: str, call: Callable[[], T]) -> T:
        began = time.monotonic()
        answer = call()
        self.took[name] = time.monotonic() - began
        return answer
