"""The process of a container: arguments, environment, directory, identity.

``cri.plan.container`` puts it into the spec; ``plan_exec`` derives a command inside
a running container from it.

Invariant: image data decides nothing but what an image may: arguments, environment
and working directory, each below what the request says.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from proto import api_pb2 as api
from runtime.errors import FailedPrecondition, InvalidArgument
from runtime.images.config import ImageConfig
from runtime.requests import ResolvedUser
from runtime.spec import Capabilities, Process, User

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_TERM = "xterm"

DESCRIPTOR_FOLDER = re.compile(r"/proc/(self|thread-self|[0-9]+(/task/[0-9]+)?)/fd(info)?(/.*)?")
"""A working directory there would be whatever the runtime had open (CVE-2024-21626)."""


def plan_process(
    config: api.ContainerConfig,
    image: ImageConfig,
    user: ResolvedUser,
    capabilities: Capabilities,
    hostname: str,
) -> Process:
    """The container's first process.

    Raises:
        InvalidArgument: neither request nor image has a command.
        FailedPrecondition: the image's own values cannot be used.
    """
    context = config.linux.security_context
    return Process(
        terminal=config.tty,
        user=User(uid=user["uid"], gid=user["gid"], additionalGids=list(user["additionalGids"])),
        args=plan_args(config.command, config.args, image),
        env=plan_env(config, image.env, home=user["home"], hostname=hostname),
        cwd=plan_directory(config.working_dir, image.working_dir),
        capabilities=capabilities,
        rlimits=[],
        noNewPrivileges=context.no_new_privs,
        oomScoreAdj=config.linux.resources.oom_score_adj,
    )


def plan_args(command: Sequence[str], args: Sequence[str], image: ImageConfig) -> list[str]:
    """``command`` replaces ENTRYPOINT and CMD, ``args`` alone replaces CMD (Kubernetes).

    Raises:
        InvalidArgument: nothing is left to run.
    """
    if command:
        return [*command, *args]
    entrypoint = () if image.entrypoint == ("",) else image.entrypoint
    line = [*entrypoint, *(args or image.cmd)]
    if not line:
        raise InvalidArgument("no command specified, in the request or the image", object="config.command")
    if not all(map(_is_passable, line)):
        raise FailedPrecondition("has a NUL or is no text", object="ENTRYPOINT or CMD of the image")
    return line


def plan_env(config: api.ContainerConfig, image: Iterable[str], *, home: str, hostname: str) -> list[str]:
    """The image's variables, the request's over them, and what neither gives.

    Bytes that are not UTF-8 become lone surrogates, as ``os.fsdecode`` has it; the
    last of several values of one name counts.
    """
    env: dict[str, str] = {}
    for entry in image:
        name, equals, value = entry.partition("=")
        if not name or not equals or not _is_passable(entry):
            raise FailedPrecondition(f"is not NAME=value: {entry[:80]!r}", object="ENV of the image")
        env[name] = value
    for variable in config.envs:
        env[variable.key] = variable.value.decode("utf-8", "surrogateescape")
    defaults = {"PATH": DEFAULT_PATH, "HOSTNAME": hostname, "HOME": home or "/"}
    if config.tty:
        defaults["TERM"] = DEFAULT_TERM
    return [f"{name}={value}" for name, value in _over(defaults, env).items()]


def plan_directory(requested: str, image: str) -> str:
    """The request's working directory, else the image's, else the root.

    Raises:
        FailedPrecondition: the image's is relative or a descriptor.
    """
    directory = requested or image or "/"
    if reason := why_no_directory(directory):
        raise FailedPrecondition(f"{reason}: {directory!r}", object="WORKDIR of the image")
    return directory


def why_no_directory(directory: str) -> str:
    """What is wrong with a working directory by its text alone; empty when nothing is."""
    if not directory.startswith("/") or "\0" in directory or not _is_passable(directory):
        return "must be an absolute path"
    if DESCRIPTOR_FOLDER.fullmatch(re.sub("/+", "/", directory)):
        return "must not be an open file of a process"
    return ""


def exec_process(container: Process, cmd: Sequence[str], *, tty: bool) -> Process:
    """A command beside ``container``'s first process: same user, rights, environment, directory."""
    env = list(container["env"])
    if tty and not any(entry.startswith("TERM=") for entry in env):
        env.append(f"TERM={DEFAULT_TERM}")
    return Process(**{**container, "terminal": tty, "args": list(cmd), "env": env})


def _is_passable(text: str) -> bool:
    """Whether ``text`` can be handed to execve(2): no NUL, nothing that has no byte form."""
    try:
        return b"\0" not in text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False


def _over(defaults: Mapping[str, str], env: Mapping[str, str]) -> dict[str, str]:
    return {**{name: value for name, value in defaults.items() if name not in env}, **env}
