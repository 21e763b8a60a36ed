"""From a request to what the monitor is sent: a script, and what it has to know itself.

The daemon's side of a birth: ``runtime.monitor_client`` sends what is made here and, if
the birth fails, asks the script what the failure means.

Invariant: the compiled seccomp program that a request names is in the script, or there
is no script.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from runtime.command import plan_command
from runtime.errors import Fault, HostFault, StartRefused
from runtime.identity import Filter
from runtime.init import JOINABLE, plan_init
from runtime.linux.script import Script
from runtime.pause import plan_pause
from runtime.requests import (
    PAUSE_ROOT,
    CgroupDirs,
    ContainerBirth,
    ExecBirth,
    ExecRequest,
    SandboxBirth,
    SandboxRequest,
    StartRequest,
)
from runtime.rootfs.cgroupfs import ROOT

_WORDS_LIMIT = 2048
_SECCOMP_BYTES = 4096 * 8


def container(request: StartRequest) -> tuple[ContainerBirth, Script]:
    """``container_told`` and ``container_script``."""
    return container_told(request), container_script(request, read_seccomp(request))


def container_told(request: StartRequest) -> ContainerBirth:
    """What the monitor has to know of a container whose init is born."""
    told: ContainerBirth = {
        "container": request["container"],
        "terminal": request["spec"]["process"]["terminal"],
        "stdin": request["stdin"],
        "joined": sorted(_joined(request)),
        "cgroup": request["cgroup"],
        "pid_mode": request["pid_mode"],
        "target": request["target"],
        "log_path": request["log_path"],
        "memory_events": request["memory_events"],
    }
    if "log_directory" in request:
        told["log_directory"] = request["log_directory"]
    return told


def container_script(request: StartRequest, seccomp: Filter | None, *, waits: bool = False) -> Script:
    """What a container's init does; ``seccomp`` is the content of the program that the request names.
    ``waits`` as in ``plan_init``.

    Raises:
        StartRefused: the request asks for what cannot be.
        HostFault: it is no seccomp program.
    """
    try:
        return plan_init(request, seccomp, _joined(request), waits=waits)
    except Fault as fault:
        raise _refused(fault) from fault


def _joined(request: StartRequest) -> frozenset[str]:
    """The pod's namespaces that the container is in: the monitor holds them, so that no path has to be walked."""
    return frozenset(entry["type"] for entry in request["spec"]["linux"]["namespaces"]).intersection(JOINABLE)


def container_essence(request: StartRequest) -> Any:
    """What ``container_script`` reads of a request, but for the seccomp program."""
    spec, linux = request["spec"], request["spec"]["linux"]
    keys = ("namespaces", "uidMappings", "devices", "maskedPaths", "readonlyPaths", "rootfsPropagation")
    read = {key: value for key, value in linux.items() if key in keys}
    hostname = "" if "uts" in _joined(request) else spec["hostname"]
    return {
        "spec": {**{key: spec[key] for key in ("process", "root", "mounts")}, "hostname": hostname, "linux": read},
        **{key: request[key] for key in ("rootfs", "volumes", "images", "missing_sources", "cgroup", "stdin")},
        "pid_mode": request["pid_mode"] if "uidMappings" in linux else "",
    }


def cgroup_names(cgroup: CgroupDirs) -> list[str]:
    """What the directories of a container have in common: another container's differ in nothing else."""
    if cgroup["v1"]:
        return [cgroup["v1"][0].removeprefix(f"{ROOT}/").partition("/")[2]]
    return [cgroup["v2"].removeprefix(f"{ROOT}/")] if cgroup["v2"] else []


def command(request: ExecRequest) -> tuple[ExecBirth, Script]:
    """``command_told`` and ``command_script``."""
    return command_told(request), command_script(request, read_seccomp(request))


def command_told(request: ExecRequest) -> ExecBirth:
    """What the monitor has to know of an exec."""
    return {
        "container": request["container"],
        "exec": request["exec"],
        "terminal": request["process"]["terminal"],
        "stdin": request["stdin"],
        "cgroup": request["cgroup"],
        "timeout": request["timeout"],
    }


def command_script(request: ExecRequest, seccomp: Filter | None) -> Script:
    """What the process of an exec does.

    Raises: as ``container_script``.
    """
    try:
        return plan_command(request, seccomp)
    except Fault as fault:
        raise _refused(fault) from fault


def sandbox(request: SandboxRequest, held: Sequence[str]) -> tuple[SandboxBirth, Script]:
    """``sandbox_told`` and the script of pause, in a pod that has the namespaces ``held`` already.

    Raises:
        InvalidArgument: a sysctl is not the pod's.
        HostFault: the seccomp program cannot be read.
    """
    return sandbox_told(request, held), plan_pause(request, held, read_seccomp(request))


def sandbox_told(request: SandboxRequest, held: Sequence[str]) -> SandboxBirth:
    """What the monitor has to know of pause; a pod that has namespaces has a root for it, too."""
    new = [kind for kind in request["namespaces"] if kind not in held]
    return {"held": [*held, PAUSE_ROOT] if held else [], "new": new, "cgroup": request["cgroup"]}


def read_seccomp(request: StartRequest | ExecRequest | SandboxRequest) -> Filter | None:
    """The filter whose program's path is in ``request``, None for None.

    Raises:
        HostFault: it has no size that a program can have. Never taken for no program.
    """
    path = request["seccomp"]
    if path is None:
        return None
    step = "read the seccomp program"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            program = os.read(fd, _SECCOMP_BYTES + 1)
        finally:
            os.close(fd)
    except OSError as error:
        raise HostFault(step=step, object=path, call="open", errno=error.errno or 0) from error
    if not 0 < len(program) <= _SECCOMP_BYTES:
        raise HostFault(f"is {len(program)} bytes long, no seccomp program", step=step, object=path)
    return Filter(program, request.get("seccomp_flags", 0))


def _refused(fault: Fault) -> Fault:
    """What is neither of the host nor refused already is the request's fault: a StartRefused."""
    if isinstance(fault, HostFault):
        return fault
    return StartRefused(fault.message[:_WORDS_LIMIT], step=fault.step, object=fault.object[:_WORDS_LIMIT])
