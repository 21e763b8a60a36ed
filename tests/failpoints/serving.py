"""A daemon as an operator runs it: a process of its own, that can be killed and started again.

``Daemon`` also has the requests, which are made of plain, blocking calls: what a case
does one after the other is then written one after the other.

Invariant: whatever happens to a test, ``serving`` ends with no pod, no daemon and no
directory of it left, or says what is left.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import grpc

from cri.failpoints import VARIABLE
from cri.settings import instance
from proto import admin_pb2 as admin
from proto import admin_pb2_grpc as admin_rpc
from proto import api_pb2 as api
from proto import api_pb2_grpc as rpc
from tests.cri.harness import DEMO_IMAGE, demo_archive
from tests.failpoints.launcher import Forked, Launcher

PATIENCE = 30.0
"""Seconds for anything that is sure to happen; the machine may be busy."""

ROOT = Path(__file__).resolve().parents[2]
NUMBERS = itertools.count(1)
NETWORKS = itertools.count(os.getpid() % 25 * 10)


class Daemon:
    """``folder`` holds all that it has on disk. ``pool`` is the number of blank pods it keeps,
    ``failpoints`` what it is started with, as in the variable; None is a daemon without any.
    ``plant`` is Python that is executed in it before it begins. With a ``launcher`` it starts
    in half the time, else exactly as an operator's does. ``settings`` are lines of its file;
    ``metrics`` is where it serves them, ``cni`` are lines of its table of that name, with %s for the folder.
    ``subnets`` are its own, of 253 pods each, if none are given."""

    def __init__(
        self,
        folder: Path,
        *,
        pool: int = 0,
        failpoints: str | None = "",
        plant: str = "",
        launcher: Launcher | None = None,
        settings: str = "",
        metrics: str = "",
        cni: str = "",
        subnets: Sequence[str] = (),
    ) -> None:
        self.folder, self.root, self.state = folder, folder / "root", folder / "state"
        self.number, self.metrics = next(NETWORKS) % 250, metrics
        self.subnets = json.dumps(subnets or [f"10.214.{self.number}.0/24", f"fd00:214:{self.number}::/64"])
        cni = cni.replace("%s", str(folder))
        self.failpoints, self.plant, self.launcher = failpoints, plant, launcher
        self.process: subprocess.Popen[bytes] | Forked | None = None
        self._channels: list[grpc.Channel] = []
        (folder / "config.toml").write_text(
            f'{settings}listen = "unix://{folder}/crisp.sock"\nmetrics = "{metrics}"\n'
            f'root = "{self.root}"\nstate = "{self.state}"\n'
            f'[network]\nbridge = "crf{self.number}"\nsubnets = {self.subnets}\n'
            f'[registry]\nconfig_path = "{folder}/certs.d"\n[cni]\nconf_dir = "{folder}/cni"\n{cni}'
            f"[pool]\nsize = {pool}\n"
        )

    @cached_property
    def instance(self) -> str:
        return instance(os.path.realpath(self.root))

    # ------------------------------------------------------------------ its life

    def start(self) -> None:
        """Returns once it has recovered."""
        self.launch()
        self.connect()

    def launch(self) -> None:
        environment = {key: value for key, value in os.environ.items() if key != VARIABLE}
        if self.failpoints is not None:
            environment[VARIABLE] = self.failpoints
        command = ["serve", f"--config={self.folder}/config.toml"]
        if self.launcher is not None:
            self.process = self.launcher.start(command, environment, f"{self.folder}/log", self.plant)
            return
        program = f"{self.plant}\nfrom cri.__main__ import main\nraise SystemExit(main())"
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", program, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=ROOT,
                start_new_session=True,
            )

    def connect(self) -> None:
        """Wait until it serves, then until it has recovered."""
        assert self.process is not None
        process, path = self.process, self.folder / "crisp.sock"
        wait_for(lambda: process.poll() is not None or is_listening(path), "the daemon's socket")
        if process.returncode is not None:
            raise AssertionError(f"the daemon ended with {process.returncode}:\n{self.log_tail()}")
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._channels = [
            grpc.insecure_channel(f"unix://{each}", options) for each in (path, self.state / "admin.sock")
        ]
        self.runtime: Any = rpc.RuntimeServiceStub(self._channels[0])
        self.images: Any = rpc.ImageServiceStub(self._channels[0])
        self.admin: Any = admin_rpc.AdminStub(self._channels[1])
        # A plugin that the killed daemon was about to execute has held its socket open for a moment, maybe.
        self.runtime.ListPodSandbox(api.ListPodSandboxRequest(), wait_for_ready=True, timeout=2 * PATIENCE)

    def disconnect(self) -> None:
        for channel in self._channels:
            channel.close()
        self._channels.clear()

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.reap()

    def reap(self) -> int:
        """It has ended, or is about to; its status."""
        assert self.process is not None
        status = self.process.wait(PATIENCE)
        self.process = None
        self.disconnect()
        return status

    def stop(self) -> None:
        """SIGTERM, as an operator ends it."""
        if self.process is not None:
            self.process.terminate()
            self.reap()

    def restart(self) -> None:
        self.kill()
        self.start()

    @property
    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def log_tail(self) -> str:
        return "\n".join((self.folder / "log").read_text(errors="replace").splitlines()[-30:])

    def log_mentions(self, words: str) -> int:
        """How many lines of the log have ``words`` in them."""
        return sum(words in line for line in (self.folder / "log").read_text(errors="replace").splitlines())

    # ------------------------------------------------------------------ failpoints

    def arm(self, point: str, action: str, count: int = 0) -> None:
        self.admin.SetFailpoint(admin.SetFailpointRequest(point=point, action=action, count=count))

    def disarm(self) -> None:
        self.arm("*", "off")

    def points(self) -> dict[str, admin.Failpoint]:
        """By point; only those that were passed or are armed."""
        return {each.point: each for each in self.admin.ListFailpoints(admin.ListFailpointsRequest()).failpoints}

    def hits(self, point: str) -> int:
        found = self.points().get(point)
        return found.hits if found else 0

    def fsck(self) -> list[str]:
        found = self.admin.Fsck(admin.FsckRequest()).findings
        return [f"{each.kind} {each.object}: {each.message}" for each in found]

    # ------------------------------------------------------------------ images, pods, containers

    def import_demo_image(self) -> None:
        content = demo_archive()
        pieces = (content[at : at + 1_000_000] for at in range(0, len(content), 1_000_000))
        self.admin.ImportImage(admin.ImportImageRequest(chunk=piece) for piece in pieces)

    def pod(self, name: str = "", **changes: Any) -> api.RunPodSandboxRequest:
        name = name or f"pod-{next(NUMBERS)}"
        config = api.PodSandboxConfig(
            metadata=api.PodSandboxMetadata(name=name, namespace="default", uid=f"uid-{name}"),
            hostname=name,
            log_directory=f"{self.folder}/logs/{name}",
        )
        config.linux.security_context.seccomp.profile_type = api.SecurityProfile.RuntimeDefault
        config.MergeFrom(api.PodSandboxConfig(**changes))
        return api.RunPodSandboxRequest(config=config)

    def container(
        self, sandbox: str, pod: api.RunPodSandboxRequest, *command: str, name: str = "main", **changes: Any
    ) -> api.CreateContainerRequest:
        config = api.ContainerConfig(
            metadata=api.ContainerMetadata(name=name),
            image=api.ImageSpec(image=DEMO_IMAGE),
            command=command or ("sleep", "1000"),
            log_path=f"{name}.log",
        )
        config.linux.security_context.seccomp.profile_type = api.SecurityProfile.RuntimeDefault
        config.MergeFrom(api.ContainerConfig(**changes))
        return api.CreateContainerRequest(pod_sandbox_id=sandbox, config=config, sandbox_config=pod.config)

    def run_pod(self, request: api.RunPodSandboxRequest | None = None) -> str:
        return str(self.runtime.RunPodSandbox(request or self.pod()).pod_sandbox_id)

    def run(self, sandbox: str, pod: api.RunPodSandboxRequest, *command: str, **changes: Any) -> str:
        """Create and start a container."""
        id = str(self.runtime.CreateContainer(self.container(sandbox, pod, *command, **changes)).container_id)
        self.runtime.StartContainer(api.StartContainerRequest(container_id=id))
        return id

    def pods(self) -> list[api.PodSandbox]:
        return list(self.runtime.ListPodSandbox(api.ListPodSandboxRequest()).items)

    def containers(self) -> list[api.Container]:
        return list(self.runtime.ListContainers(api.ListContainersRequest()).containers)

    def status(self, container: str) -> api.ContainerStatus:
        answer = self.runtime.ContainerStatus(api.ContainerStatusRequest(container_id=container))
        status: api.ContainerStatus = answer.status
        return status

    def pod_status(self, sandbox: str) -> api.PodSandboxStatusResponse:
        answer: api.PodSandboxStatusResponse = self.runtime.PodSandboxStatus(
            api.PodSandboxStatusRequest(pod_sandbox_id=sandbox, verbose=True)
        )
        return answer

    def stop_pod(self, sandbox: str) -> None:
        self.runtime.StopPodSandbox(api.StopPodSandboxRequest(pod_sandbox_id=sandbox))

    def remove_pod(self, sandbox: str) -> None:
        self.runtime.RemovePodSandbox(api.RemovePodSandboxRequest(pod_sandbox_id=sandbox))

    def remove_pods(self) -> None:
        for each in self.pods():
            self.remove_pod(each.id)


@contextlib.contextmanager
def launching() -> Iterator[Launcher]:
    launcher = Launcher()
    try:
        yield launcher
    finally:
        launcher.close()


@contextlib.contextmanager
def serving(**settings: Any) -> Iterator[Daemon]:
    """A daemon with the demo image; it is stopped in the end, whichever it is by then."""
    with in_folder(**settings) as daemon:
        daemon.start()
        daemon.import_demo_image()
        yield daemon


@contextlib.contextmanager
def in_folder(**settings: Any) -> Iterator[Daemon]:
    """A daemon that is to be started, with a place of its own; ``settings`` are those of ``Daemon``."""
    folder = Path(tempfile.mkdtemp(prefix="f-"))
    daemon = Daemon(folder, **settings)
    try:
        yield daemon
    finally:
        end(daemon)
        shutil.rmtree(folder)


def end(daemon: Daemon) -> None:
    """Remove all pods and stop it. One that is dead is started once more for that, without failpoints:
    what hangs in one that lives ends with it."""
    if daemon.process is not None:
        daemon.kill()
    daemon.failpoints, daemon.plant = None, ""
    daemon.start()
    try:
        daemon.remove_pods()
    finally:
        daemon.stop()


def is_listening(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def wait_for(holds: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    """Raises AssertionError if it does not hold in time."""
    until = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > until:
            raise AssertionError(f"waited {seconds:g} s in vain for {what}")
        time.sleep(0.005)


def send_signal(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    os.kill(pid, number)
