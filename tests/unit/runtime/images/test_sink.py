"""The pipe into a worker."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from pathlib import Path

import pytest

from runtime.errors import FailedPrecondition
from runtime.images.sink import PIPE_BYTES, PipeSink, feed_descriptor, open_pipe
from tests.descriptors import open_descriptors


async def test_more_than_the_pipe_holds_waits_for_the_reader() -> None:
    data = os.urandom(3 * PIPE_BYTES + 17)
    received = bytearray()

    def read(fd: int) -> None:
        while part := os.read(fd, 1 << 16):
            received.extend(part)

    with open_pipe() as (reader, sink):
        thread = threading.Thread(target=read, args=(reader,))
        thread.start()
        await sink.write(data)
        sink.close()
        sink.close()
        await asyncio.to_thread(thread.join)
    assert received == data


async def test_the_loop_goes_on_while_a_writer_waits() -> None:
    with open_pipe() as (_, sink):
        async with asyncio.TaskGroup() as group:
            writing = group.create_task(sink.write(bytes(4 * PIPE_BYTES)))
            await asyncio.sleep(0.01)
            assert not writing.done()
            writing.cancel()


async def test_a_reader_that_is_gone_is_told() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    sink = PipeSink(writer)
    with pytest.raises(BrokenPipeError):
        await sink.write(b"x")
    sink.close()


async def test_both_ends_are_closed_at_the_end() -> None:
    before = open_descriptors()
    with open_pipe():
        pass
    assert open_descriptors() == before


async def test_after_the_first_piece_and_not_before_or_again_it_is_told_that_it_has_begun() -> None:
    told: list[bytes] = []

    async def begun() -> None:
        told.append(os.read(reader, 100))

    with open_pipe(begun) as (reader, sink):
        assert told == []
        await sink.write(b"first")
        await sink.write(b"second")
        assert told == [b"first"] and os.read(reader, 100) == b"second"


async def test_a_file_is_fed_and_has_to_be_what_its_digest_says(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    digest = f"sha256:{hashlib.sha256(b'content').hexdigest()}"
    with open(tmp_path / "file", "rb") as file, open_pipe() as (reader, sink):
        for expected in ("", digest):
            file.seek(0)
            await feed_descriptor(file.fileno(), "file", expected)(sink)
            assert os.read(reader, 100) == b"content"
        file.seek(3)
        with pytest.raises(FailedPrecondition, match="verify blob: file: the content is sha256:"):
            await feed_descriptor(file.fileno(), "file", digest)(sink)
