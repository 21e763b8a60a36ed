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

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

from runtime import channel
from runtime.channel import Message
from runtime.child import STDIO, block_signals, wait_released
from runtime.errors import HostFault, ScriptFailed, Unavailable
from runtime.linux import mount
from runtime.linux.libc import AT_FDCWD
from runtime.linux.passing import hand_over
from runtime.linux.script import Label, Script
from runtime.linux.spawn import RELEASE, closing_script, failure
from runtime.monitor import Monitor
from runtime.pause import DAEMON, MONITOR, PAUSE, take_place, wait_for_name
from runtime.program import LAUNCH, open_program
from runtime.requests import PAUSE_ROOT

ROUNDS = 12
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
    scripts = {"blank": _blank(), "named": _named(), "sandbox": _stay(_BLANK), "exec": exec}
    scripts.update({"prepare": _print(waits=True), "start": _print()})
    launch = open_program(LAUNCH)
    try:
        for number in range(rounds):
            _play(launch, scripts, waits=number % 2 == 0)
    finally:
        os.close(launch)


def _play(launch: int, scripts: dict[str, bytes], *, waits: bool) -> None:
    """``waits``: it is a blank pod that becomes one with a name, as most do."""
    near, far = channel.pair()
    near.setblocking(False)
    directory = _nowhere_directory()
    monitor = Monitor(launch)
    monitor.begin("rehearsal", directory, far)
    try:
        _ask(monitor, near, "hello", {})
        _blank_pod(monitor, near, scripts, waits=waits)
        for op, args in _plot(f"/proc/self/fd/{directory}"):
            _ask(monitor, near, op, args, scripts.get(op))
    finally:
        monitor.close()
        near.close()


def _blank_pod(monitor: Monitor, near: channel.Socket, scripts: dict[str, bytes], *, waits: bool) -> None:
    daemon, theirs = channel.pair()
    try:
        _ask(monitor, near, "blank", {"namespaces": ["uts"]}, scripts["blank"], [theirs.fileno()])
        if waits:
            _name(monitor, daemon, scripts["named"])
        else:
            _ask(monitor, near, "sandbox", {"held": list(_BLANK), "new": [], "cgroup": _NOWHERE}, scripts["sandbox"])
    finally:
        daemon.close()
        theirs.close()


def _name(monitor: Monitor, daemon: channel.Socket, script: bytes) -> None:
    ended, running = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        with contextlib.closing(os.fdopen(running, "wb", 0)), closing_script(script) as memfd:
            for descriptor in (memfd, running):
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptor.to_bytes(4, "little"))]
                daemon.sendmsg([RELEASE], rights)
        _turn_until(monitor, lambda: _at_end(ended))
    finally:
        os.close(ended)
    daemon.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        if failed := failure(daemon.recv(64)):
            _turn_until(monitor, lambda: not monitor.pod.children)
            raise HostFault(step="rehearse pause", errno=failed[1])
    _turn_until(monitor, lambda: monitor.sandbox.state != "absent")


def _at_end(pipe: int) -> bool:
    """Whether nobody holds its other end."""
    try:
        return not os.read(pipe, 1)
    except BlockingIOError:
        return False


def _turn_until(monitor: Monitor, true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _SECONDS
    while not true():
        if time.monotonic() > deadline:
            raise Unavailable("nothing happens", step="rehearse pause")
        monitor.loop.turn(0.05)


def _blank() -> bytes:
    """The script of a process that makes nothing, hands it over as ``_BLANK``, and waits."""
    script = Script([DAEMON])
    flags = os.O_RDONLY | os.O_CLOEXEC
    made = [script.opened("openat", AT_FDCWD, f"/proc/self/ns/{name}", flags, 0) for name in ("uts", "mnt")]
    hand_over(script, b"namespaces", made)
    script.close(*made)
    script.call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL.value)
    wait_for_name(script, cgroup=False)
    return script.bytes()


def _named() -> bytes:
    script, ended = Script([MONITOR]), Label()
    take_place(script, ended)
    script.here(ended)
    return _become_pause(script)


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
    plot: list[tuple[str, Message]] = []
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


def _ask(
    monitor: Monitor,
    near: channel.Socket,
    op: str,
    args: Message,
    script: bytes | None = None,
    given: Sequence[int] = (),
) -> None:
    with contextlib.ExitStack() as closing:
        scripts = [] if script is None else [closing.enter_context(closing_script(script))]
        channel.send(near, channel.request(1, op, args), [*scripts, *given])
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
