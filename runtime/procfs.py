"""What the host's procfs says of a process (proc_pid_stat(5)).

Invariant: a pid together with its start time names one process of this boot.
"""

from __future__ import annotations

import os

from runtime.errors import NotFound


def start_time(pid: int) -> int:
    """When ``pid`` began, in clock ticks since boot.

    Raises:
        NotFound: there is no such process.
    """
    try:
        descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            content = os.read(descriptor, 4096)
        finally:
            os.close(descriptor)
    except (FileNotFoundError, ProcessLookupError) as error:
        raise NotFound("no such process", object=str(pid)) from error
    # The second field, the name, is in parentheses and may hold anything.
    return int(content[content.rindex(b")") + 2 :].split()[19])
