"""The published crictl against a real daemon: a pod's whole life as an operator types it.

    make conformance          (as root; or: python tests/conformance/crictl_smoke.py)

A line a step, and a closing line with the counts. Without Go or without root it says what is
missing and ends with status 0. ``crictl_session`` has crictl and the daemon, ``crictl_running``
the steps on a container that runs.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tarfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cri.demo_image import REFERENCE, build_demo_image
from tests.conformance.crictl_running import RUNNING
from tests.conformance.crictl_session import CRISP, Failed, Session, Step, play, wait_until
from tests.ports import free_port

SCRIPT = "trap 'exit 7' TERM; echo ready; sleep 2147483647 & wait"


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
    limits = {"resources": {"memory_limit_in_bytes": 64 * 1024 * 1024}}
    crictl.container = crictl.create("main", SCRIPT, linux=limits)
    assert crictl.json("inspect", crictl.container)["status"]["state"] == "CONTAINER_CREATED"


def step_start(crictl: Session) -> None:
    crictl("start", crictl.container)
    crictl.wait_for(lambda: "ready" in crictl("logs", crictl.container), "the container to be ready")


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


STEPS: list[Step] = [
    *(step_version, step_info, step_images, step_runp, step_inspectp, step_create, step_start, step_ps),
    *(step_exec_s, step_logs, step_inspect, *RUNNING, step_stop, step_rm, step_stopp, step_rmp),
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
    sys.exit(play("crictl smoke test", STEPS))
