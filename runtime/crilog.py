"""The CRI log: what containers write, cut into tagged lines, without a loop per line.

    2026-01-02T03:04:05.123456789Z stdout F a whole line
    2026-01-02T03:04:05.123456789Z stderr P the first 16 KiB of a longer one

(kubernetes/design-proposals-archive, node/kubelet-cri-logging.md). The lines of
one chunk share one timestamp and are tagged by one ``replace``. A last line
without its newline is written with P, as containerd does: a reader that joins
P pieces then gets back the bytes exactly as the container wrote them.

Neighbours: ``output`` owns a ``LogFile`` and one ``LogPump`` a stream of a container; ``attach``
hears what the pumps read.

Invariant: every entry in the file is complete. What a full disk refuses is
dropped as whole entries and counted; a writer never waits for the disk to empty.
Below the pod's log directory, which pods may be able to write to, no link is followed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Callable, Sequence

from runtime.errors import HostFault, InvalidArgument
from runtime.linux.files import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2

LINE_LIMIT = 16 * 1024
"""Bytes of content in one entry, as with containerd and CRI-O."""

CHUNK = LINE_LIMIT
"""Bytes that one ``pump`` reads at most, and so what a busy stream may take in its turn."""

_OPEN_FLAGS = (
    os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
)  # O_NONBLOCK: a FIFO in the place of the file must not hold up the monitor
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_NO_LOG = {
    errno.ELOOP: "a link, or below one",
    errno.ENOTDIR: "below something that is no directory",
    errno.EISDIR: "a directory",
    errno.ENAMETOOLONG: "too long",
    errno.ENXIO: "not a regular file",
}
"""What open(2) says of a path that is none for a log, whoever has made it so. ENXIO: a pipe without a reader."""


class LogFile:
    """The file at ``path``, shared by the streams of a container; ``path`` None discards."""

    def __init__(self, path: str | None, directory: str = "", lost: Callable[[], None] | None = None) -> None:
        """Open the file, with its parent directories (0755).

        ``directory`` is the one above ``path`` that may be reached by links; without it
        that is the file's own. ``lost`` is called whenever ``dropped`` has grown.

        Raises:
            InvalidArgument: there is a link or something else than a regular file at ``path``,
                or no directory above it.
            HostFault: it cannot be opened.
        """
        self.path = path
        self._directory = directory or (path or "").rpartition("/")[0]
        self.dropped = 0
        """Entries that the disk refused."""
        self._lost = lost
        self._descriptor = -1 if path is None else _open(path, self._directory)
        self.discards = path is None
        """There is no file, or none any more: what is written is forgotten."""

    def reopen(self) -> None:
        """Go on in a new file at the same path; the old one stays in use if that fails.

        Raises: as the constructor.
        """
        if self.path is not None:
            descriptor = _open(self.path, self._directory)
            self.close()
            self._descriptor, self.discards = descriptor, False

    def close(self) -> None:
        """Close the file; what is written later is discarded."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self.discards = -1, True

    def write(self, parts: Sequence[bytes | bytearray]) -> None:
        """Append complete entries; never raises, see ``dropped``."""
        if self._descriptor < 0 or not parts:
            return
        size = sum(map(len, parts))
        try:
            written = os.writev(self._descriptor, parts)
        except OSError:
            written = 0
        if written != size:
            self._recover(b"".join(parts), written)

    def _recover(self, entries: bytes, written: int) -> None:
        """Take back the torn entry at the end of a short write and count what is lost."""
        whole = entries.rfind(b"\n", 0, written) + 1
        self.dropped += entries.count(b"\n", whole)
        if self._lost is not None:
            self._lost()
        if written == whole:
            return
        try:
            os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size - (written - whole))
        except OSError:
            # Shrinking a file fails only with the disk itself; then the entry stays torn.
            return


def _open(path: str, directory: str) -> int:
    below = path.removeprefix(directory).lstrip("/")
    try:
        try:
            descriptor = _open_below(directory, below)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            _make_below(directory, below.split("/")[:-1])
            descriptor = _open_below(directory, below)
    except OSError as error:
        if error.errno in _NO_LOG:
            why = f"{_NO_LOG[error.errno]} ({errno.errorcode[error.errno]})"
            raise InvalidArgument(why, step="open the log", object=path) from error
        raise HostFault(step="open the log", object=path, call="open", errno=error.errno or 0) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InvalidArgument("not a regular file", step="open the log", object=path)
    return descriptor


def _open_below(directory: str, name: str) -> int:
    top = os.open(directory, _DIRECTORY)
    try:
        return openat2(top, name, _OPEN_FLAGS, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS, 0o640)
    finally:
        os.close(top)


def _make_below(directory: str, names: list[str]) -> None:
    """Make ``directory``, and below it ``names``, each in the one that was just opened."""
    try:
        os.mkdir(directory, 0o755)
    except FileExistsError:
        pass
    except FileNotFoundError:
        os.makedirs(directory, 0o755, exist_ok=True)
    at = os.open(directory, _DIRECTORY)
    try:
        for name in names:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o755, dir_fd=at)
            below = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at = below
    finally:
        os.close(at)


class LogPump:
    """Carries one stream (``stdout`` or ``stderr``) from a pipe or a terminal to a log."""

    def __init__(self, source: int, stream: str, log: LogFile) -> None:
        """``source`` is a non-blocking descriptor, which the pump owns from now on."""
        self.source = source
        self.stream = stream
        self.hear: Callable[[memoryview], None] | None = None
        """Gets each chunk too, as it was read."""
        self._full, self._partial = f" {stream} F ".encode(), f" {stream} P ".encode()
        self._log = log
        self._carry = b""

    def pump(self) -> int:
        """Move at most ``CHUNK`` bytes; how many, or 0 when there are none now, or -1 at the end."""
        if self.source < 0:
            return -1
        kept = len(self._carry)
        chunk = bytearray(kept + CHUNK)
        try:
            with memoryview(chunk) as view:
                count = os.readv(self.source, [view[kept:]])
        except BlockingIOError:
            return 0
        except OSError:
            count = 0  # a terminal whose last user has gone reads as EIO
        if not count:
            return -1
        if self.hear is not None:
            with memoryview(chunk) as view:
                self.hear(view[kept : kept + count])
        if not self._log.discards:
            del chunk[kept + count :]
            chunk[:kept] = self._carry
            self._log.write(self._cut(chunk))
        return count

    def close(self) -> None:
        """Write the unfinished line, if any, and close the source, which nothing watches any more."""
        if self.source < 0:
            return
        os.close(self.source)
        self.source = -1
        if self._carry:
            self._log.write([timestamp(time.time_ns()) + self._partial, self._carry, b"\n"])
            self._carry = b""

    def _cut(self, chunk: bytearray) -> list[bytes | bytearray]:
        """The entries in ``chunk``, which is used up; what is left of a line is carried on.

        Only the first line can be longer than ``LINE_LIMIT``, for that is what is carried
        at most, and all that a chunk adds; one piece then makes it short enough.
        """
        now = timestamp(time.time_ns())
        entries: list[bytes | bytearray] = []
        first = chunk.find(b"\n")
        if (first if first >= 0 else len(chunk)) > LINE_LIMIT:
            entries += (now + self._partial, chunk[:LINE_LIMIT], b"\n")
            del chunk[:LINE_LIMIT]
        last = chunk.rfind(b"\n")
        self._carry = bytes(chunk[last + 1 :])
        if last >= 0:
            del chunk[last:]
            full = now + self._full
            entries += (full, chunk.replace(b"\n", b"\n" + full), b"\n")
        return entries


_second = (-1, b"")


def timestamp(now: int) -> bytes:
    """``now``, in ns since the epoch, as RFC 3339 in UTC with nine digits."""
    global _second
    seconds, nanoseconds = divmod(now, 1_000_000_000)
    if _second[0] != seconds:
        # Numeric formatting, not strftime: that would load a locale's tables.
        _second = (seconds, b"%04d-%02d-%02dT%02d:%02d:%02d" % time.gmtime(seconds)[:6])
    return b"%b.%09dZ" % (_second[1], nanoseconds)
