"""The published crictl against a real daemon: a pod's whole life as an operator types it.

    make conformance          (as root; or: python tests/conformance/crictl_smoke.py)

Go builds crictl as its release is published (go.mod and go.sum beside this file), once, into
the user's cache. The daemon, its network and everything it makes are this script's own; at
the end nothing is left but the cache. A line a step, and a closing line with the counts.
Without Go or without root it says what is missing and ends with status 0.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cri.demo_image import REFERENCE, build_demo_image
from tests import golang
from tests.ports import free_port

HERE = Path(__file__).resolve().parent
CRISP = Path(sys.prefix) / "bin/crisp"
CRICTL = "sigs.k8s.io/cri-tools/cmd/crictl"
SETTINGS = 'log_level = "warning"\n[network]\nbridge = "crismoke0"\nsubnets = ["10.214.77.0/24"]\n'
SCRIPT = "trap 'exit 7' TERM; echo ready; sleep 2147483647 & wait"


class Failed(Exception):
    """A command did not do what it should."""


def main() -> int:
    missing = "root" if os.geteuid() else "Go, which builds crictl" if shutil.which("go") is None else ""
    if missing:
        print(f"crictl smoke test: skipped: needs {missing}\n0 passed, 0 failed, 1 skipped")
        return 0
    crictl = build_crictl()
    with tempfile.TemporaryDirectory(prefix="crisp-smoke-") as folder, serve(Path(folder)) as config:
        session = Session(crictl, config, Path(folder))
        for step in STEPS:
            session.run(step)
        session.remove_all()
    print(f"{session.passed} passed, {session.failed} failed, {session.skipped} skipped")
    return 1 if session.failed else 0


def build_crictl() -> Path:
    return golang.build(HERE, CRICTL)


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[Path]:
    """A daemon of our own; yields crictl's configuration file."""
    (folder / "config.toml").write_text(SETTINGS)
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

    def __call__(self, *arguments: str) -> str:
        """What crictl printed.

        Raises:
            Failed: its exit status is not 0.
        """
        command = [str(self.crictl), "--config", str(self.config), *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, check=False
        )
        if done.returncode:
            raise Failed(f"crictl {' '.join(arguments)}: status {done.returncode}: {done.stderr.strip()}")
        return done.stdout.strip()

    def json(self, verb: str, *arguments: str) -> Any:
        return json.loads(self(verb, "-o", "json", *arguments))

    def write(self, name: str, document: object) -> str:
        (self.folder / name).write_text(json.dumps(document))
        return str(self.folder / name)

    def run(self, step: Callable[[Session], str | None]) -> None:
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
        subprocess.run([str(self.crictl), "--config", str(self.config), "rmp", "-fa"], capture_output=True, check=False)

    def pod_config(self) -> str:
        metadata = {"name": "smoke", "namespace": "default", "uid": "smoke-1", "attempt": 0}
        logs = str(self.folder / "logs")
        return self.write("pod.json", {"metadata": metadata, "log_directory": logs, "linux": {}})


def step_version(crictl: Session) -> None:
    said = crictl("version")
    assert "RuntimeName:  crisp" in said and "RuntimeApiVersion:  v1" in said, said


def step_info(crictl: Session) -> None:
    conditions = {condition["type"]: condition["status"] for condition in crictl.json("info")["status"]["conditions"]}
    assert conditions == {"RuntimeReady": True, "NetworkReady": True}, conditions


def step_images(crictl: Session) -> None:
    build_demo_image(crictl.folder / "demo.tar")
    where = ["--config", str(crictl.folder / "config.toml")]
    where += ["--root", str(crictl.folder / "root"), "--state", str(crictl.folder / "state")]
    subprocess.run(
        [str(CRISP), "images", "import", *where, str(crictl.folder / "demo.tar")], check=True, capture_output=True
    )
    (image,) = crictl.json("images")["images"]
    assert image["repoTags"] == [REFERENCE], image
    assert crictl.json("inspecti", REFERENCE)["status"]["id"] == image["id"]


def step_runp(crictl: Session) -> None:
    crictl.pod = crictl("runp", crictl.pod_config())
    assert len(crictl.pod) == 64, crictl.pod


def step_inspectp(crictl: Session) -> None:
    status = crictl.json("inspectp", crictl.pod)["status"]
    assert status["state"] == "SANDBOX_READY", status
    assert status["network"]["ip"].startswith("10.214.77."), status["network"]
    assert [pod["id"] for pod in crictl.json("pods")["items"]] == [crictl.pod]


def step_create(crictl: Session) -> None:
    container = {
        "metadata": {"name": "main", "attempt": 0},
        "image": {"image": REFERENCE},
        "command": ["/bin/sh", "-c", SCRIPT],
        "log_path": "main.log",
        "linux": {"resources": {"memory_limit_in_bytes": 64 * 1024 * 1024}},
    }
    crictl.container = crictl("create", crictl.pod, crictl.write("container.json", container), crictl.pod_config())
    assert crictl.json("inspect", crictl.container)["status"]["state"] == "CONTAINER_CREATED"


def step_start(crictl: Session) -> None:
    crictl("start", crictl.container)
    end = time.monotonic() + 10
    while "ready" not in crictl("logs", crictl.container):
        assert time.monotonic() < end, "the container does not say that it is ready"


def step_ps(crictl: Session) -> None:
    (container,) = crictl.json("ps")["containers"]
    assert (container["id"], container["state"]) == (crictl.container, "CONTAINER_RUNNING"), container
    assert crictl.container[:13] in crictl("ps")


def step_exec_s(crictl: Session) -> None:
    assert crictl("exec", "-s", crictl.container, "sh", "-c", "echo $((6 * 7)); id -u") == "42\n0"
    with contextlib.suppress(Failed):
        crictl("exec", "-s", crictl.container, "sh", "-c", "exit 3")
        raise AssertionError("a command that fails has to fail crictl")


def step_logs(crictl: Session) -> None:
    assert crictl("logs", crictl.container) == "ready"


def step_inspect(crictl: Session) -> None:
    inspected = crictl.json("inspect", crictl.container)
    status = inspected["status"]
    assert status["state"] == "CONTAINER_RUNNING" and status["logPath"] == str(crictl.folder / "logs/main.log"), status
    assert Path(f"/proc/{inspected['info']['pid']}").is_dir(), inspected["info"]


def step_stats(crictl: Session) -> None:
    (stats,) = crictl.json("stats", crictl.container)["stats"]
    assert int(stats["memory"]["workingSetBytes"]["value"]) > 0, stats
    assert int(stats["cpu"]["usageCoreNanoSeconds"]["value"]) > 0, stats


def step_stop(crictl: Session) -> None:
    crictl("stop", "-t", "10", crictl.container)
    status = crictl.json("inspect", crictl.container)["status"]
    assert (status["state"], status["exitCode"], status["reason"]) == ("CONTAINER_EXITED", 7, "Error"), status


def step_rm(crictl: Session) -> None:
    crictl("rm", crictl.container)
    assert crictl.json("ps", "-a")["containers"] in ([], None)


def step_stopp(crictl: Session) -> None:
    crictl("stopp", crictl.pod)
    assert crictl.json("inspectp", crictl.pod)["status"]["state"] == "SANDBOX_NOTREADY"


def step_rmp(crictl: Session) -> None:
    crictl("rmp", crictl.pod)
    assert crictl.json("pods")["items"] in ([], None)


def step_imagefsinfo(crictl: Session) -> None:
    filesystems = crictl.json("imagefsinfo")["status"]["imageFilesystems"]
    assert int(filesystems[0]["usedBytes"]["value"]) > 0, filesystems


def step_pull(crictl: Session) -> str | None:
    """From Debian's docker-registry on loopback, over plain HTTP, which crisp allows for loopback."""
    program = shutil.which("docker-registry")
    if program is None:
        return "skipped: needs docker-registry"
    with registry(program, crictl.folder) as host:
        push(host, crictl.folder / "demo.tar")
        crictl("pull", f"{host}/demo:1")
    assert crictl.json("inspecti", f"{host}/demo:1")["status"]["repoTags"] == [REFERENCE, f"{host}/demo:1"]
    return None


def step_rmi(crictl: Session) -> None:
    crictl("rmi", REFERENCE)
    assert crictl.json("images")["images"] in ([], None)


STEPS: list[Callable[[Session], str | None]] = [
    *(step_version, step_info, step_images, step_runp, step_inspectp, step_create, step_start, step_ps),
    *(step_exec_s, step_logs, step_inspect, step_stats, step_stop, step_rm, step_stopp, step_rmp),
    *(step_imagefsinfo, step_pull, step_rmi),
]


# ---------------------------------------------------------------------------- a registry


@contextlib.contextmanager
def registry(program: str, folder: Path) -> Iterator[str]:
    """Debian's registry on a free port of loopback; yields host:port."""
    host = f"127.0.0.1:{free_port()}"
    storage = {"filesystem": {"rootdirectory": str(folder / "registry")}}
    config = {"version": "0.1", "log": {"level": "error"}, "storage": storage, "http": {"addr": host}}
    # The configuration is YAML, of which JSON is a part.
    (folder / "registry.yml").write_text(json.dumps(config))
    process = subprocess.Popen(
        [program, "serve", str(folder / "registry.yml")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: answers(f"http://{host}/v2/"), "the registry", process)
        yield host
    finally:
        process.terminate()
        process.wait(10)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def push(host: str, archive: Path) -> None:
    """The OCI archive's one image, as demo:1 (distribution spec, "Pushing blobs")."""
    with tarfile.open(archive) as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}  # type: ignore[union-attr]
    (entry,) = json.loads(files["index.json"])["manifests"]
    manifest = files[blob_name(entry["digest"])]
    document = json.loads(manifest)
    for blob in (document["config"], *document["layers"]):
        with send("POST", f"http://{host}/v2/demo/blobs/uploads/") as answer:
            location = answer.headers["Location"]
        joint = "&" if "?" in location else "?"
        send("PUT", f"{location}{joint}digest={blob['digest']}", files[blob_name(blob["digest"])]).close()
    send("PUT", f"http://{host}/v2/demo/manifests/1", manifest, entry["mediaType"]).close()


def blob_name(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def send(method: str, url: str, body: bytes = b"", kind: str = "application/octet-stream") -> Any:
    request = urllib.request.Request(url, data=body, method=method, headers={"Content-Type": kind})
    return urllib.request.urlopen(request, timeout=10)


if __name__ == "__main__":
    sys.exit(main())
