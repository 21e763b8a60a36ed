"""crisp as systemd's service in the guest, and what its tests ask of the machine.

``Service`` has the requests of ``tests.failpoints.serving``; what differs is who starts it.

Invariant: ``connect`` is only called when systemd says that the service is active.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import grpc

from proto import admin_pb2_grpc as admin_rpc
from proto import api_pb2 as api
from proto import api_pb2_grpc as rpc
from tests.failpoints.serving import Daemon, wait_for

CGROUPS = Path("/sys/fs/cgroup")
PATIENCE = 300.0
"""Seconds for anything that is sure to happen: each takes twenty times as long as elsewhere."""


def systemctl(*words: str) -> str:
    """What it prints; raises CalledProcessError."""
    done = subprocess.run(
        ["systemctl", *words], check=True, stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL
    )
    return done.stdout.strip()


class Service(Daemon):
    """The daemon with the settings that it has without a file."""

    def __init__(self) -> None:
        self.folder = self.state = Path("/run/crisp")
        self.root = Path("/var/lib/crisp")
        self._channels: list[grpc.Channel] = []

    @property
    def main_pid(self) -> int:
        """0 while it does not run."""
        return int(systemctl("show", "--property=MainPID", "--value", "crisp"))

    @property
    def state_of_unit(self) -> str:
        return systemctl("show", "--property=ActiveState", "--value", "crisp")

    def launch(self) -> None:
        """Returns once it has said READY=1, for that is what systemd waits for."""
        systemctl("start", "crisp")

    def connect(self) -> None:
        wait_for(lambda: self.state_of_unit == "active", "the service to be active", PATIENCE)
        options = [("grpc.use_local_subchannel_pool", 1)]
        paths = (self.folder / "crisp.sock", self.state / "admin.sock")
        self._channels = [grpc.insecure_channel(f"unix://{path}", options) for path in paths]
        self.runtime: Any = rpc.RuntimeServiceStub(self._channels[0])
        self.images: Any = rpc.ImageServiceStub(self._channels[0])
        self.admin: Any = admin_rpc.AdminStub(self._channels[1])
        self.runtime.ListPodSandbox(api.ListPodSandboxRequest(), wait_for_ready=True, timeout=PATIENCE)

    def stop(self) -> None:
        self.disconnect()
        systemctl("stop", "crisp")

    def kill(self) -> None:
        """kill -9; systemd starts another."""
        before = self.main_pid
        self.disconnect()
        systemctl("kill", "--kill-whom=main", "--signal=KILL", "crisp")
        wait_for(lambda: self.main_pid not in (0, before), "systemd to start another", PATIENCE)

    def restart(self) -> None:
        self.disconnect()
        systemctl("restart", "crisp")
        self.connect()

    # ------------------------------------------------------------------ containers

    def pod(self, name: str = "", **changes: Any) -> api.RunPodSandboxRequest:
        """As kubelet's: each container has a PID namespace of its own."""
        request = super().pod(name, **changes)
        request.config.linux.security_context.namespace_options.pid = api.CONTAINER
        return request

    def container(
        self, sandbox: str, pod: api.RunPodSandboxRequest, *command: str, name: str = "main", **changes: Any
    ) -> api.CreateContainerRequest:
        request = super().container(sandbox, pod, *command, name=name, **changes)
        options = pod.config.linux.security_context.namespace_options
        request.config.linux.security_context.namespace_options.CopyFrom(options)
        return request

    def start_container(self, *command: str, pod: api.RunPodSandboxRequest | None = None, **resources: Any) -> str:
        """The id of a container that runs in a pod of its own, with ``resources`` as the CRI names them."""
        request = pod or self.pod()
        config = {"linux": {"resources": resources}} if resources else {}
        return self.run(self.run_pod(request), request, *command, **config)

    def update(self, container: str, **resources: Any) -> None:
        linux = api.LinuxContainerResources(**resources)
        self.runtime.UpdateContainerResources(api.UpdateContainerResourcesRequest(container_id=container, linux=linux))

    def execute(self, container: str, *command: str, timeout: int = 120) -> api.ExecSyncResponse:
        request = api.ExecSyncRequest(container_id=container, cmd=command, timeout=timeout)
        answer: api.ExecSyncResponse = self.runtime.ExecSync(request)
        return answer

    def wait_exit(self, container: str) -> api.ContainerStatus:
        wait_for(lambda: self.status(container).state == api.CONTAINER_EXITED, "the container's end", PATIENCE)
        return self.status(container)

    def log(self, container: str) -> str:
        path = Path(self.status(container).log_path)
        return path.read_text() if path.exists() else ""

    def says(self, container: str, word: str) -> None:
        wait_for(lambda: word in self.log(container), f"the container to say {word}", PATIENCE)


def cgroup_of(container: str) -> Path:
    """The container's directory in the one tree, under either driver."""
    found = [*CGROUPS.glob(f"*/*/{container}"), *CGROUPS.glob(f"*.slice/**/crisp-*-{container}.scope/container")]
    assert len(found) == 1
    return found[0]


def read(container: str, file: str) -> str:
    return (cgroup_of(container) / file).read_text().strip()


def keyed(container: str, file: str) -> dict[str, int]:
    """A flat keyed file of the container's cgroup, such as memory.events."""
    return {key: int(value) for key, value in (line.split() for line in read(container, file).splitlines())}


def processes(folder: Path) -> list[int]:
    return [int(pid) for pid in (folder / "cgroup.procs").read_text().split()]
