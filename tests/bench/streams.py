"""How fast bytes go through exec, attach and port-forward, there and back, and whether all arrive.

The client is ``tests/conformance/streamclient``, client-go's own executors and dialers, built by
Go; it compares a sum of what it sent with one of what came back. Not among the measures that are
taken without being asked for: it needs Go.

Invariant: a byte that is lost or changed ends the run.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from proto import api_pb2 as api
from tests import golang
from tests.bench import processes
from tests.bench.endpoint import Endpoint
from tests.bench.measures import turns
from tests.bench.workload import Workload

BYTES = 1 << 30
PORT = 8000
TRANSPORTS = ("spdy", "websocket")
HERE = Path(golang.__file__).parent / "conformance"

Url = Callable[[], str]


def streams(ends: Sequence[Endpoint], work: Workload, rounds: int) -> None:
    """MB/s of a gigabyte; and what the daemon has grown by after all of them."""
    client = golang.build(HERE, "./streamclient")
    before = {end.address: processes.private_bytes(end.server_pid()) for end in ends}
    for number, end in turns(ends, rounds):
        with work.prepared([name := f"streams-{number}"]):
            through_pod(end, work, name, client)
    for end in ends:
        grown = processes.private_bytes(end.server_pid()) - before[end.address]
        end.samples.add("daemon growth after the streams", grown / 1e6, "MB")


def through_pod(end: Endpoint, work: Workload, name: str, client: Path) -> None:
    """Exec, attach and port-forward of one pod, over each transport."""
    sandbox = work.pod(name)
    pod = end.run_pod(sandbox, "(streams)")
    echoes = ("/bin/busybox", "nc", "-ll", "-p", str(PORT), "-e", "/bin/cat")
    serve = run(end, pod, sandbox, work.container(*echoes), f"{name}-serve")
    wait_listening(end, serve)
    for transport in TRANSPORTS:
        cat = work.container("/bin/cat")
        cat.stdin = cat.stdin_once = True
        typed = run(end, pod, sandbox, cat, f"{name}-{transport}")
        sessions: dict[str, tuple[str, Url]] = {
            "exec": ("echo", lambda: exec_url(end, serve)),
            "attach": ("echo", lambda typed=typed: attach_url(end, typed)),  # type: ignore[misc]
            "port-forward": ("forward", lambda: forward_url(end, pod)),
        }
        for kind, (command, url) in sessions.items():
            speed = echo(client, command, transport, url())
            if speed is not None:
                end.samples.add(f"{kind}, 1 GiB there and back, {transport}", speed, "MB/s")
    end.discard(pod)


def run(end: Endpoint, pod: str, sandbox: api.PodSandboxConfig, config: api.ContainerConfig, name: str) -> str:
    """A container without a log: a gigabyte in it would be what is measured."""
    config.metadata.name, config.log_path = name, ""
    create = api.CreateContainerRequest(pod_sandbox_id=pod, config=config, sandbox_config=sandbox)
    id = str(end.runtime.CreateContainer(create).container_id)
    end.runtime.StartContainer(api.StartContainerRequest(container_id=id))
    return id


def wait_listening(end: Endpoint, container: str) -> None:
    command = ["/bin/sh", "-c", f"grep -qi ':{PORT:04X} .* 0A ' /proc/net/tcp /proc/net/tcp6"]
    until = time.monotonic() + 20
    while end.runtime.ExecSync(api.ExecSyncRequest(container_id=container, cmd=command, timeout=10)).exit_code:
        if time.monotonic() > until:
            raise TimeoutError(f"nobody listens on port {PORT}")
        time.sleep(0.05)


def exec_url(end: Endpoint, container: str) -> str:
    request = api.ExecRequest(container_id=container, cmd=["/bin/cat"], stdin=True, stdout=True)
    return str(end.runtime.Exec(request).url)


def attach_url(end: Endpoint, container: str) -> str:
    return str(end.runtime.Attach(api.AttachRequest(container_id=container, stdin=True, stdout=True)).url)


def forward_url(end: Endpoint, pod: str) -> str:
    return str(end.runtime.PortForward(api.PortForwardRequest(pod_sandbox_id=pod, port=[PORT])).url)


def echo(client: Path, command: str, transport: str, url: str) -> float | None:
    """MB/s; None where the other end does not speak this transport's newest version.

    Raises:
        AssertionError: not everything came back as it was sent.
    """
    arguments = [str(client), command, "-transport", transport, "-bytes", str(BYTES), "-port", str(PORT), url]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode and "unable to upgrade" in done.stderr + done.stdout:
        return None
    if done.returncode:
        raise AssertionError(f"{command} over {transport}: {done.stderr}")
    return float(json.loads(done.stdout)["MBps"])
