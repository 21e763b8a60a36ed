"""A monitor in the test's own process, turned by hand, and cgroups for what it starts."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runtime import births, channel
from runtime.blank_init import BlankInit
from runtime.cgroups import kill
from runtime.channel import Message
from runtime.errors import ScriptFailed
from runtime.init import plan_init
from runtime.linux.script import Script
from runtime.monitor import Monitor
from runtime.pause import plan_blank
from runtime.program import LAUNCH, open_program
from runtime.requests import PAUSE_ROOT, CgroupDirs
from runtime.written import write_named

NOWHERE: CgroupDirs = {"v1": [], "v2": None}
SECONDS = 30.0

SANDBOX: dict[str, Any] = {
    "namespaces": ["network", "ipc", "uts"],
    "hostname": "pod-one",
    "sysctls": {},
    "cgroup": NOWHERE,
    "user": {"uid": 65535, "gid": 65535, "additionalGids": []},
    "no_new_privileges": True,
    "seccomp": None,
    "oom_score_adj": 0,
}


class Driven:
    """``ask`` it as a daemon does; ``events`` are those that came meanwhile."""

    def __init__(self, directory: Path, stand_in: Script | None = None) -> None:
        """``stand_in`` is carried out instead of whatever a request asks for."""
        self.directory = directory
        self.events: list[Message] = []
        self._replies: dict[int, tuple[Message, list[int]]] = {}
        self._scripts: dict[int, Script] = {}
        self._prepared: dict[str, Script] = {}
        self.stand_in = stand_in
        self.init: BlankInit | None = None
        self._number = 0
        self._near, far = channel.pair()
        self._near.setblocking(False)
        self._launch = open_program(LAUNCH)
        self.monitor = Monitor(self._launch)
        opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.monitor.begin("sandbox-one", opened, far)

    def begin(self, op: str, args: Any) -> int:
        """Send a request, with the script of a birth as the daemon writes it; its number, for ``end``."""
        if op == "start" and args.get("volumes"):
            self.do("fill_volumes", {key: args[key] for key in ("rootfs", "volumes", "cgroup")})
        told, script = self._birth(op, args)
        self._number += 1
        descriptors = []
        if script is not None:
            self._scripts[self._number] = script
            descriptors.append(os.memfd_create("script", os.MFD_CLOEXEC))
            os.write(descriptors[0], script.bytes())
            if op == "prepare":
                self._prepared[told["container"]] = script
        elif op == "release" and told["container"] in self._prepared:
            self._scripts[self._number] = self._prepared[told["container"]]
        given = [*descriptors]
        if op == "blank":
            self._end_init()
            self.init = BlankInit()
            given.append(self.init.theirs.fileno())
        channel.send(self._near, channel.request(self._number, op, told), given)
        channel.close_all(descriptors)
        if self.init is not None:
            self.init.theirs.close()
        return self._number

    def _birth(self, op: str, args: Any) -> tuple[Any, Script | None]:
        if self.stand_in is not None and op in ("sandbox", "blank", "prepare", "start", "exec", "make_mountpoints"):
            return _told(op, args), self.stand_in
        held = self.monitor.pod.namespaces
        if op == "sandbox":
            return births.sandbox(args, [kind for kind in held if kind != PAUSE_ROOT])
        if op == "blank":
            return args, plan_blank(args["namespaces"])
        if op == "exec":
            return births.command(args)
        if op in ("prepare", "start"):
            # A pod of a test may lack what its container lists; it is made new then.
            told, seccomp = births.container_told(args), births.read_seccomp(args)
            if set(told["joined"]) <= set(held):
                return told, births.container_script(args, seccomp, waits=op == "prepare")
            told["joined"] = [kind for kind in told["joined"] if kind in held]
            return told, plan_init(args, seccomp, frozenset(told["joined"]), waits=op == "prepare")
        return args, None

    def name(self, request: Any) -> int | None:
        """Have the process of a blank pod become pause; its pid, once the monitor knows of it."""
        assert self.init is not None and self.init.wake(write_named(request, request["namespaces"]), request["cgroup"])
        pid = asyncio.run(self.init.wait_executed(SECONDS))
        self.turn_until(lambda: self.monitor.sandbox.state != "absent")
        return pid

    def _end_init(self) -> None:
        if self.init is not None:
            self.init.close()

    def end(self, number: int) -> tuple[Message, list[int]]:
        """The result of the request ``number`` and its descriptors.

        Raises:
            Fault: what the monitor answered.
        """
        self.turn_until(lambda: number in self._replies)
        message, descriptors = self._replies.pop(number)
        try:
            return channel.result_of(message), descriptors
        except ScriptFailed as failed:
            raise self._scripts[number].fault(failed.at, failed.errno) from failed

    def ask(self, op: str, args: Any = None) -> tuple[Message, list[int]]:
        return self.end(self.begin(op, args or {}))

    def do(self, op: str, args: Any = None) -> Message:
        """As ``ask``, where no descriptor is expected."""
        result, descriptors = self.ask(op, args)
        assert descriptors == []
        return result

    def event(self, name: str) -> Message:
        """The next event ``name``, which is taken off ``events``."""
        self.turn_until(lambda: any(event["event"] == name for event in self.events))
        found = next(event for event in self.events if event["event"] == name)
        self.events.remove(found)
        return found

    def turn_until(self, true: Callable[[], bool], seconds: float = SECONDS) -> None:
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, f"not within {seconds} s; events: {self.events}"
            self.monitor.loop.turn(0.05)
            self._take()

    def hang_up(self) -> None:
        """The daemon dies."""
        self._end_init()
        self._near.close()

    def close(self) -> None:
        """End the pod and the monitor."""
        self._end_init()
        try:
            if not self.monitor.loop.stopped:
                self.do("shutdown")
        finally:
            self.monitor.close()
            self._near.close()
            os.close(self._launch)
            for _, descriptors in self._replies.values():
                channel.close_all(descriptors)

    def _take(self) -> None:
        while True:
            try:
                received = channel.receive(self._near)
            except BlockingIOError:
                return
            assert received is not None, "the monitor hung up"
            if "event" in received[0]:
                assert received[1] == []
                self.events.append(received[0])
            else:
                self._replies[received[0]["id"]] = received


def _told(op: str, args: Any) -> Any:
    """What the monitor is told of a birth whose script is the test's."""
    if op == "sandbox":
        return {"held": [], "new": args["namespaces"], "cgroup": args["cgroup"]}
    process = args.get("process") or args.get("spec", {}).get("process", {})
    return {"joined": [], "terminal": process.get("terminal", False), **args}


@contextmanager
def driven(directory: Path, stand_in: Script | None = None) -> Iterator[Driven]:
    """A monitor for the pod in ``directory``; whatever it holds has ended afterwards."""
    made = Driven(directory, stand_in)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def cgroups(name: str, *controllers: str) -> Iterator[CgroupDirs]:
    """New cgroups ``crisp-test-<name>`` for a container, wherever this host has them; gone afterwards.

    With ``controllers`` (memory, pids, …) those of v1 too, if they are there; always the v1 freezer.
    """
    mount, unified = Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")
    pure = (mount / "cgroup.controllers").exists()
    v2 = mount if pure else unified
    leaf = f"crisp-test-{name}-{os.getpid()}"
    v1 = [] if pure else [mount / kind / leaf for kind in ("freezer", *controllers) if (mount / kind).is_dir()]
    made = [*v1, *([v2 / leaf] if (v2 / "cgroup.controllers").exists() else [])]
    for path in made:
        path.mkdir()
    dirs: CgroupDirs = {"v1": [str(path) for path in v1], "v2": str(v2 / leaf) if v2 / leaf in made else None}
    try:
        yield dirs
    finally:
        kill.kill(dirs)
        for path in made:
            _remove(path)


def _remove(path: Path) -> None:
    for below in path.iterdir():
        if below.is_dir():
            _remove(below)
    end = time.monotonic() + 30
    while True:
        try:
            path.rmdir()
            return
        except OSError:
            assert time.monotonic() < end, f"{path} is busy"
            time.sleep(0.01)


def below(dirs: CgroupDirs, name: str) -> CgroupDirs:
    """New cgroups ``name`` below ``dirs``, as an exec gets them."""
    v1 = [f"{path}/{name}" for path in dirs["v1"]]
    v2 = None if dirs["v2"] is None else f"{dirs['v2']}/{name}"
    for path in [*v1, *([v2] if v2 else [])]:
        os.mkdir(path)
    return {"v1": v1, "v2": v2}
