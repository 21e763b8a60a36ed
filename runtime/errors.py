"""The faults that crisp raises, named by what the caller has to do about them.

Nothing here knows gRPC: ``cri.errors`` holds the one table from these classes to
status codes. ``network.errors`` adds what only networking can say.

Invariant: a message is lower case, says once what was being done, to which
object, which call failed and why, and never repeats what a wrapped fault said.
"""

from __future__ import annotations

import errno as errno_names
import os
from typing import Any


class Fault(Exception):
    """Base of everything that crisp reports on purpose.

    ``step`` is the stage that failed (``mount the root filesystem``), ``object``
    what it was done to (a path, an id, an address). Both may be empty.
    """

    def __init__(self, message: str, *, step: str = "", object: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.step = step
        self.object = object

    def __str__(self) -> str:
        parts = [part for part in (self.step, self.object) if part]
        return ": ".join([*parts, self.message])


class InvalidArgument(Fault, ValueError):
    """The request itself is wrong; sending it again cannot help."""


class NotFound(Fault, LookupError):
    """The named object does not exist."""


class AlreadyExists(Fault):
    """The name is taken by an object whose creation has been answered."""


class FailedPrecondition(Fault):
    """The state of the object, the image or the host does not allow it."""


class ResourceExhausted(Fault):
    """A budget is used up: addresses, disk, bytes, entries."""


class Unavailable(Fault):
    """Not now: starting, stopping, or a peer that does not answer; try again."""


class NotSupported(Fault):
    """crisp does not have this (yet); ``docs/limits.md`` lists it."""


class DeadlineExceeded(Fault, TimeoutError):
    """The time that the request allowed is over."""


class HostFault(Fault, OSError):
    """A system call or a process of ours failed for a reason of the host.

    ``call`` is the system call (``mount``), ``errno`` its number or 0.
    """

    def __init__(self, message: str = "", *, step: str = "", object: str = "", call: str = "", errno: int = 0) -> None:
        Fault.__init__(self, message, step=step, object=object)
        self.call = call
        self.errno = errno

    def __str__(self) -> str:
        reason = self.message
        if self.errno:
            name = errno_names.errorcode.get(self.errno, str(self.errno))
            said = f"{os.strerror(self.errno).lower()} ({name})"
            reason = f"{reason}: {said}" if reason else said
        parts = [part for part in (self.step, self.object, self.call) if part]
        return ": ".join([*parts, reason])


class StartRefused(Fault):
    """A container cannot start for a reason of its request or its image.

    The container becomes EXITED with reason StartError and code 128, where a
    :class:`HostFault` returns it to CREATED.
    """


class ScriptFailed(Fault):
    """Call number ``at`` of a newborn process's script failed with ``errno``.

    Whoever wrote the script has the words (``runtime.linux.script.Script.fault``).
    """

    def __init__(self, at: int, errno: int) -> None:
        super().__init__(f"call {at} of its script failed with errno {errno}", step="start a process")
        self.at = at
        self.errno = errno


FAULTS_BY_KIND: dict[str, type[Fault]] = {
    cls.__name__: cls
    for cls in (
        InvalidArgument,
        NotFound,
        AlreadyExists,
        FailedPrecondition,
        ResourceExhausted,
        Unavailable,
        NotSupported,
        DeadlineExceeded,
        HostFault,
        StartRefused,
    )
}


def to_wire(error: BaseException) -> dict[str, Any]:
    """The JSON form of ``error`` for the channel between crisp's processes."""
    if isinstance(error, HostFault):
        return {
            "kind": "HostFault",
            "message": error.message,
            "step": error.step,
            "object": error.object,
            "call": error.call,
            "errno": error.errno,
        }
    if isinstance(error, ScriptFailed):
        return {"kind": "ScriptFailed", "at": error.at, "errno": error.errno}
    if isinstance(error, Fault):
        return {"kind": type(error).__name__, "message": error.message, "step": error.step, "object": error.object}
    if isinstance(error, OSError):
        call = str(getattr(error, "call", ""))
        path = error.filename
        name = path.decode(errors="replace") if isinstance(path, bytes) else str(path or "")
        return {"kind": "HostFault", "message": "", "step": "", "object": name, "call": call, "errno": error.errno or 0}
    return {"kind": "HostFault", "message": f"{type(error).__name__}: {error}", "step": "", "object": ""}


def from_wire(wire: dict[str, Any]) -> Fault:
    """The fault that :func:`to_wire` wrote; an unknown kind becomes a HostFault."""
    if wire.get("kind") == "ScriptFailed":
        return ScriptFailed(int(wire["at"]), int(wire["errno"]))
    cls = FAULTS_BY_KIND.get(str(wire.get("kind")), HostFault)
    message, step, object_ = (str(wire.get(key) or "") for key in ("message", "step", "object"))
    if cls is HostFault:
        call, number = str(wire.get("call") or ""), int(wire.get("errno") or 0)
        return HostFault(message, step=step, object=object_, call=call, errno=number)
    return cls(message, step=step, object=object_)
