"""The published crictl, and a daemon of our own for it: what the scripts that type commands share.

``crictl_smoke`` and ``crictl_streaming`` are lists of steps; ``play`` takes them. Go builds crictl
as its release is published (go.mod and go.sum beside this file), once, into the user's cache.

Invariant: whatever fails, nothing is left of a run but the cache.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cri.demo_image import REFERENCE
from tests import golang

HERE = Path(__file__).resolve().parent
CRISP = Path(sys.prefix) / "bin/crisp"
CRICTL = "sigs.k8s.io/cri-tools/cmd/crictl"
SETTINGS = 'log_level = "warning"\n[network]\nbridge = "crismoke0"\nsubnets = ["10.214.77.0/24"]\nprovider = "bridge"\n'


PATIENCE = 30.0
"""Seconds for anything that is sure to happen on a busy machine."""

Step = Callable[["Session"], str | None]


class Failed(Exception):
    """A command did not do what it should."""


def play(title: str, steps: Iterable[Step]) -> int:
    """Run the steps one after another; the exit status of the script."""
    missing = "root" if os.geteuid() else "Go, which builds crictl" if golang.is_missing() else ""
    if missing:
        print(f"{title}: skipped: needs {missing}\n0 passed, 0 failed, 1 skipped")
        return 0
    crictl = build_crictl()
    with tempfile.TemporaryDirectory(prefix="crisp-crictl-") as folder, serve(Path(folder)) as config:
        session = Session(crictl, config, Path(folder))
        for step in steps:
            session.run(step)
        session.remove_all()
    print(f"{session.passed} passed, {session.failed} failed, {session.skipped} skipped")
    return 1 if session.failed else 0


def build_crictl() -> Path:
    return golang.build(HERE, CRICTL)


@contextlib.contextmanager
def serve(folder: Path, settings: str = SETTINGS) -> Iterator[Path]:
    """A daemon of our own with these settings, at ``crisp.sock`` in ``folder``; yields crictl's configuration file."""
    (folder / "config.toml").write_text(settings)
    command = [str(CRISP), "serve", "--config", str(folder / "config.toml"), "--listen", f"unix://{folder}/crisp.sock"]
    command += ["--root", str(folder / "root"), "--state", str(folder / "state"), "--metrics", ""]
    daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        wait_until(lambda: (folder / "crisp.sock").exists(), "the daemon's socket", daemon)
        config = folder / "crictl.yaml"
        config.write_text(f"runtime-endpoint: unix://{folder}/crisp.sock\nimage-endpoint: unix://{folder}/crisp.sock\n")
        yield config
    finally:
        daemon.terminate()
        if daemon.wait(30):
            print(f"FAILED the daemon ended with status {daemon.returncode}")


def wait_until(condition: Callable[[], object], what: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 20
    while not condition():
        if process.poll() is not None or time.monotonic() > end:
            raise Failed(f"{what} did not appear")
        time.sleep(0.02)


@dataclass
class Session:
    """crictl with its configuration, and what the steps hand on to each other."""

    crictl: Path
    config: Path
    folder: Path
    pod: str = ""
    container: str = ""
    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def command(self, *arguments: str) -> list[str]:
        return [str(self.crictl), "--config", str(self.config), *arguments]

    def __call__(self, *arguments: str, typed: str = "") -> str:
        """What crictl printed, which was given ``typed``.

        Raises:
            Failed: its exit status is not 0.
        """
        done = subprocess.run(
            self.command(*arguments), capture_output=True, text=True, timeout=60, input=typed, check=False
        )
        if done.returncode:
            raise Failed(f"crictl {' '.join(arguments)}: status {done.returncode}: {done.stderr.strip()}")
        return done.stdout.strip()

    def json(self, verb: str, *arguments: str) -> Any:
        return json.loads(self(verb, "-o", "json", *arguments))

    def write(self, name: str, document: object) -> str:
        (self.folder / name).write_text(json.dumps(document))
        return str(self.folder / name)

    def run(self, step: Step) -> None:
        """One step: a line that says how it went. A step says "skipped: …" if it cannot be taken."""
        name = step.__name__.removeprefix("step_")
        try:
            said = step(self)
        except (Failed, AssertionError, LookupError, OSError, ValueError, subprocess.SubprocessError) as error:
            self.failed += 1
            print(f"FAILED {name}: {type(error).__name__}: {error}", flush=True)
            return
        self.skipped += bool(said)
        self.passed += not said
        print(f"{'ok' if not said else '--'}     {name}{' ' + said if said else ''}", flush=True)

    def remove_all(self) -> None:
        """Whatever failed before, no pod stays."""
        subprocess.run(self.command("rmp", "-fa"), capture_output=True, check=False)

    def pod_config(self) -> str:
        metadata = {"name": "smoke", "namespace": "default", "uid": "smoke-1", "attempt": 0}
        logs = str(self.folder / "logs")
        return self.write("pod.json", {"metadata": metadata, "log_directory": logs, "linux": {}})

    def run_container(self, name: str, script: str, **fields: object) -> str:
        """The id of a container of the pod that runs ``script`` and has said that it is ready."""
        id = self.create(name, script, **fields)
        self("start", id)
        self.wait_for(lambda: "ready" in self("logs", id), f"container {name}")
        return id

    def create(self, name: str, script: str, **fields: object) -> str:
        config = {
            "metadata": {"name": name, "attempt": 0},
            "image": {"image": REFERENCE},
            "command": ["/bin/sh", "-c", script],
            "log_path": f"{name}.log",
            **fields,
        }
        return self("create", self.pod, self.write(f"{name}.json", config), self.pod_config())

    def wait_for(self, holds: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
        until = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > until:
                raise Failed(f"waited in vain for {what}")
            time.sleep(0.05)
