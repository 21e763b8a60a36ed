"""Exit records: one small JSON file a container, written before anyone is told.

The monitor writes them, in the pod's ``exits`` directory; the daemon reads them
after a restart to learn what ended while it was away. They live on the same
tmpfs as the rest of a pod's state, so nothing is synced: no pod outlives a boot.

Invariant: a record is complete or absent, and is never changed once written.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any

from runtime import channel
from runtime.errors import HostFault
from runtime.requests import ExitRecord

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_REQUIRED = {"container": str, "pid": int, "code": int, "signal": int, "oom": bool, "finished_at": int}
_OPTIONAL = {"reason": str, "message": str, "log_dropped": int}


def exit_code(status: int) -> tuple[int, int]:
    """``(code, signal)`` of a wait status (waitpid(2)): 128 + n for signal n, else signal 0."""
    if os.WIFSIGNALED(status):
        return 128 + os.WTERMSIG(status), os.WTERMSIG(status)
    return os.WEXITSTATUS(status), 0


def open_directory(pod: int) -> int:
    """A descriptor of ``exits`` below the pod's directory ``pod``, made (0700) if absent.

    Raises:
        OSError: it cannot be made, or is something else than a directory.
    """
    try:
        return os.open("exits", _DIRECTORY, dir_fd=pod)
    except FileNotFoundError:
        os.mkdir("exits", 0o700, dir_fd=pod)
        return os.open("exits", _DIRECTORY, dir_fd=pod)


def write_exit(directory: int, record: ExitRecord) -> None:
    """Put ``record`` into the open directory, atomically.

    Raises:
        HostFault: the record could not be written; nothing of it is left.
    """
    name = record["container"] + ".json"
    temporary = f".{name}"
    try:
        _write_file(directory, temporary, channel.encode({**record}))
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError as error:
        with contextlib.suppress(OSError):  # what made the write fail is the news
            os.unlink(temporary, dir_fd=directory)
        raise HostFault(step="record the exit", object=record["container"], errno=error.errno or 0) from error


def _write_file(directory: int, name: str, content: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, 0o600, dir_fd=directory)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
    finally:
        os.close(descriptor)


def read_exit(path: str) -> ExitRecord | None:
    """The record in the file ``path``; None where there is none.

    Raises:
        HostFault: it is there and is not an exit record.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with open(descriptor, "rb") as file:
        content = file.read(64 * 1024)
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise HostFault("not JSON", step="read an exit record", object=path) from error
    return _checked(document, path)


def _checked(document: Any, path: str) -> ExitRecord:
    """``document`` as a record, every field of exactly its type (a bool is no int here)."""
    if not isinstance(document, dict):
        raise HostFault("not a JSON object", step="read an exit record", object=path)
    for key, kind in (_REQUIRED | _OPTIONAL).items():
        if key not in document:
            if key in _OPTIONAL:
                continue
            raise HostFault(f"{key} is missing", step="read an exit record", object=path)
        if type(document[key]) is not kind:
            raise HostFault(f"{key} is not {kind.__name__}", step="read an exit record", object=path)
    record: ExitRecord = {
        "container": document["container"],
        "pid": document["pid"],
        "code": document["code"],
        "signal": document["signal"],
        "oom": document["oom"],
        "finished_at": document["finished_at"],
    }
    if "reason" in document:
        record["reason"] = document["reason"]
    if "message" in document:
        record["message"] = document["message"]
    if "log_dropped" in document:
        record["log_dropped"] = document["log_dropped"]
    return record
