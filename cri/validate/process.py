"""What a container is to run: words, variables, directory, log file, stop signal.

Invariant: every string that passes can be handed to execve(2) as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from cri.plan.process import why_no_directory
from cri.validate.text import MAX_PATH, check_relative, refuse, show
from proto import api_pb2 as api

HOME_BREAKERS = re.compile(rb"[\r\n:]")
"""What would begin another field or line where HOME is copied into a passwd file."""


def check_process(config: api.ContainerConfig, field: str) -> None:
    """Raises InvalidArgument."""
    check_words(config.command, f"{field}.command")
    check_words(config.args, f"{field}.args")
    check_env(config.envs, f"{field}.envs")
    if config.working_dir:
        reason = why_no_directory(config.working_dir)
        reason = reason or ("is too long" if len(config.working_dir.encode()) > MAX_PATH else "")
        if reason:
            raise refuse(f"{field}.working_dir", f"{reason}: {show(config.working_dir)}")
    check_log_path(config.log_path, f"{field}.log_path")
    if config.stop_signal not in api.Signal.values():
        raise refuse(f"{field}.stop_signal", f"has no such signal: {config.stop_signal}")


def check_words(words: Iterable[str], field: str) -> None:
    for word in words:
        if "\0" in word:
            raise refuse(field, f"has a NUL: {show(word)}")


def check_env(envs: Iterable[api.KeyValue], field: str) -> None:
    """Values may hold any bytes but NUL; a name given twice is no error, the last one counts."""
    for n, variable in enumerate(envs):
        if not variable.key or "=" in variable.key or "\0" in variable.key:
            raise refuse(f"{field}[{n}].key", f"is empty or has an equals sign or NUL: {show(variable.key)}")
        if b"\0" in variable.value:
            raise refuse(f"{field}[{n}].value", f"of {show(variable.key)} has a NUL")
        if variable.key == "HOME" and HOME_BREAKERS.search(variable.value):
            raise refuse(f"{field}[{n}].value", "of HOME has a colon or the end of a line")


def check_log_path(log_path: str, field: str) -> None:
    """A file below the pod's log directory."""
    if not log_path:
        return
    check_relative(log_path, field)
    if log_path.endswith("/") or log_path.split("/")[-1] == ".":
        raise refuse(field, f"names no file: {show(log_path)}")
