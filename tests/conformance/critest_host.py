"""A runtime for critest on this host, and what critest's specs leave behind on it.

``runtime`` starts a daemon of our own whose images come from a registry on loopback; ``lend`` gives a
runtime that serves already the same images. Specs leave segments of shared memory (those on
host IPC), mounts below TMPDIR (those on propagation) and pods, where they fail.

Invariant: nothing below a folder is deleted while anything is mounted there: specs bind-mount /etc.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc

from proto import api_pb2 as api
from proto import api_pb2_grpc as rpc
from runtime.cgroups.layout import detect
from runtime.linux.mount import MNT_DETACH, UMOUNT_NOFOLLOW, umount2
from tests.conformance import registry
from tests.conformance.crictl_session import serve

SETTINGS = """\
log_level = "error"
[network]
bridge = "cricrit0"
subnets = ["10.214.78.0/24"]
provider = "bridge"
[registry]
config_path = "{certs}"
"""
SEGMENT = 1 << 20
"""Bytes of what the specs on host IPC make."""


@contextlib.contextmanager
def runtime(folder: Path, layout: Path) -> Iterator[str]:
    """A daemon in ``folder``; yields its endpoint. Afterwards no pod of it is left."""
    with registry.serve(layout) as host, controllers_taken_back():
        registry.write_hosts(folder / "certs.d", host)
        with serve(folder, SETTINGS.format(certs=folder / "certs.d")):
            endpoint = f"unix://{folder}/crisp.sock"
            try:
                yield endpoint
            finally:
                remove_pods(endpoint)


@contextlib.contextmanager
def controllers_taken_back() -> Iterator[None]:
    """What a daemon had the root of the v2 tree hand down, and nobody before it, is taken back once it has gone.

    It leaves that: pods of another one may need it by then, and in that case it stays here as well.
    """
    control = Path(detect().v2 or "/nowhere", "cgroup.subtree_control")
    before = control.read_text().split() if control.exists() else []
    try:
        yield
    finally:
        for controller in set(control.read_text().split() if control.exists() else ()).difference(before):
            try:
                control.write_text(f"-{controller}")
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise


@contextlib.contextmanager
def lend(endpoint: str, certs: Path, layout: Path) -> Iterator[str]:
    """The runtime at ``endpoint``, which reads ``certs`` for its registries, has the images meanwhile."""
    with registry.serve(layout) as host:
        file = registry.write_hosts(certs, host)
        try:
            yield endpoint
        finally:
            remove_pods(endpoint)
            file.unlink()


def remove_pods(endpoint: str) -> None:
    """Whatever specs failed, no pod stays; says how many there were."""
    with grpc.insecure_channel(endpoint) as channel:
        runtime: Any = rpc.RuntimeServiceStub(channel)
        pods = runtime.ListPodSandbox(api.ListPodSandboxRequest()).items
        for pod in pods:
            runtime.RemovePodSandbox(api.RemovePodSandboxRequest(pod_sandbox_id=pod.id))
    if pods:
        print(f"{len(pods)} pods were left: {', '.join(pod.metadata.name for pod in pods)}", flush=True)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A new folder for runs; at the end it goes, with what specs have mounted in it and left in memory."""
    folder = Path(tempfile.mkdtemp(prefix="crisp-critest-"))
    before = list_segments()
    try:
        yield folder
    finally:
        for segment in list_segments() - before:
            subprocess.run(["ipcrm", "-m", segment], check=True)
        for point in reversed(list_mounts(folder)):
            umount2(point, MNT_DETACH | UMOUNT_NOFOLLOW)
        if not list_mounts(folder):
            shutil.rmtree(folder)


def list_segments() -> set[str]:
    """The ids of shared memory segments of the specs' size that nobody is attached to."""
    lines = [line.split() for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]]
    return {fields[1] for fields in lines if int(fields[3]) == SEGMENT and fields[6] == "0"}


def list_mounts(folder: Path) -> list[str]:
    """Mount points below ``folder`` in the order in which they were made (proc_pid_mountinfo(5))."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    decoded = [point.encode().decode("unicode_escape") for point in points]
    return [point for point in decoded if point.startswith(f"{folder}/")]
