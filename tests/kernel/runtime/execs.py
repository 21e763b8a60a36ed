"""A container that sleeps in a driven monitor's pod, and commands inside it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.runtime.containers import Image
from tests.kernel.runtime.driven import NOWHERE, Driven, cgroups, driven


class Container:
    """A container ``one`` of busybox that sleeps, in cgroups of its own."""

    def __init__(self, pod: Driven, image: Image, cgroup: Any, ids: Any = None) -> None:
        """``ids`` is the mapping of the pod's user namespace."""
        self.pod, self.image, self.cgroup = pod, image, cgroup
        self.request: Any = image.request("sleep", "1000")
        if ids is not None:
            linux = self.request["spec"]["linux"]
            linux["namespaces"].append({"type": "user"})
            linux["uidMappings"] = [{"containerID": 0, "hostID": ids["host"], "size": ids["size"]}]
        self.request.update({"container": "one", "cgroup": cgroup})
        self.pid = pod.do("start", self.request)["pid"]

    def exec(self, *args: str, **changes: Any) -> Any:
        """A request to exec ``args``; ``changes`` go to it, those in ``process`` to the process."""
        command = {**self.request["spec"]["process"], "args": list(args), **changes.pop("process", {})}
        made = {"container": "one", "exec": "e", "process": command, "cgroup": NOWHERE, "seccomp": None}
        return {**made, "stdin": False, "timeout": None, **changes}

    def run(self, *args: str, **changes: Any) -> tuple[int, str, str]:
        """Exit code and both outputs of a command."""
        _, (stdout, stderr) = self.pod.ask("exec", self.exec(*args, **changes))
        code = self.pod.event("exec_exit")["code"]
        return code, read_all(stdout), read_all(stderr)


def read_terminal(master: int) -> str:
    """All that comes from a terminal until its last user has gone; closes it."""
    seen = b""
    while True:
        try:
            chunk = os.read(master, 1000)
        except OSError:  # EIO: the last user has gone
            break
        seen += chunk
    os.close(master)
    return seen.decode()


def read_all(descriptor: int) -> str:
    with os.fdopen(descriptor, "rb") as stream:
        return stream.read().decode()


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Container]:
    (tmp_path / "pod").mkdir()
    (tmp_path / "image").mkdir()
    with cgroups("exec") as dirs, driven(tmp_path / "pod") as pod:
        yield Container(pod, Image(tmp_path / "image"), dirs)
