"""The scripts of births as the daemon sends them: written once a kind, then filled in.

``runtime.births`` turns a request into a script, ``runtime.templates`` remembers those that were
written; ``runtime.monitor_client`` and ``runtime.blank_init`` send what is made here.

Invariant: what the calls of a script mean can be told as long as anybody may report that one has failed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from runtime import births
from runtime.channel import Message
from runtime.linux.script import Script
from runtime.pause import plan_named, plan_pause
from runtime.requests import ExecRequest, SandboxRequest, StartRequest
from runtime.templates import Templates

_TEMPLATES = Templates()


@dataclass(frozen=True, slots=True)
class Written:
    """How a process is born: what the monitor has to know, the script, and what its calls mean."""

    told: Message
    script: bytes
    words: Callable[[], Script]


def write_init(request: StartRequest, *, waits: bool = False) -> Written:
    """A container's; ``waits`` as in ``runtime.init.plan_init``.

    Raises:
        StartRefused: the request asks for what cannot be.
        HostFault: the seccomp program cannot be read.
    """
    seccomp = births.read_seccomp(request)

    def write(asked: Any) -> Script:
        return births.container_script(asked, seccomp, waits=waits)

    names, essence = births.cgroup_names(request["cgroup"]), births.container_essence(request)
    script = _TEMPLATES.script(("init", waits, seccomp), essence, write, names)
    return Written(cast(Message, births.container_told(request)), script, functools.partial(write, request))


def write_exec(request: ExecRequest) -> Written:
    """A command's in a container.

    Raises: as ``write_init``.
    """
    seccomp = births.read_seccomp(request)

    def write(asked: Any) -> Script:
        return births.command_script(asked, seccomp)

    essence = {**request, "seccomp": None, "timeout": None, "exec": ""}
    script = _TEMPLATES.script(("exec", seccomp), essence, write, births.cgroup_names(request["cgroup"]))
    return Written(cast(Message, births.command_told(request)), script, functools.partial(write, request))


def write_pause(request: SandboxRequest, held: Sequence[str]) -> Written:
    """Pause's, in a pod that has the namespaces ``held`` already.

    Raises:
        InvalidArgument: a sysctl is not the pod's.
        HostFault: the seccomp program cannot be read.
    """
    seccomp = births.read_seccomp(request)

    def write(asked: Any) -> Script:
        return plan_pause(asked, held, seccomp)

    script = _of_pause(("pause", tuple(held), seccomp), request, write)
    return Written(cast(Message, births.sandbox_told(request, held)), script, functools.partial(write, request))


def write_named(request: SandboxRequest, kinds: Sequence[str]) -> Written:
    """Pause's, born of the process of a blank pod that has all its namespaces ``kinds``; the monitor is told nothing.

    Raises: as ``write_pause``.
    """
    seccomp = births.read_seccomp(request)

    def write(asked: Any) -> Script:
        return plan_named(asked, kinds, seccomp)

    script = _of_pause(("named", tuple(kinds), seccomp), request, write)
    return Written({}, script, functools.partial(write, request))


def _of_pause(key: Any, request: SandboxRequest, write: Callable[[Any], Script]) -> bytes:
    names = [*births.cgroup_names(request["cgroup"]), request["hostname"]]
    return _TEMPLATES.script(key, {**request, "seccomp": None}, write, names)
