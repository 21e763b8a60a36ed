"""The pods and containers that are asked for: one message each, the same bytes for every endpoint.

They are what kubelet sends for a small pod: a cgroup parent made before, RuntimeDefault
seccomp, masked paths, limits, eight variables, three binds, a log.

Invariant: a configuration depends on its name alone; only the ids that an endpoint itself
gave differ between the requests of two endpoints.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from proto import api_pb2 as api
from runtime.cgroups import layout, tree

MASKED = ["/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
          "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"]  # fmt: skip
READONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
"""What kubelet sends for every unprivileged container."""

BINDS = {
    "hosts": "/etc/hosts",
    "termination-log": "/dev/termination-log",
    "token": "/var/run/secrets/kubernetes.io/serviceaccount",
}


class Workload:
    """The requests of one run, with the files below ``folder`` and the cgroups that they name."""

    def __init__(self, image: str, folder: Path) -> None:
        self.image = image
        self.folder = folder
        texts = (Path(f"/proc/{name}").read_text() for name in ("self/mountinfo", "cgroups", "self/cgroup"))
        # Kubelet has a pod's cgroup in every tree, also in those that crisp does not need.
        self._layout = dataclasses.replace(layout.detect(), v1=layout.parse(*texts).v1)
        self._parent = f"/crisp-bench-{os.getpid()}"
        for name in ("hosts", "termination-log"):
            (folder / name).write_text("127.0.0.1 localhost\n")
        (folder / "token").mkdir()

    def log(self, name: str) -> Path:
        """The log of the container in the pod ``name``."""
        return self.folder / "logs" / name / "main.log"

    def cgroup(self, name: str) -> str:
        return f"{self._parent}/{name}"

    @contextlib.contextmanager
    def prepared(self, names: list[str]) -> Iterator[None]:
        """What kubelet makes before it asks for these pods, and removes after them."""
        for name in names:
            tree.create(self._layout, self.cgroup(name), "bench")
            if cpuset := self._layout.root("cpuset"):  # kubelet asks for no copies
                Path(f"{cpuset}{self.cgroup(name)}/cgroup.clone_children").write_text("0")
            self.log(name).parent.mkdir(parents=True)
        try:
            yield
        finally:
            for name in names:
                tree.remove(self._layout, self.cgroup(name))
                shutil.rmtree(self.log(name).parent)

    def pod(self, name: str, *, host_network: bool = False) -> api.PodSandboxConfig:
        config = api.PodSandboxConfig(
            metadata=api.PodSandboxMetadata(name=name, namespace="bench", uid=name, attempt=0),
            hostname="" if host_network else name,
            log_directory=str(self.log(name).parent),
            dns_config=api.DNSConfig(servers=["10.96.0.10"], searches=["default.svc.cluster.local"]),
            labels={"io.kubernetes.pod.name": name},
        )
        config.linux.cgroup_parent = self.cgroup(name)
        context = config.linux.security_context
        context.namespace_options.network = api.NODE if host_network else api.POD
        context.namespace_options.pid = api.CONTAINER
        context.seccomp.profile_type = api.SecurityProfile.RuntimeDefault
        return config

    def container(self, *command: str) -> api.ContainerConfig:
        config = api.ContainerConfig(
            metadata=api.ContainerMetadata(name="main"),
            image=api.ImageSpec(image=self.image),
            command=command,
            log_path="main.log",
            envs=[api.KeyValue(key=f"VARIABLE_{n}", value=b"value") for n in range(8)],
            labels={"io.kubernetes.container.name": "main"},
            mounts=[self.bind(name, path) for name, path in BINDS.items()],
        )
        resources = config.linux.resources
        resources.cpu_shares, resources.cpu_period, resources.cpu_quota = 102, 100_000, 200_000
        resources.memory_limit_in_bytes = 256 << 20
        resources.oom_score_adj = 990
        context = config.linux.security_context
        context.masked_paths.extend(MASKED)
        context.readonly_paths.extend(READONLY)
        context.seccomp.profile_type = api.SecurityProfile.RuntimeDefault
        context.namespace_options.pid = api.CONTAINER
        return config

    def bind(self, name: str, path: str) -> api.Mount:
        return api.Mount(host_path=str(self.folder / name), container_path=path, readonly=name == "token")
