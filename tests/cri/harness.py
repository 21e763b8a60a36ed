"""Starting a daemon inside a test and asking it, and requests as kubelet makes them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from cri import assembly, daemon
from cri.demo_image import ARCHITECTURES, EPOCH, Entry, blob_path, build_demo_image, digest, encode, pack
from cri.host import Host
from cri.plan.container import ContainerPlan
from cri.plan.document import decode
from cri.recovery import recover
from cri.settings import CniSettings, NetworkSettings, PoolSettings, RegistrySettings, Settings
from proto import api_pb2 as api
from proto import api_pb2_grpc as rpc
from runtime.cgroups import layout as cgroup_layout
from runtime.images.trash import Trash


async def _start_grpc() -> None:
    """gRPC keeps descriptors of its own from its first use on; no test is to be blamed for them."""
    grpc.aio.init_grpc_aio()  # type: ignore[attr-defined]
    server = grpc.aio.server()
    await server.start()
    await server.stop(None)


asyncio.run(_start_grpc())

DEMO_IMAGE = "crisp.local/demo:latest"
NUMBERS = itertools.count(1)
PATIENCE = float(os.environ.get("CRISP_TEST_PATIENCE", "30"))
"""Seconds to wait for what is sure to happen; an emulated machine takes longer."""


@functools.cache
def demo_archive() -> bytes:
    with tempfile.NamedTemporaryFile() as file:
        build_demo_image(file.name)
        return Path(file.name).read_bytes()


@functools.cache
def demo_layer() -> bytes:
    """The one layer of the demo image, an uncompressed tar."""
    archive, largest, at = demo_archive(), b"", 0
    while archive[at : at + 1] not in (b"", b"\0"):
        size = int(archive[at + 124 : at + 135], 8)
        largest = max(largest, archive[at + 512 : at + 512 + size], key=len)
        at += 512 + (size + 511) // 512 * 512
    return largest


def image_archive(reference: str, config: dict[str, Any], entries: Sequence[Entry] = ()) -> bytes:
    """A docker archive: the demo image with ``config``, and a layer of ``entries`` above it."""
    layers = [demo_layer(), *([pack(list(entries))] if entries else [])]
    document = encode(
        {
            "architecture": ARCHITECTURES[os.uname().machine],
            "os": "linux",
            "created": EPOCH,
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
        }
    )
    listed = {"Config": blob_path(document), "RepoTags": [reference], "Layers": [blob_path(layer) for layer in layers]}
    blobs = [Entry(blob_path(blob), 0o644, blob) for blob in (document, *layers)]
    return pack([Entry("manifest.json", 0o644, encode([listed])), *blobs])


@contextlib.contextmanager
def as_file(content: bytes) -> Iterator[int]:
    """A descriptor at the beginning of a file with ``content``."""
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.seek(0)
        yield file.fileno()


def settings_in(folder: Path, number: int) -> Settings:
    """Directories below ``folder``, a bridge and a subnet of its own by ``number`` (below 256)."""
    return Settings(
        listen=f"unix://{folder}/crisp.sock",
        root=f"{folder}/root",
        state=f"{folder}/state",
        metrics="",
        network=NetworkSettings(bridge=f"crt{number}", subnets=(f"10.213.{number}.0/24",)),
        registry=RegistrySettings(config_path=f"{folder}/certs.d"),
        cni=CniSettings(conf_dir=f"{folder}/cni"),
        pool=PoolSettings(size=0),
    )


async def start(settings: Settings, undo: contextlib.AsyncExitStack) -> Crisp:
    """A daemon that serves and has recovered; ``undo`` stops it."""
    host = await assembly.build(settings, undo)
    folder = Path(settings.state)
    await daemon.serve(host, Path(settings.listen.removeprefix("unix://")), folder / "admin.sock", undo)
    await recover(host)
    channel = grpc.aio.insecure_channel(settings.listen)
    undo.push_async_callback(channel.close, None)
    return Crisp(host, channel)


class TrashOnDemand(Trash):
    """Deletes when :meth:`Crisp.settle` asks for it. A worker for each container of each test takes
    more time than the tests; what is left goes with the daemon's directory."""

    def _begin(self) -> None:
        pass


@dataclass
class Crisp:
    """A daemon, and the requests that tests make of it."""

    host: Host
    channel: grpc.aio.Channel

    def __post_init__(self) -> None:
        self.runtime: Any = rpc.RuntimeServiceStub(self.channel)
        self.images: Any = rpc.ImageServiceStub(self.channel)

    async def import_demo_image(self) -> None:
        with as_file(demo_archive()) as archive:
            await self.host.images.import_archive(archive, "")

    async def import_image(self, reference: str, config: dict[str, Any], entries: Sequence[Entry] = ()) -> str:
        """As ``image_archive``; the image's id."""
        with as_file(image_archive(reference, config, entries)) as archive:
            (record,) = await self.host.images.import_archive(archive, "")
        return str(record.id)

    def pod(self, name: str = "", **changes: Any) -> api.PodSandboxConfig:
        """A configuration as kubelet sends it; ``changes`` are fields of it."""
        name = name or f"pod-{next(NUMBERS)}"
        config = api.PodSandboxConfig(
            metadata=api.PodSandboxMetadata(name=name, namespace="default", uid=f"uid-{name}"),
            hostname=name,
            log_directory=f"{self.host.root}/logs/{name}",
            labels={"app": name},
        )
        config.linux.security_context.namespace_options.pid = api.CONTAINER
        config.linux.security_context.seccomp.profile_type = api.SecurityProfile.RuntimeDefault
        config.MergeFrom(api.PodSandboxConfig(**changes))
        return config

    def container(self, *command: str, name: str = "main", **changes: Any) -> api.ContainerConfig:
        """As ``pod``, for a container with a PID namespace of its own."""
        config = api.ContainerConfig(
            metadata=api.ContainerMetadata(name=name),
            image=api.ImageSpec(image=DEMO_IMAGE),
            command=command or ("sleep", "1000"),
            log_path=f"{name}/0.log",
        )
        config.linux.security_context.namespace_options.pid = api.CONTAINER
        config.linux.security_context.seccomp.profile_type = api.SecurityProfile.RuntimeDefault
        config.MergeFrom(api.ContainerConfig(**changes))
        return config

    async def run_pod(self, config: api.PodSandboxConfig | None = None) -> str:
        request = api.RunPodSandboxRequest(config=config or self.pod())
        answer = await self.runtime.RunPodSandbox(request)
        return str(answer.pod_sandbox_id)

    async def create(self, sandbox: str, config: api.ContainerConfig | None = None) -> str:
        record = self.host.store.sandboxes.get(sandbox)
        request = api.CreateContainerRequest(
            pod_sandbox_id=sandbox,
            config=config or self.container(),
            sandbox_config=api.PodSandboxConfig.FromString(record.config),
        )
        answer = await self.runtime.CreateContainer(request)
        return str(answer.container_id)

    async def run(self, sandbox: str, config: api.ContainerConfig | None = None) -> str:
        """Create and start."""
        id = await self.create(sandbox, config)
        await self.runtime.StartContainer(api.StartContainerRequest(container_id=id))
        return id

    async def start(self, container: str) -> None:
        await self.runtime.StartContainer(api.StartContainerRequest(container_id=container))

    async def status(self, container: str) -> api.ContainerStatus:
        answer = await self.runtime.ContainerStatus(api.ContainerStatusRequest(container_id=container))
        status: api.ContainerStatus = answer.status
        return status

    async def wait_exit(self, container: str, seconds: float = PATIENCE) -> api.ContainerStatus:
        """The status of the container once it has ended."""
        await asyncio.wait_for(self.host.exited(container).wait(), seconds)
        return await self.status(container)

    async def run_to_end(self, sandbox: str, *command: str, **changes: Any) -> tuple[api.ContainerStatus, str]:
        """Run a command as a container of the pod: how it ended, and what it said."""
        name = f"step-{next(NUMBERS)}"
        id = await self.run(sandbox, self.container(*command, name=name, **changes))
        return await self.wait_exit(id), self.log(id)

    async def exec(self, container: str, *command: str, timeout: int = 20) -> api.ExecSyncResponse:
        request = api.ExecSyncRequest(container_id=container, cmd=command, timeout=timeout)
        answer: api.ExecSyncResponse = await self.runtime.ExecSync(request)
        return answer

    def log(self, container: str) -> str:
        """What the container said, without the prefixes."""
        path = self.log_path(container)
        lines = path.read_text().splitlines() if path.exists() else []
        return "\n".join(line.split(" ", 3)[3] for line in lines)

    def log_path(self, container: str) -> Path:
        record = self.host.store.containers.get(container)
        pod = self.host.store.sandboxes.get(record.sandbox_id)
        config = api.ContainerConfig.FromString(record.config)
        return Path(api.PodSandboxConfig.FromString(pod.config).log_directory) / config.log_path

    async def until(self, holds: Callable[[], bool], seconds: float = PATIENCE) -> None:
        """Wait for a condition; a test that waits in vain fails, and says what goes on."""
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, f"waited {seconds:g} s in vain beside {self.host.tasks.names()}"
            await asyncio.sleep(0.005)

    async def at_once(self, point: str, requests: Sequence[Coroutine[Any, Any, str]]) -> list[str]:
        """The answers of identical ``requests`` that all arrived before the first was carried
        out, for ``point`` held it up."""
        self.host.failpoints.set(point, "hang")
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(request) for request in requests]
            flights = self.host.operations._creating
            await self.until(lambda: sum(each.waiting for each in flights.values()) == len(asked))
            self.host.failpoints.set(point, "off")
        return [task.result() for task in asked]

    def cgroup_file(self, container: str, name: str) -> Path:
        """A file of the container's cgroup (``memory.limit_in_bytes``), wherever its hierarchy is."""
        plan = decode(self.host.store.containers.get(container).plan, ContainerPlan)
        dirs = cgroup_layout.dirs(self.host.layout, plan.cgroup)
        found = [Path(folder, name) for folder in (*dirs["v1"], dirs["v2"]) if folder and Path(folder, name).exists()]
        return found[0]

    async def settle(self) -> None:
        """Wait for what goes on in the background, and for the trash to be emptied."""
        await self.end_of_tasks()
        await self.host.trash.empty()

    async def end_of_tasks(self) -> None:
        """Wait for what goes on in the background: measurements, removals."""
        await self.until(lambda: len(self.host.tasks) == 0, 30)

    def add_interface(self, sandbox: str, name: str) -> None:
        """One more of the pod's, with the address 10.9.9.9/24, as a CNI plugin for a second network adds it; the
        other end, ``far``, is in the pod as well and answers nobody."""
        enter = ["nsenter", f"--net={self.host.pod_directory(sandbox)}/ns/network", "ip"]
        for command in (
            f"link add {name} type veth peer name far",
            f"address add 10.9.9.9/24 dev {name}",
            f"link set {name} up",
            "link set far up",
        ):
            subprocess.run([*enter, *command.split()], check=True)

    async def remove_all(self) -> None:
        for record in list(self.host.store.sandboxes):
            await self.runtime.RemovePodSandbox(api.RemovePodSandboxRequest(pod_sandbox_id=record.id))
