"""``crisp demo``: from nothing to a running pod, told on a terminal.

Starts ``crisp serve`` as a child, imports an image that is built on the spot, runs
one pod through the CRI, shows what it said and where the time went, and serves
until Ctrl-C. ``cri.cli.demo_pod`` is the CRI client.

Invariant: however it ends, its pods are removed and its daemon is gone; only the
root and state directories stay.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cri.cli.options import add_common, add_serving, read_settings
from cri.cli.output import clean, short
from runtime.errors import FailedPrecondition, Unavailable

if TYPE_CHECKING:
    from types import FrameType

    from cri.cli.demo_pod import DemoPod
    from cri.settings import Settings

START_WAIT = 30.0
STOP_WAIT = 15.0
SOURCES = {"crictl": "https://github.com/kubernetes-sigs/cri-tools/releases", "curl": "Debian's package curl"}
"""Where the programs of the next commands come from, which crisp itself does not need."""


class Interrupted(Exception):
    """SIGINT, SIGTERM or SIGHUP: the demo is over."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("demo", help="serve, and show one pod running")
    add_common(parser)
    add_serving(parser)
    parser.add_argument("--once", action="store_true", help="end when the pod was shown, do not wait for Ctrl-C")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Raises FailedPrecondition without root, and Fault for what the daemon refuses."""
    if os.geteuid() != 0:
        raise FailedPrecondition("pods need root; try `sudo crisp demo`")
    if args.state and not args.listen:
        args.listen = f"unix://{args.state}/crisp.sock"
    settings = read_settings(args)
    try:
        with signals_raise(), serving(serve_command(args), settings) as daemon:
            show(settings, daemon, forever=not args.once)
    except Interrupted:
        pass
    return 0


@contextmanager
def signals_raise() -> Iterator[None]:
    """The first signal raises ``Interrupted``; more of them do not disturb the clean-up."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise Interrupted

    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def serve_command(args: argparse.Namespace) -> list[str]:
    """The command line of the daemon with the demo's own options."""
    flags = {"config": args.config, "root": args.root, "state": args.state, "listen": args.listen}
    flags |= {"metrics": args.metrics, "log-level": args.log_level or "warning"}
    options = [f"--{name}={value}" for name, value in flags.items() if value is not None]
    return [sys.executable, "-m", "cri", "serve", *options]


@contextmanager
def serving(command: list[str], settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    """The daemon, from its socket's appearance until it has ended.

    It gets a session of its own: Ctrl-C is for the demo, which then ends it in order.
    """
    daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_socket(settings.listen.removeprefix("unix://"), daemon)
        yield daemon
    finally:
        daemon.terminate()
        try:
            daemon.wait(STOP_WAIT)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


def wait_socket(path: str, daemon: subprocess.Popen[bytes]) -> None:
    """Until ``daemon`` serves there; another one, whose pods are not ours to remove, does not count.

    Raises:
        Unavailable: the daemon ended first or takes longer than ``START_WAIT``.
    """
    deadline = time.monotonic() + START_WAIT
    while time.monotonic() < deadline:
        status = daemon.poll()
        if status is not None:
            raise Unavailable(f"the daemon ended with status {status}; its last line above says why")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            if probe.connect_ex(path) == 0 and listener(probe) == daemon.pid:
                return
        time.sleep(0.01)
    raise Unavailable(f"the daemon does not serve after {START_WAIT:g} s", object=path)


def listener(connected: socket.socket) -> int:
    """The pid of the process that listens at the other end (unix(7), SO_PEERCRED)."""
    credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid: int = struct.unpack("3i", credentials)[0]
    return pid


def show(settings: Settings, daemon: subprocess.Popen[bytes], forever: bool) -> None:
    """Everything between the daemon's start and its end."""
    import grpc

    from cri.cli.client import fault_of, open_channel
    from cri.cli.demo_pod import DemoPod

    logs = f"{settings.state}/demo"
    socket_path = settings.listen.removeprefix("unix://")
    with open_channel(socket_path) as channel:
        pod = DemoPod(channel, logs)
        try:
            pod.remove_all()
            image = import_image(settings)
            pod.start(image)
            tell(settings, pod)
            if forever:
                print("\nServing until Ctrl-C.", flush=True)
                watch(daemon)
        except grpc.RpcError as error:
            raise fault_of(error, socket_path) from None
        finally:
            leave(pod, socket_path)
            shutil.rmtree(logs, ignore_errors=True)


def watch(daemon: subprocess.Popen[bytes]) -> None:
    """Until a signal raises. Raises Unavailable when the daemon ends by itself."""
    status = daemon.wait()
    why = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    raise Unavailable(f"the daemon {why}; its pods go on: the next `crisp demo` removes the demo's")


def leave(pod: DemoPod, socket_path: str) -> None:
    """Remove the pods; signals are held off, and a failure is told but hides none before it."""
    import grpc

    from cri.cli.client import fault_of

    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        if pod.remove_all():
            print("\nThe demo's pod is removed.", flush=True)
    except grpc.RpcError as error:
        print(f"crisp: the demo's pod could not be removed: {fault_of(error, socket_path)}", file=sys.stderr)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def import_image(settings: Settings) -> str:
    """Build the demo image and bring it in; its reference."""
    from cri.cli.client import admin
    from cri.cli.images import requests
    from cri.demo_image import build_demo_image

    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="crisp-demo-") as folder:
        path = f"{folder}/demo.tar"
        reference: str = build_demo_image(path)
        with open(path, "rb") as archive, admin(settings) as stub:
            stub.ImportImage(requests(archive, ""))
    print(f"image      {reference}, built and imported in {milliseconds(time.monotonic() - began)}")
    return reference


def tell(settings: Settings, pod: DemoPod) -> None:
    """What the container said, where the time went, and what to type next."""
    from cri.cli.client import admin
    from cri.cli.explain import print_explanation
    from proto import admin_pb2

    print(f"log        {clean(pod.first_line())}")
    calls = ", ".join(f"{name} {milliseconds(took)}" for name, took in pod.took.items())
    print(f"calls      {calls}")
    with admin(settings) as stub:
        print_explanation(stub.Explain(admin_pb2.ExplainRequest(pod=pod.sandbox_id), timeout=10))
    print("\nNext, in another terminal:")
    commands = next_commands(settings, pod)
    for command in commands:
        print(f"  {command}")
    for program, source in SOURCES.items():
        if any(command.startswith(program) for command in commands) and shutil.which(program) is None:
            print(f"{program} is not installed here: {source}")


def next_commands(settings: Settings, pod: DemoPod) -> list[str]:
    crisp, where = os.path.join(os.path.dirname(sys.executable), "crisp"), ""
    if settings.root != "/var/lib/crisp" or settings.state != "/run/crisp":
        where = f" --root {settings.root} --state {settings.state}"
    crictl = f"crictl --runtime-endpoint {settings.listen}"
    commands = [f"{crisp} explain{where} demo", f"{crisp} images list{where}", f"{crisp} check{where}"]
    container = short(pod.container_id)
    commands += [f"{crictl} ps", f"{crictl} exec -s {container} ps", f"{crictl} logs {container}"]
    if settings.metrics:
        commands.append(f"curl http://{settings.metrics}/metrics")
    return commands


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms"
