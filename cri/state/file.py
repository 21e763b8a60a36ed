"""The file ``state.db`` itself: opened, checked, moved aside when damaged, and its reserve.

``cri.state.database`` runs transactions on the connection that ``open_file``
gives, and tells callers by ``fault_of`` what an error of SQLite means.

Invariant: a damaged file is never used and never deleted; it is kept beside the
new one for whoever wants to look.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sqlite3
import time
from pathlib import Path

from cri.state import schema
from runtime.errors import Fault, HostFault, ResourceExhausted

LOG = logging.getLogger("crisp.state")

RESERVE = 1024 * 1024
"""Bytes kept beside the database and given up when the disk is full, so that pods can still be removed."""

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})

CHECKPOINT_PAGES = 4000
"""Pages of log after which SQLite folds it in anyway, in the middle of work."""

BEGIN_LOG = """
    INSERT INTO meta (key, value) VALUES ('logs', '1')
    ON CONFLICT (key) DO UPDATE SET value = CAST(value AS INTEGER) + 1
"""
"""Counts the logs that were begun: the same value again would not be written at all."""

BROKEN_FILE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
"""The SQLite result codes for a file that is no longer a database."""


def open_file(path: Path) -> sqlite3.Connection:
    """A checked, migrated connection in WAL mode; see ``Database.open``."""
    try:
        return open_checked(path)
    except sqlite3.DatabaseError as error:
        if result_code(error) not in BROKEN_FILE:
            raise
        aside = f"{path}.corrupt-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
        LOG.error("%s is damaged (%s); moved aside to %s, starting with an empty one", path, error, aside)
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.rename(f"{path}{suffix}", f"{aside}{suffix}")
    return open_checked(path)


def open_checked(path: Path) -> sqlite3.Connection:
    """Raises sqlite3.DatabaseError with a code of ``BROKEN_FILE`` when the file is damaged."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=5.0, check_same_thread=False)
    try:
        os.chmod(path, 0o600)  # before the log and the index, which take its mode
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
        found = connection.execute("PRAGMA quick_check(1)").fetchone()
        if found[0] != "ok":
            damage = sqlite3.DatabaseError(f"quick_check: {found[0]}")
            damage.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise damage
        schema.migrate(connection)
        make_reserve(path)
    except BaseException:
        connection.close()
        raise
    return connection


def fold_in(connection: sqlite3.Connection) -> None:
    """Fold the log into the file and begin the next one.

    SQLite syncs the head of a new log together with its first write, also where nothing
    is durable. That write is made here: no request waits for the disk.
    """
    with contextlib.suppress(sqlite3.Error):
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        connection.execute(BEGIN_LOG)


def reserve_path(path: Path) -> Path:
    return Path(_reserve_name(path))


def _reserve_name(path: Path) -> str:
    return f"{path}.reserve"


def make_reserve(path: Path) -> bool:
    """Whether the reserve is there or made now; False if the disk has no room for it.

    What fails for any other reason is not the reserve's to tell: the daemon works without it.
    """
    reserve = _reserve_name(path)  # looked at before each beginning, for which a Path is dear
    fd = -1
    try:
        with contextlib.suppress(FileNotFoundError):
            if os.lstat(reserve).st_size == RESERVE:
                return True
        fd = os.open(reserve, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        if os.fstat(fd).st_size < RESERVE:  # also when a daemon was killed while it made it
            os.posix_fallocate(fd, 0, RESERVE)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(reserve)
        return error.errno not in NO_ROOM
    finally:
        if fd >= 0:
            os.close(fd)
    return True


def result_code(error: sqlite3.Error) -> int:
    """SQLite's primary result code, 0 when there is none."""
    return int(getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF


def is_full(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, sqlite3.Error) and result_code(error) == sqlite3.SQLITE_FULL:
            return True
        error = error.__cause__
    return False


def refusal(path: Path) -> ResourceExhausted:
    """What a beginning is told while there is no reserve."""
    return ResourceExhausted(
        "the disk is full; nothing new is begun until there is room", step="write the state database", object=str(path)
    )


def fault_of(error: sqlite3.Error, path: Path) -> Fault:
    """What a database error means to the caller of an RPC."""
    if is_full(error):
        return ResourceExhausted("the disk is full", step="write the state database", object=str(path))
    return HostFault(str(error), step="use the state database", object=str(path), call="sqlite")
