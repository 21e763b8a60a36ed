"""A pod's life, played in the zygote before anything is forked from it.

What python writes into its own memory when code runs for the first times (the
specialised byte code, the caches of types and methods, the tables of dictionaries)
is written here, once, and shared by all monitors, instead of in each of them.

The pod is real but empty: its processes are ``pause``, in the host's namespaces
and in no cgroup, for some milliseconds; its directory is a file system that no
path leads to.

Invariant: nothing is left of it but a warm interpreter, even if the zygote is killed meanwhile.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from typing import Any

from runtime import channel
from runtime.channel import Message
from runtime.child import STDIO, block_signals, wait_released
from runtime.errors import HostFault, ScriptFailed, Unavailable
from runtime.linux import mount
from runtime.linux.libc import AT_FDCWD
from runtime.linux.script import Script
from runtime.monitor import Monitor
from runtime.pause import PAUSE
from runtime.program import LAUNCH, open_program
from runtime.requests import PAUSE_ROOT

ROUNDS = 8
"""How often the pod is played. Byte code is specialised after eight calls; most functions get some in a round."""

_PR_SET_PDEATHSIG = 1
_SECONDS = 5.0
_CONTAINERS = ("first", "second", "third")
_BLANK = ("uts", PAUSE_ROOT)
_NOWHERE: Any = {"v1": [], "v2": None}
_LINES = b"all the world's a stage\n" * 40


def rehearse(rounds: int = ROUNDS) -> None:
    """Play the pod so many times.

    Raises:
        Fault: a call was refused, as it will be to the pods as well.
        OSError: likewise.
    """
    exec = _stay([*STDIO, "target"])
    scripts = {"blank": _hand_over(), "sandbox": _stay(_BLANK), "exec": exec}
    scripts.update({"prepare": _print(waits=True), "start": _print()})
    launch = open_program(LAUNCH)
    try:
        for _ in range(rounds):
            _play(launch, scripts)
    finally:
        os.close(launch)


def _play(launch: int, scripts: dict[str, bytes]) -> None:
    near, far = channel.pair()
    near.setblocking(False)
    directory = _nowhere_directory()
    monitor = Monitor(launch)
    monitor.begin("rehearsal", directory, far)
    try:
        for op, args in _plot(f"/proc/self/fd/{directory}"):
            _ask(monitor, near, op, args, scripts.get(op))
    finally:
        monitor.close()
        near.close()


def _hand_over() -> bytes:
    """The script of a process that makes nothing, hands it over as ``_BLANK``, and ends."""
    script = Script()
    flags = os.O_RDONLY | os.O_CLOEXEC
    made = [script.opened("openat", AT_FDCWD, f"/proc/self/ns/{name}", flags, 0) for name in ("uts", "mnt")]
    script.hand_over(b"namespaces", made)
    return script.bytes()


def _print(*, waits: bool = False) -> bytes:
    """The script of a container that prints some lines and stays."""
    script = Script(STDIO)
    if waits:
        wait_released(script)
    for _ in range(4):
        script.call("write", script.given["stdout"], _LINES, len(_LINES))
    return _become_pause(script)


def _stay(given: Sequence[str] = ()) -> bytes:
    """The script of a process that is pause."""
    return _become_pause(Script(given))


def _become_pause(script: Script) -> bytes:
    """It ends with the zygote, should that be killed in the middle of the play: nobody else knows of it."""
    script.call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL.value)
    block_signals(script, (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD))
    script.call("execve", PAUSE, script.vector(["/pause"]), script.vector([]))
    return script.bytes()


def _nowhere_directory() -> int:
    context = mount.fsopen("tmpfs")
    try:
        tree = mount.fsmount(context)
    finally:
        os.close(context)
    try:
        return os.open(f"/proc/self/fd/{tree}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(tree)


def _plot(directory: str) -> list[tuple[str, Message]]:
    sandbox: Message = {"held": list(_BLANK), "new": [], "cgroup": _NOWHERE}
    plot: list[tuple[str, Message]] = [("hello", {}), ("blank", {"namespaces": ["uts"]}), ("sandbox", sandbox)]
    for name in _CONTAINERS:
        plot += [
            ("prepare", _start(name, f"{directory}/{name}.log")),
            ("release", {"container": name}),
            ("attach", {"container": name, "attach": name, "streams": ["stdout", "stderr"], "stdin": True}),
            ("exec", _exec(name)),
            ("kill_exec", {"exec": name}),
            ("signal", {"container": name, "signal": int(signal.SIGTERM)}),
        ]
    return [*plot, ("start", _start("last", f"{directory}/last.log")), ("shutdown", {})]


def _start(name: str, log: str) -> Message:
    return {
        "container": name,
        "terminal": False,
        "stdin": False,
        "joined": [],
        "cgroup": _NOWHERE,
        "pid_mode": "container",
        "log_path": log,
        "memory_events": None,
    }


def _exec(name: str) -> Message:
    command = {"terminal": False, "cgroup": _NOWHERE, "stdin": False, "timeout": _SECONDS}
    return {"container": name, "exec": name, **command}


def _ask(monitor: Monitor, near: channel.Socket, op: str, args: Message, script: bytes | None) -> None:
    descriptors = []
    if script is not None:
        descriptors.append(os.memfd_create("rehearsal", os.MFD_CLOEXEC))
        os.write(descriptors[0], script)
    try:
        channel.send(near, channel.request(1, op, args), descriptors)
    finally:
        channel.close_all(descriptors)
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        monitor.loop.turn(0.05)
        while (received := _receive(near)) is not None:
            message, descriptors = received
            channel.close_all(descriptors)
            if "id" in message:
                try:
                    channel.result_of(message)
                except ScriptFailed as failed:
                    raise HostFault(step=f"rehearse {op}", errno=failed.errno) from failed
                return
    raise Unavailable(f"no answer to {op}", step="rehearse a pod")


def _receive(near: channel.Socket) -> tuple[Message, list[int]] | None:
    try:
        return channel.receive(near)
    except BlockingIOError:
        return None
