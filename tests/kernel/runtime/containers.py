"""Starts of containers for tests: what a monitor does around the script of init, in small.

The image is busybox, linked into a directory of layers.
"""

from __future__ import annotations

import functools
import os
import select
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from runtime import births, image
from runtime.init import plan_init
from runtime.linux import namespaces
from runtime.requests import StartRequest
from runtime.rootfs import volumes
from runtime.spec import Mount
from tests.kernel.runtime.forked import in_child
from tests.kernel.runtime.launched import launch, wait_report

BUSYBOX = shutil.which("busybox")
needs_busybox = pytest.mark.skipif(BUSYBOX is None, reason="needs busybox: the programs of the test image")

ALL_SETS = ("bounding", "effective", "permitted")
DEFAULT_CAPABILITIES = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_MKNOD"]
MASKED = ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/scsi", "/sys/firmware", "/proc/absent"]
READONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]


def make_image(layer: Path) -> None:
    """A root with busybox, its libraries and a few links."""
    assert BUSYBOX is not None
    (layer / "bin").mkdir(parents=True)
    layer.chmod(0o755)
    shutil.copy(BUSYBOX, layer / "bin/busybox")
    for name in (
        "sh",
        "cat",
        "id",
        "ls",
        "readlink",
        "sleep",
        "stat",
        "grep",
        "mkdir",
        "echo",
        "mount",
        "head",
        "true",
        "pwd",
        "env",
        "tty",
        "stty",
        "dd",
    ):
        (layer / "bin" / name).symlink_to("busybox")
    for library in _libraries(BUSYBOX):
        copy = layer / library.lstrip("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, copy)
    (layer / "etc").mkdir()
    (layer / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n")
    (layer / "tmp").mkdir(mode=0o777)


@functools.cache
def _libraries(program: str) -> list[str]:
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    return [word for word in listed.split() if word.startswith("/")]


def default_mounts() -> list[Mount]:
    """Those that a plan gives every container, but for the pod's files and the cgroups."""
    plain = ["nosuid", "noexec", "nodev"]
    devpts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]
    return [
        _fs("/proc", "proc", plain),
        _fs("/dev", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        _fs("/dev/pts", "devpts", devpts),
        _fs("/dev/mqueue", "mqueue", plain),
        _fs("/sys", "sysfs", [*plain, "ro"]),
    ]


def _fs(destination: str, kind: str, options: list[str]) -> Mount:
    return {"destination": destination, "type": kind, "source": kind, "options": options}


def bind(source: Path | str, destination: str, *options: str) -> Mount:
    return {"destination": destination, "type": "bind", "source": str(source), "options": ["rbind", *options]}


class Image:
    """A layer on disk and what a container of it needs, below ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.layer = path / "layer"
        make_image(self.layer)
        for name in ("upper", "work", "staging", "volumes"):
            (path / name).mkdir()

    def request(self, *args: str, **changes: Any) -> StartRequest:
        """A request to run ``args``; ``changes`` go to ``process`` but for mounts, devices and readonly."""
        capabilities = {name: list(DEFAULT_CAPABILITIES) for name in ALL_SETS}
        described: Any = {
            "terminal": False,
            "user": {"uid": 0, "gid": 0, "additionalGids": []},
            "args": list(args),
            "env": ["PATH=/bin", "HOME=/"],
            "cwd": "/",
            "capabilities": {**capabilities, "inheritable": [], "ambient": []},
            "rlimits": [],
            "noNewPrivileges": False,
        }
        mounts = [*default_mounts(), *changes.pop("mounts", [])]
        linux: Any = {
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")],
            "devices": changes.pop("devices", []),
            "cgroupsPath": "/test",
            "sysctl": {},
            "maskedPaths": MASKED,
            "readonlyPaths": READONLY,
            "rootfsPropagation": changes.pop("propagation", "rslave"),
        }
        described.update(changes)
        readonly = described.pop("readonly", False)
        return {
            "container": "c" * 64,
            "spec": {
                "ociVersion": "1.2.0",
                "process": described,
                "root": {"path": "rootfs", "readonly": readonly},
                "hostname": "testbox",
                "mounts": mounts,
                "annotations": {},
                "linux": linux,
            },
            "rootfs": {
                "lowerdirs": [str(self.layer)],
                "upperdir": str(self.path / "upper"),
                "workdir": str(self.path / "work"),
                "staging": str(self.path / "staging"),
            },
            "volumes": [],
            "images": [],
            "missing_sources": [],
            "cgroup": {"v1": [], "v2": None},
            "pid_mode": "container",
            "target": None,
            "seccomp": None,
            "log_path": None,
            "stdin": False,
            "stdin_once": False,
            "memory_events": None,
        }


class Started:
    """A container that executes: ``pid``, what it prints, and its terminal's master."""

    def __init__(self, pid: int, output: int, console: int | None) -> None:
        self.pid, self.output, self.console = pid, output, console

    def finish(self) -> tuple[int, str]:
        """Its exit code (128+n for a signal) and all that it printed."""
        text = _read_all(self.output)
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        code = os.waitstatus_to_exitcode(status)
        return (128 - code if code < 0 else code), text

    def go_on_as(self, pidfd: int) -> None:
        """It was born once more (``runtime.user_namespace``); what it was before has ended."""
        os.waitpid(self.pid, 0)
        self.pid = int(Path(f"/proc/self/fdinfo/{pidfd}").read_text().split("\nPid:")[1].split()[0])
        os.close(pidfd)

    def close(self) -> None:
        if self.pid:
            os.kill(self.pid, 9)
            os.waitpid(self.pid, 0)
        for fd in (self.output, self.console):
            if fd is not None:
                os.close(fd)


@contextmanager
def started(
    request: StartRequest, joined: dict[str, int] | None = None, leaked: int | None = None
) -> Iterator[Started]:
    """Start ``request`` as a monitor does.

    Raises:
        Fault: what the script failed with.
    """
    if leaked is not None:
        os.set_inheritable(leaked, True)
    if request["volumes"]:
        in_child(lambda: image.probe_rootfs(request["rootfs"], lambda root: fill(request, root)))
    given = dict(sorted((joined or {}).items()))
    script = plan_init(request, births.read_seccomp(request), frozenset(given))
    reads, writes = os.pipe()
    null = os.open("/dev/null", os.O_RDONLY)
    try:
        flags = 0 if "user" in given else namespaces.CLONE_NEWPID
        pid, report = launch(script, [null, writes, writes, *given.values()], flags)
    finally:
        for fd in (writes, null):
            os.close(fd)
    container = Started(pid, reads, None)
    try:
        handed, fault = wait_report(script, report)
        if handed and "user" in given:
            container.go_on_as(handed.pop(0))
        if handed:
            (container.console,) = handed
        if fault is not None:
            raise fault
        yield container
    finally:
        container.close()


def fill(request: StartRequest, root: int) -> None:
    for volume in request["volumes"]:
        volumes.fill_volume(root, volume["destination"], volume["source"], volumes.Budget())


def _read_all(fd: int) -> str:
    chunks = []
    while chunk := os.read(fd, 65536):
        chunks.append(chunk)
    return b"".join(chunks).decode(errors="replace")


def run(request: StartRequest) -> tuple[int, str]:
    """Start ``request`` and wait: exit code and output."""
    with started(request) as container:
        return container.finish()


def read_until(fd: int, wanted: bytes, seconds: float = 30) -> bytes:
    """What ``fd`` gives until ``wanted`` is in it."""
    found = b""
    while wanted not in found:
        ready, _, _ = select.select([fd], [], [], seconds)
        assert ready, found
        found += os.read(fd, 4096)
    return found
