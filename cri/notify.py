"""sd_notify(3): telling a service manager that we are ready, stopping, alive.

Invariant: without NOTIFY_SOCKET in the environment nothing happens.
"""

from __future__ import annotations

import os
import socket


def notify(state: str) -> None:
    """Send ``state`` (``READY=1``, ``STOPPING=1``, ``WATCHDOG=1``); a manager that is gone is ignored."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        try:
            # never wait: a manager that stopped reading must not stop the daemon
            sender.sendto(state.encode(), socket.MSG_DONTWAIT, address)
        except OSError:
            return


def watchdog_seconds() -> float | None:
    """How often to send ``WATCHDOG=1``: half of what the manager asks for; None if it does not."""
    usec, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not usec.isdecimal() or int(usec) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(usec) / 2e6
