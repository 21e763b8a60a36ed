"""What a monitor writes down for whoever looks for a fault of crisp itself.

A monitor has no log of its own and may have no daemon; ``monitor.log`` in the pod's
directory is empty in every pod that works.

Invariant: bounded, and never in the way: what cannot be written is lost.
"""

from __future__ import annotations

import contextlib
import os
import time

NOTES = "monitor.log"
LIMIT = 256 * 1024
"""Bytes after which nothing is added any more."""


def add_note(directory: int, text: str) -> None:
    """Add the line ``text`` to the notes in the open ``directory``."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    with contextlib.suppress(OSError):
        descriptor = os.open(NOTES, flags, 0o600, dir_fd=directory)
        try:
            if os.fstat(descriptor).st_size < LIMIT:
                os.write(descriptor, f"{time.time():.3f} {text}\n".encode(errors="backslashreplace"))
        finally:
            os.close(descriptor)


def describe_fault(error: BaseException) -> str:
    """What was raised, and in which file and line; traceback.format_exc would read source files for it."""
    frame, place = error.__traceback__, "unknown"
    while frame is not None:
        place = f"{frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}"
        frame = frame.tb_next
    return f"{type(error).__name__}: {error} (at {place})"
