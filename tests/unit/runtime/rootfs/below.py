"""Paths made below a root, one at a time, and a root with a host around it that has to stay as it is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from runtime.linux.script import Script, Slot
from runtime.rootfs import resolve
from tests.kernel.runtime.launched import carried_out


def made_by(make: Callable[[Script, Slot, str], Slot], root: int, path: str) -> int:
    (made,) = carried_out(lambda script: make(script, script.given["root"], path), {"root": root})
    return made


def make_dirs_in_root(root: int, path: str) -> int:
    return made_by(resolve.make_dirs_in_root, root, path)


def make_file_in_root(root: int, path: str) -> int:
    return made_by(resolve.make_file_in_root, root, path)


def make_exact_directory(root: int, path: str) -> int:
    return made_by(resolve.make_exact_directory, root, path)


class Tree:
    """A host directory with a canary, and below it a root as an image would fill it."""

    def __init__(self, path: Path) -> None:
        self.host = path
        self.canary = path / "canary"
        self.canary.mkdir()
        (self.canary / "secret").write_text("host")
        self.root = path / "root"
        self.root.mkdir()
        self.fd = os.open(self.root, os.O_PATH | os.O_DIRECTORY)

    def link(self, name: str, target: str) -> None:
        (self.root / name).symlink_to(target)

    def untouched(self) -> bool:
        return sorted(os.listdir(self.host)) == ["canary", "root"] and os.listdir(self.canary) == ["secret"]

    def made_at(self, fd: int, path: str) -> None:
        """``fd`` is at ``path``, which may be longer than the kernel shows, and is closed."""
        try:
            found = resolve.open_in_root(self.fd, path)
            assert os.path.samestat(os.fstat(fd), os.fstat(found))
            os.close(found)
        finally:
            os.close(fd)

    def made(self, fd: int) -> str:
        """Where ``fd`` is, relative to the root."""
        try:
            return os.path.relpath(os.readlink(f"/proc/self/fd/{fd}"), self.root)
        finally:
            os.close(fd)
