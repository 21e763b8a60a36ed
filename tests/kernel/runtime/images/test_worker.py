"""The workers as they really run, and their code in this process for what goes wrong."""

from __future__ import annotations

import array
import asyncio
import fcntl
import gzip
import hashlib
import os
import resource
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import FailedPrecondition, HostFault, InvalidArgument, ResourceExhausted
from runtime.images import jail, tree, worker
from runtime.linux.libc import SyscallError
from tests.kernel.runtime.images.workers import SITE_PACKAGES, SubprocessRunner
from tests.unit.runtime.images import tars

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ARGS = {"codec_path": SITE_PACKAGES, "disk_bytes": 1 << 30, "stream_bytes": 1 << 30, "entries": 10_000}
LAYER = tars.archive(
    tars.directory(b"etc"),
    tars.entry(b"etc/tool", b"x" * 9000, mode=0o4755),
    tars.entry(b"var/.wh.gone"),
    tars.entry(b"var/.wh..wh..opq"),
)
UNPACK, DELETE = "runtime.images.worker:unpack", "runtime.images.worker:delete_tree"


def stream_of(data: bytes) -> int:
    fd = os.memfd_create("layer")
    os.write(fd, data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


@pytest.fixture
def layer(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "layer").mkdir()
    fd = os.open(tmp_path / "layer", os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstd.compress], ids=["plain", "gzip", "zstd"])
async def test_a_layer_is_unpacked_and_measured(compress: Callable[[bytes], bytes], layer: int, tmp_path: Path) -> None:
    stream = stream_of(compress(LAYER + b"after the end"))
    result = await SubprocessRunner().run_worker(UNPACK, ARGS, [layer, stream])
    os.close(stream)
    assert result["diff_id"] == f"sha256:{hashlib.sha256(LAYER + b'after the end').hexdigest()}"
    assert result["stream_bytes"] == len(LAYER) + 13
    assert result["implied"] == ["var"]
    assert os.stat(tmp_path / "layer/etc/tool").st_mode & 0o7777 == 0o4755
    assert os.lstat(tmp_path / "layer/var/gone").st_rdev == 0
    assert os.getxattr(tmp_path / "layer/var", "trusted.overlay.opaque") == b"y"


@pytest.mark.parametrize(
    ("data", "changes", "fault"),
    [
        (gzip.compress(LAYER)[:-20], {}, FailedPrecondition),
        (b"garbage" * 1000, {}, FailedPrecondition),
        (gzip.compress(tars.archive(tars.entry(b".wh.."))), {}, FailedPrecondition),
        (gzip.compress(bytes(64 << 20)), {"stream_bytes": 1 << 20}, ResourceExhausted),
        (gzip.compress(tars.archive(tars.entry(b"big", bytes(1 << 20)))), {"disk_bytes": 4096}, ResourceExhausted),
        (tars.archive(*[tars.entry(b"%d" % n) for n in range(9)]), {"entries": 5}, ResourceExhausted),
    ],
    ids=["truncated", "garbage", "nameless whiteout", "bomb", "large", "many"],
)
async def test_what_is_wrong_is_reported(
    data: bytes, changes: dict[str, int], fault: type[Exception], layer: int
) -> None:
    stream = stream_of(data)
    with pytest.raises(fault):
        await SubprocessRunner().run_worker(UNPACK, ARGS | changes, [layer, stream])
    os.close(stream)


async def test_a_tree_is_deleted_and_what_it_links_to_is_not(tmp_path: Path) -> None:
    (tmp_path / "trash/x/a/b").mkdir(parents=True)
    (tmp_path / "trash/x/a/file").write_text("x")
    (tmp_path / "keep").write_text("x")
    os.symlink(tmp_path / "keep", tmp_path / "trash/x/link")
    fd = os.open(tmp_path / "trash", os.O_RDONLY)
    result = await SubprocessRunner().run_worker(DELETE, {"name": "x", "duty": 0.5}, [fd])
    assert result["entries"] >= 3
    assert await SubprocessRunner().run_worker(DELETE, {"name": "x"}, [fd]) == {"entries": 0}
    os.close(fd)
    assert os.listdir(tmp_path / "trash") == []
    assert (tmp_path / "keep").read_text() == "x"


async def test_a_worker_that_is_cancelled_ends(layer: int) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"\0")
    async with asyncio.TaskGroup() as group:
        task = group.create_task(SubprocessRunner().run_worker(UNPACK, ARGS, [layer, reader]))
        while waiting(reader):  # until it reads
            await asyncio.sleep(0.01)
        task.cancel()
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        os.write(writer, b"x")  # nobody reads any more
    os.close(writer)


def waiting(reader: int) -> int:
    """Bytes in a pipe."""
    found = array.array("i", [0])
    fcntl.ioctl(reader, termios.FIONREAD, found)
    return found[0]


@pytest.fixture
def no_jail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[Any]]:
    """The code of the workers in this process: the jail is recorded and not entered."""
    entered: list[Any] = []
    monkeypatch.setattr(jail, "enter", lambda *arguments: entered.append(arguments))
    monkeypatch.chdir(tmp_path)
    mask = os.umask(0)
    yield entered
    os.umask(mask)


def test_the_jail_closes_before_the_first_byte_is_read(layer: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise SyscallError("unshare", 1)

    monkeypatch.setattr(jail, "enter", refuse)
    stream = stream_of(LAYER)
    with pytest.raises(HostFault, match="enter jail: unshare"):
        worker.unpack(ARGS, [layer, stream])
    assert os.lseek(stream, 0, os.SEEK_CUR) == 0
    os.close(stream)


def test_the_jail_has_the_limits_of_the_budget(layer: int, no_jail: list[Any]) -> None:
    stream = stream_of(LAYER)
    result = worker.unpack(ARGS, [layer, stream])
    os.close(stream)
    assert result["entries"] == 4
    [(directory, limits, rights)] = no_jail
    assert (directory, limits.file_size, limits.memory) == (layer, 1 << 30, worker.MEMORY)
    assert rights == jail.UNPACK_CAPABILITIES


def test_too_little_memory_is_a_matter_of_resources(
    layer: int, no_jail: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(worker, "TarReader", exhausted)
    with pytest.raises(ResourceExhausted, match="memory"):
        worker.unpack(ARGS, [layer, 0])


def test_a_layer_that_cannot_be_synced_is_not_there(
    layer: int, no_jail: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(fd: int) -> None:
        raise SyscallError("syncfs", 5)

    monkeypatch.setattr(worker, "syncfs", fail)
    stream = stream_of(LAYER)
    with pytest.raises(HostFault, match="sync layer: syncfs"):
        worker.unpack(ARGS, [layer, stream])
    os.close(stream)


def test_a_flood_of_implied_directories_is_refused(
    layer: int, no_jail: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "MAX_IMPLIED", 2)
    stream = stream_of(LAYER)
    with pytest.raises(FailedPrecondition, match="too many"):
        worker.unpack(ARGS, [layer, stream])
    os.close(stream)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "a\0"])
def test_only_a_name_is_deleted(name: str, no_jail: list[Any]) -> None:
    with pytest.raises(InvalidArgument):
        worker.delete_tree({"name": name}, [0])
    with pytest.raises(InvalidArgument):
        worker.delete_tree({"name": "x", "duty": 0}, [0])
    assert no_jail == []


def test_deleting_leaves_the_disk_to_others(layer: int, tmp_path: Path, no_jail: list[Any], monkeypatch: Any) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    (tmp_path / "layer/x").mkdir()
    for number in range(1100):
        (tmp_path / f"layer/x/{number}").touch()
    assert worker.delete_tree({"name": "x", "duty": 0.5}, [layer]) == {"entries": 1100}
    assert len(slept) == 3
    assert all(each > 0 for each in slept)
    assert no_jail[0][1].file_size == 0


def test_a_refused_deletion_is_told(layer: int, no_jail: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(16, "busy")

    monkeypatch.setattr(tree, "remove", refuse)
    with pytest.raises(HostFault, match="EBUSY"):
        worker.delete_tree({"name": "x"}, [layer])


def test_the_limits_of_this_process_are_untouched() -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
