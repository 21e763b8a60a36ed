"""Clearing away by force what a failed case left, so that the next one is judged by itself.

Invariant: nothing of the daemon under test does any of the work.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
from pathlib import Path

from runtime.linux import mount
from tests.failpoints.serving import Daemon, wait_for
from tests.failpoints.truth import cgroups_of, links_of, monitors_of, mounts_below


def raze(daemon: Daemon) -> None:
    """End the daemon and all that it made, records included; images stay. Start it again."""
    if daemon.process is not None:
        daemon.process.kill()
        daemon.reap()
    for pid in monitors_of(daemon):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not remove_cgroups(daemon), "the cgroups to be gone")
    clear_state(daemon)
    shutil.rmtree(daemon.root / "containers")
    forget_records(daemon.root)
    daemon.start()


def clear_state(daemon: Daemon) -> None:
    """The state directory with all that is mounted there, and the links of its pods."""
    for point in sorted(mounts_below(daemon.folder), reverse=True):
        mount.umount2(point, mount.MNT_DETACH | mount.UMOUNT_NOFOLLOW)
    for link in list(links_of(daemon)):
        subprocess.run(["ip", "link", "delete", link], check=False, capture_output=True)
    shutil.rmtree(daemon.state)


def remove_cgroups(daemon: Daemon) -> bool:
    """Kill what is in them and remove them, the lowest first; whether any was there."""
    found = list(cgroups_of(daemon))
    for path in reversed(found):
        with contextlib.suppress(OSError):
            for pid in Path(path, "cgroup.procs").read_text().split():
                os.kill(int(pid), signal.SIGKILL)
            os.rmdir(path)
    return bool(found)


def forget_records(root: Path) -> None:
    script = "DELETE FROM operations; DELETE FROM containers; DELETE FROM sandboxes; DELETE FROM leases;"
    with contextlib.closing(sqlite3.connect(root / "state.db")) as connection:
        connection.executescript(script)
