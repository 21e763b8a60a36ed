"""What each pod was attached with: a file a pod below the daemon's root, ``cni/<sandbox id>.json``.

``provider`` writes it before ADD, again with the result after it, and removes it once DEL has
succeeded. So DEL can be done by a later daemon, after a reboot, and when the configuration has
changed or gone; and a file that belongs to no pod is a debt.

Invariant: a file that ``write`` has returned from outlives a power cut, and is read back
whole or not at all. Blocking: called in a thread.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from network.cni.conf import ConfError, NetworkConf, parse_list
from network.cni.result import Result, ResultError, parse
from network.cni.versions import NEWEST
from runtime.errors import HostFault

FORMAT = 1
MAX_BYTES = 16 << 20
_NAME = re.compile(r"([0-9a-f]{1,64})\.json")
_PARTIAL = ".partial"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """``arguments`` are those of CNI_ARGS, ``capabilities`` those of ``runtimeConfig``.
    ``result`` is None as long as ADD has not succeeded, which does not say that it did nothing."""

    sandbox_id: str
    conf: NetworkConf
    netns: str
    arguments: Mapping[str, str] = field(default_factory=dict)
    capabilities: Mapping[str, Any] = field(default_factory=dict)
    result: Result | None = None


class Cache:
    """The folder; it is made with the first file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def ids(self) -> tuple[str, ...]:
        """The sandbox ids of all entries."""
        try:
            names = os.listdir(self._folder)
        except FileNotFoundError:
            return ()
        return tuple(sorted(matched[1] for name in names if (matched := _NAME.fullmatch(name))))

    def is_used(self) -> bool:
        """Whether there ever was an entry."""
        return self._folder.is_dir()

    def write(self, entry: Entry) -> None:
        """Raises HostFault: ENOSPC, for example; what was there before is there still."""
        path = self._path(entry.sandbox_id)
        partial = path.with_suffix(_PARTIAL)
        try:
            if not self._folder.is_dir():
                self._folder.mkdir(0o700, exist_ok=True)  # another pod's first attachment may be at it, too
                _sync(self._folder.parent)
            with open(partial, "wb", opener=_private) as file:
                file.write(encode(entry))
                file.flush()
                os.fsync(file.fileno())
            partial.rename(path)
            _sync(self._folder)
        except OSError as error:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise _refused(error, "record the attachment", path) from error

    def read(self, sandbox_id: str) -> Entry | None:
        """None if there is none.

        Raises:
            HostFault: it cannot be read, or not understood.
        """
        path = self._path(sandbox_id)
        try:
            with open(path, "rb") as file:
                return decode(file.read(MAX_BYTES))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _refused(error, "read the attachment", path) from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise HostFault(
                f"is not what was written: {error}", step="read the attachment", object=str(path)
            ) from error

    def remove(self, sandbox_id: str) -> None:
        """Gone already is no error. Raises HostFault."""
        path = self._path(sandbox_id)
        try:
            path.unlink(missing_ok=True)
            if self._folder.is_dir():
                _sync(self._folder)
        except OSError as error:
            raise _refused(error, "forget the attachment", path) from error

    def discard_partial(self) -> None:
        """What a killed daemon had begun to write; not while this one writes."""
        with contextlib.suppress(OSError):  # it takes up room, and that is all
            for path in self._folder.glob(f"*{_PARTIAL}"):
                path.unlink()

    def _path(self, sandbox_id: str) -> Path:
        return self._folder / f"{sandbox_id}.json"


def encode(entry: Entry) -> bytes:
    document = {
        "format": FORMAT,
        "sandboxID": entry.sandbox_id,
        "netns": entry.netns,
        "args": dict(entry.arguments),
        "capabilities": dict(entry.capabilities),
        "network": entry.conf.to_document(),
        "result": entry.result and entry.result.to_document(NEWEST),
    }
    return json.dumps(document, indent=1).encode()


def decode(text: bytes) -> Entry:
    """Raises ValueError, KeyError or TypeError for what ``encode`` has not written."""
    document = json.loads(text)
    if document["format"] != FORMAT:
        raise ValueError(f"format {document['format']!r}")
    try:
        conf = parse_list(document["network"])
        result = parse(document["result"], NEWEST) if document["result"] is not None else None
    except (ConfError, ResultError) as error:
        raise ValueError(str(error)) from error
    return Entry(
        sandbox_id=document["sandboxID"],
        conf=conf,
        netns=document["netns"],
        arguments=document["args"],
        capabilities=document["capabilities"],
        result=result,
    )


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _refused(error: OSError, step: str, path: Path) -> HostFault:
    return HostFault(step=step, object=str(path), call="", errno=error.errno or 0)
