"""A published kubelet without an API server: it runs the pods whose manifests lie in a folder.

Built by the Go client from the module that go.mod names. It has a folder, ports and a
cgroup of its own, and is asked over its HTTPS port.

Invariant: ``kubelet_of`` ends with no kubelet, no mount and no cgroup of it left.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from proto import api_pb2 as api
from tests import golang
from tests.failpoints.serving import Daemon, wait_for
from tests.ports import free_port

VERSION = "v1.37.2"
NODE = "crisp-node"
PATIENCE = 90.0
"""Seconds for anything that is sure to happen on a busy machine, back-offs included."""

COLLECTION = 150.0
"""Seconds until kubelet has removed the sandboxes of pods that are gone: it does so once a minute."""

STAMPS = " ".join(
    f"-X {package}.gitVersion={VERSION} -X {package}.gitMajor=1 -X {package}.gitMinor=37"
    for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
)
LOGS = Path("/var/log/containers")
"""Where kubelet keeps links to the logs, whatever it is told."""

Json = Any


def build_kubelet() -> Path:
    return golang.build(Path(__file__).parent, "k8s.io/kubernetes/cmd/kubelet", STAMPS)


class Kubelet:
    """Of the node ``NODE``, over ``daemon``. ``gates`` are feature gates, ``verbose`` says which of its source
    files log more than usual, and up to which level."""

    def __init__(self, program: Path, daemon: Daemon, gates: dict[str, bool], verbose: dict[str, int]) -> None:
        self.folder = daemon.folder / "kubelet"
        self.cgroup = f"crisp-kubelet-{daemon.instance}"
        self._program, self._daemon, self._gates, self._verbose = program, daemon, gates, verbose
        self._process: subprocess.Popen[bytes] | None = None
        self._port, self._health = free_port(), free_port()
        for name in ("manifests", "logs", "plugins"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "config.json").write_text(json.dumps(self._config()))

    def _config(self) -> dict[str, Any]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": f"unix://{self._daemon.folder}/crisp.sock",
            "failCgroupV1": False,
            "oomScoreAdj": 0,
            "cgroupRoot": f"/{self.cgroup}",
            "staticPodPath": f"{self.folder}/manifests",
            "fileCheckFrequency": "1s",
            "podLogsDir": f"{self.folder}/logs",
            "volumePluginDir": f"{self.folder}/plugins",
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "address": "127.0.0.1",
            "port": self._port,
            "healthzPort": self._health,
            "registerNode": False,
            "readOnlyPort": 0,
            "makeIPTablesUtilChains": False,
            "containerLogMaxSize": "64Ki",
            "containerLogMonitorInterval": "3s",
            "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "featureGates": self._gates,
            "logging": {"vmodule": [{"filePattern": file, "verbosity": n} for file, n in self._verbose.items()]},
        }

    # ------------------------------------------------------------------ its life

    def start(self) -> None:
        """Returns once it is healthy."""
        self._share_root()
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                [
                    self._program,
                    f"--config={self.folder}/config.json",
                    f"--root-dir={self.folder}/root",
                    f"--cert-dir={self.folder}/pki",
                    f"--hostname-override={NODE}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_for(self._is_healthy, f"kubelet to be healthy; its log is {self.folder}/log", PATIENCE)

    def _share_root(self) -> None:
        """Make its folder a shared mount, once. It would do so itself, beside a rename in that folder, which
        fails with EXDEV if the mount appears between the look-ups of its two names; and then it ends."""
        root = self.folder / "root"
        if not root.exists():
            root.mkdir()
            subprocess.run(["mount", "--bind", root, root], check=True)
            subprocess.run(["mount", "--make-rshared", root], check=True)

    def _is_healthy(self) -> bool:
        assert self._process is not None and self._process.poll() is None, self.log_tail()
        health = f"http://127.0.0.1:{self._health}/healthz"
        with contextlib.suppress(OSError), urllib.request.urlopen(health) as answer:
            self.ask("/healthz")  # the port that is asked in the tests opens by itself
            return bool(answer.read() == b"ok")
        return False

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(PATIENCE)
            self._process = None

    def said(self) -> list[str]:
        """The lines of its own log."""
        return (self.folder / "log").read_text(errors="replace").splitlines()

    def log_tail(self) -> str:
        return "\n".join(self.said()[-30:])

    # ------------------------------------------------------------------ what it is asked

    def ask(self, path: str, data: bytes | None = None) -> bytes:
        """Raises urllib.error.HTTPError with what it has against it."""
        url = f"https://127.0.0.1:{self._port}{path}"
        with urllib.request.urlopen(url, data, timeout=60, context=ssl._create_unverified_context()) as answer:
            return bytes(answer.read())

    def run(self, pod: str, container: str, command: str) -> str:
        """What ``command``, split at blanks, prints in the container: an ExecSync."""
        return self.ask(f"/run/default/{pod}-{NODE}/{container}?cmd={command.replace(' ', '%20')}", b"").decode()

    def log(self, pod: str, container: str, query: str = "") -> str:
        return self.ask(f"/containerLogs/default/{pod}-{NODE}/{container}{query}").decode()

    def metrics(self) -> dict[str, float]:
        """Of itself: the sum of each sample's values over its labels."""
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(self.ask("/metrics").decode()):
            for sample in family.samples:
                found[sample.name] = found.get(sample.name, 0) + sample.value
        return found

    def asked_of_runtime(self) -> dict[str, int]:
        """How often it has called which RPC, by its name for that (``container_status``)."""
        families = text_string_to_metric_families(self.ask("/metrics").decode())
        return {
            sample.labels["operation_type"]: int(sample.value)
            for family in families
            for sample in family.samples
            if sample.name == "kubelet_runtime_operations_total"
        }

    def summary(self, pod: str) -> Json:
        """The pod's part of /stats/summary, None while there is none."""
        pods = json.loads(self.ask("/stats/summary"))["pods"]
        return next((each for each in pods if each["podRef"]["name"] == f"{pod}-{NODE}"), None)

    def pod(self, name: str) -> Json:
        """The pod as kubelet reports it, None while it does not know it."""
        items = json.loads(self.ask("/pods"))["items"] or []
        return next((each for each in items if each["metadata"]["name"] == f"{name}-{NODE}"), None)

    def container(self, pod: str, name: str) -> Json:
        """The status of one container, {} while there is none."""
        status = (self.pod(pod) or {}).get("status", {})
        listed = status.get("containerStatuses", []) + status.get("initContainerStatuses", [])
        return next((each for each in listed if each["name"] == name), {})

    def is_ready(self, pod: str) -> bool:
        conditions = (self.pod(pod) or {}).get("status", {}).get("conditions", [])
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

    # ------------------------------------------------------------------ its pods

    def apply(self, manifest: dict[str, Any]) -> str:
        """Have it run the pod; its name."""
        name = str(manifest["metadata"]["name"])
        hidden = self.folder / "manifests" / f".{name}.json"
        hidden.write_text(json.dumps(manifest))
        hidden.rename(hidden.with_name(f"{name}.json"))
        return name

    def wait_ready(self, pod: str) -> None:
        wait_for(lambda: self.is_ready(pod), f"pod {pod} to be ready: {self.pod(pod)}", PATIENCE)

    def delete(self, *pods: str) -> None:
        """Remove the manifests and wait until the pods are stopped; kubelet itself forgets them at once."""
        for name in pods:
            (self.folder / "manifests" / f"{name}.json").unlink(missing_ok=True)
        stopped = {f"{name}-{NODE}" for name in pods}

        def alive() -> list[str]:
            return [each.metadata.name for each in self._daemon.pods() if each.state == api.SANDBOX_READY]

        wait_for(lambda: not stopped & set(alive()), f"the pods to be stopped: {stopped}", PATIENCE)

    def delete_all(self) -> None:
        """And until their sandboxes are gone, which kubelet collects once a minute."""
        self.delete(*(file.stem for file in (self.folder / "manifests").glob("[!.]*.json")))
        wait_for(lambda: not self._daemon.pods(), "the sandboxes to be collected", COLLECTION)

    def leave_all(self) -> None:
        """Stop it and remove its pods without it, which takes seconds where its collection takes a minute."""
        self.stop()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(self._daemon.remove_pod, [each.id for each in self._daemon.pods()]))


@contextlib.contextmanager
def kubelet_of(daemon: Daemon, verbose: dict[str, int] | None = None, **gates: bool) -> Iterator[Kubelet]:
    """A kubelet that runs; its pods are gone at the end."""
    kubelet = Kubelet(build_kubelet(), daemon, gates, verbose or {})
    make_cgroup(kubelet.cgroup)
    try:
        kubelet.start()
        yield kubelet
        kubelet.delete_all()
    finally:
        kubelet.stop()
        remove_traces(kubelet)


def hierarchies() -> list[Path]:
    """The mount points of all cgroup hierarchies."""
    lines = [line.split(" - ") for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [Path(left.split()[4]) for left, right in lines if right.split()[0] in ("cgroup", "cgroup2")]


def make_cgroup(name: str) -> None:
    """In every hierarchy: kubelet wants to find it there."""
    for top in hierarchies():
        (top / name).mkdir(exist_ok=True)
        for file in ("cpuset.cpus", "cpuset.mems"):
            if (top / name / file).exists() and not (top / name / file).read_text().strip():
                (top / name / file).write_text((top / file).read_text())


def remove_traces(kubelet: Kubelet) -> None:
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        point = line.split()[4]
        if point.startswith(f"{kubelet.folder}/"):
            subprocess.run(["umount", "--lazy", point], check=True)
    for top in hierarchies():
        for folder, _, _ in os.walk(top / kubelet.cgroup, topdown=False):
            os.rmdir(folder)
    for link in LOGS.glob("*") if LOGS.exists() else ():
        if link.is_symlink() and os.readlink(link).startswith(str(kubelet.folder)):
            link.unlink()
    shutil.rmtree(kubelet.folder / "root", ignore_errors=True)


if __name__ == "__main__":
    build_kubelet()  # before the tests, whose time it would take
