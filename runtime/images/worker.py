"""What workers do: unpack a layer, delete a tree. Each runs in a process of its own.

The zygote forks it and calls the entry named in the request; the daemon sees the
returned dictionary or the fault (``model.WorkerRunner``). Only the standard library
and the codecs are imported.

Invariant: the first byte from outside is read after the jail has closed.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from typing import Any

from runtime.errors import FailedPrecondition, Fault, HostFault, InvalidArgument, ResourceExhausted
from runtime.images import jail, tree
from runtime.images.apply import Applier, Budget
from runtime.images.codec import Decoder, load_codecs
from runtime.images.tar import TarReader
from runtime.linux.syncfs import syncfs

MEMORY = 1 << 30
UNPACK_CPU = 6 * 3600
DELETE_CPU = 3600
MAX_IMPLIED = 1 << 20  # bytes of names that are reported


class Measured:
    """A decoded stream, hashed and counted as it passes; more than ``limit`` bytes are refused."""

    def __init__(self, decoder: Decoder, limit: int) -> None:
        self._decoder = decoder
        self._limit = limit
        self._hash = hashlib.sha256()
        self.count = 0

    def pull(self) -> bytes:
        chunk = self._decoder.pull()
        self.count += len(chunk)
        if self.count > self._limit:
            raise ResourceExhausted(f"the layer is larger than {self._limit} bytes", step="decompress")
        self._hash.update(chunk)
        return chunk

    @property
    def digest(self) -> str:
        """``sha256:<hex>`` of all that has passed."""
        return f"sha256:{self._hash.hexdigest()}"


def unpack(args: dict[str, Any], fds: Sequence[int]) -> dict[str, Any]:
    """Unpack the layer that ``fds[1]`` delivers into the empty directory ``fds[0]``, jailed there.

    ``args``: ``codec_path`` the site-packages of the codecs, empty or absent where they can
    be imported anyway; ``disk_bytes``, ``stream_bytes`` and ``entries`` the budget. Returns
    ``diff_id`` (``sha256:<hex>`` of the whole decoded stream), ``stream_bytes``, ``disk_bytes``,
    ``entries``, ``implied`` (directories made without an entry of their own, in order,
    undecodable bytes as surrogates) and ``dropped_xattrs``. All of it is on disk.

    Raises:
        FailedPrecondition: the layer's content is not acceptable.
        ResourceExhausted: the budget or the disk is used up.
        HostFault: the host refused a call.
    """
    directory, stream = fds
    budget = Budget(int(args["disk_bytes"]), int(args["entries"]))
    codecs = load_codecs(str(args.get("codec_path", "")))
    limits = jail.Limits(MEMORY, budget.disk_bytes, UNPACK_CPU)
    _enter(directory, limits, jail.UNPACK_CAPABILITIES)
    measured = Measured(Decoder(stream, codecs), int(args["stream_bytes"]))
    try:
        reader = TarReader(measured.pull, max_headers=4 * budget.entries)
        applied = Applier(directory, budget).apply(reader)
        reader.drain()
    except MemoryError as error:
        raise ResourceExhausted(f"the layer needs more than {MEMORY} bytes of memory", step="unpack layer") from error
    _sync(directory)
    return {
        "diff_id": measured.digest,
        "stream_bytes": measured.count,
        "disk_bytes": applied.disk_bytes,
        "entries": applied.entries,
        "implied": _report_implied(applied.implied),
        "dropped_xattrs": applied.dropped_xattrs,
    }


def delete_tree(args: dict[str, Any], fds: Sequence[int]) -> dict[str, Any]:
    """Delete ``args["name"]`` in the directory ``fds[0]`` with all below it, jailed there.

    ``args["duty"]`` (over 0, at most 1) is the share of time spent deleting, so that the disk
    stays usable for others. Returns ``entries``, the number removed. Absent is fine.

    Raises:
        InvalidArgument: ``name`` is not one path component.
        HostFault: the host refused a call, or a mount point is in the way.
    """
    name, duty = os.fsencode(args["name"]), float(args.get("duty", 1.0))
    if name in (b"", b".", b"..") or b"/" in name or b"\0" in name or not 0 < duty <= 1:
        raise InvalidArgument("not a name in a directory, or no duty", step="delete tree", object=ascii(args["name"]))
    limits = jail.Limits(MEMORY, 0, DELETE_CPU)
    _enter(fds[0], limits, jail.DELETE_CAPABILITIES)
    pace = _Pace(duty)
    try:
        tree.remove(fds[0], name, pace)
    except OSError as error:
        raise HostFault(step="delete tree", object=ascii(args["name"]), errno=error.errno or 0) from error
    return {"entries": pace.count}


class _Pace:
    """Sleeps so that work takes no more than ``duty`` of the time."""

    def __init__(self, duty: float) -> None:
        self._duty = duty
        self._began = time.monotonic()
        self.count = 0

    def __call__(self, removed: int) -> None:
        self.count += removed
        worked = time.monotonic() - self._began
        time.sleep(worked * (1 / self._duty - 1))
        self._began = time.monotonic()


def _enter(directory: int, limits: jail.Limits, rights: Sequence[str]) -> None:
    try:
        jail.enter(directory, limits, rights)
    except OSError as error:
        if isinstance(error, Fault):
            raise
        call = str(getattr(error, "call", ""))
        raise HostFault(step="enter jail", call=call, errno=error.errno or 0) from error


def _sync(root: int) -> None:
    try:
        syncfs(root)
    except OSError as error:
        raise HostFault(step="sync layer", call="syncfs", errno=error.errno or 0) from error


def _report_implied(implied: list[bytes]) -> list[str]:
    if sum(map(len, implied)) > MAX_IMPLIED:
        raise FailedPrecondition("too many directories without an entry of their own", step="unpack layer")
    return [os.fsdecode(path) for path in implied]
