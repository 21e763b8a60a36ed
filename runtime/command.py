"""The script of a command inside a running container; ``runtime.exec`` follows the process.

The process is born in the container's PID namespace and in a cgroup of its own. It
joins what is left to join and becomes the command.

Invariant: nothing of the host reaches the container with it: it cannot be traced
before it joins, has no descriptor but its three streams, and its working directory
is inside the container's root.
"""

from __future__ import annotations

import errno
import os

from runtime import identity, user_namespace
from runtime.child import STDIO, begin, enter_cwd, given_stdio, own_stdio, take_null
from runtime.errors import Fault, StartRefused
from runtime.identity import Filter
from runtime.init import stdio_numbers
from runtime.linux import namespaces
from runtime.linux.libc import AT_FDCWD
from runtime.linux.script import Script
from runtime.requests import ExecRequest
from runtime.rootfs import console
from runtime.spec import to_host

_JOINED = (
    namespaces.CLONE_NEWNS
    | namespaces.CLONE_NEWNET
    | namespaces.CLONE_NEWIPC
    | namespaces.CLONE_NEWUTS
    | namespaces.CLONE_NEWCGROUP
)
"""All at once: one that the container shares with the host is joined to no effect. But its own user namespace
nobody may join, so that one only where the container has another."""


class _Refused:
    """Any errno is the request's fault."""

    def get(self, number: int, default: tuple[type[Fault], str]) -> tuple[type[Fault], str]:
        return StartRefused, os.strerror(number).lower()


def plan_command(request: ExecRequest, seccomp: Filter | None) -> Script:
    """The script. Its given descriptors: ``child.STDIO``, then "target", a pidfd of the container's main process.

    Raises:
        Fault: the request asks for what cannot be.
    """
    script = Script([*STDIO, "target"])
    command, ids = request["process"], request.get("ids")
    streams = stdio_numbers(command["terminal"], request["stdin"])
    directory = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    begin(script, command, request["cgroup"], given_stdio(script))
    if ids is not None and not command["terminal"]:  # the root inside could not give away what is the host's
        with script.step("own the standard streams"):
            own_stdio(script, to_host(command["user"]["uid"], ids), streams)
    with script.step("join the container", request["container"]):
        # The kernel puts the root and the directory inside.
        target, ended = script.given["target"], {errno.ESRCH: (StartRefused, "has ended")}
        script.call("setns", target, _JOINED | (namespaces.CLONE_NEWUSER if ids else 0), refuse=ended)
        script.close(target)
        if ids is not None:
            user_namespace.become_root(script)
    if command["terminal"]:
        with script.step("open the terminal"):
            root = script.opened("openat", AT_FDCWD, "/", directory, 0)
            console.take(script, *console.open_terminal(script, root))
            script.close(root)
    if not command["terminal"] and not request["stdin"]:
        with script.step("open the null device"):
            take_null(script, AT_FDCWD)
    if ids is None or command["terminal"]:
        with script.step("own the standard streams"):
            own_stdio(script, command["user"]["uid"], streams)
    with script.step("enter the working directory", command["cwd"]):
        enter_cwd(script, script.opened("openat", AT_FDCWD, command["cwd"], directory, 0, refuse=_Refused()))
    with script.step("set the resource limits"):
        identity.set_rlimits(script, command["rlimits"])
    with script.step("become the user"):
        identity.become(script, command, seccomp)
    with script.step("execute the command"):
        identity.execute(script, command["args"], command["env"])
    return script
