"""Reading a pipe: bounded, to its end, and closed exactly once."""

from __future__ import annotations

import asyncio
import os
import pty
import threading

from cri.pipes import PipeReader


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


async def test_everything_until_the_end_is_kept() -> None:
    reading, writing = os.pipe()
    reader = PipeReader(reading, 1000)
    os.write(writing, b"one ")
    await asyncio.sleep(0)
    os.write(writing, b"two")
    os.close(writing)
    await asyncio.wait_for(reader.ended, 5)
    assert reader.kept == b"one two" and not is_open(reading)
    reader.close()


async def test_what_is_above_the_limit_is_read_and_dropped() -> None:
    reading, writing = os.pipe()
    reader = PipeReader(reading, 100_000)

    def write() -> None:  # more than a pipe holds: it ends only if somebody reads
        with open(writing, "wb") as stream:
            stream.write(b"x" * 1_000_000)

    writer = threading.Thread(target=write)
    writer.start()
    await asyncio.wait_for(reader.ended, 20)
    writer.join()
    assert reader.kept == b"x" * 100_000


async def test_closing_early_ends_the_reading() -> None:
    reading, writing = os.pipe()
    reader = PipeReader(reading, 10)
    reader.close()
    assert reader.ended.done() and not is_open(reading)
    os.close(writing)


async def test_the_end_of_a_terminal_is_an_end() -> None:
    master, slave = pty.openpty()
    reader = PipeReader(master, 100)
    os.write(slave, b"hello\n")
    os.close(slave)
    await asyncio.wait_for(reader.ended, 5)
    assert reader.kept == b"hello\r\n"


async def test_a_wake_up_without_data_does_no_harm() -> None:
    reading, writing = os.pipe()
    reader = PipeReader(reading, 10)
    reader._on_readable()
    assert not reader.ended.done()
    os.close(writing)
    await asyncio.wait_for(reader.ended, 5)
