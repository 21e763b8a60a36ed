"""Descriptors on the loop: whole reads and writes, the end, and being closed meanwhile."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import pty
import socket
import struct
import termios

import pytest

from cri.streaming import descriptor
from cri.streaming.descriptor import CHUNK, Connection, Descriptor
from cri.streaming.session import Size


def pipe() -> tuple[Descriptor, Descriptor]:
    reads, writes = os.pipe()
    return Descriptor(reads), Descriptor(writes)


async def test_what_is_written_is_read_whole_and_then_ends() -> None:
    reads, writes = pipe()
    sent = os.urandom(3_000_000)

    async def write() -> None:
        await writes.write(sent)
        writes.close()

    async def read() -> bytes:
        seen = bytearray()
        while data := await reads.read():
            seen += data
        return bytes(seen)

    _, seen = await asyncio.gather(write(), read())
    assert seen == sent
    reads.close()
    reads.close()
    assert reads.closed


async def test_one_read_takes_much_where_there_is_much() -> None:
    reads, writes = pipe()
    await writes.write(bytes(200_000))
    assert len(await reads.read()) == 200_000 < CHUNK
    reads.close()
    writes.close()


async def test_a_transfer_in_small_pieces_gets_time_to_become_a_large_one(monkeypatch: pytest.MonkeyPatch) -> None:
    reads, writes = pipe()
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("cri.streaming.descriptor.asyncio.sleep", sleep)
    for count in (1, 4096, 4097, 100_000, CHUNK // 2, CHUNK):
        await reads.rest(count)
    assert slept == [0, 0, descriptor.PAUSE, descriptor.PAUSE, 0, 0]
    reads.close()
    writes.close()


async def test_a_writer_is_told_that_nobody_reads_any_more() -> None:
    reads, writes = pipe()
    pending = asyncio.gather(writes.write(bytes(5_000_000)), return_exceptions=True)
    await asyncio.sleep(0.01)
    reads.close()
    (error,) = await pending
    assert isinstance(error, BrokenPipeError)
    writes.close()


async def test_a_writer_of_a_closed_descriptor_writes_into_no_other_file() -> None:
    reads, writes = pipe()
    waiting = asyncio.gather(writes.write(bytes(5_000_000)), return_exceptions=True)
    await asyncio.sleep(0.01)
    writes.close()
    other = os.open("/dev/null", os.O_WRONLY)  # has the number of the closed one
    (error,) = await waiting
    assert isinstance(error, OSError) and error.errno == errno.EBADF
    os.close(other)
    reads.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        await reads.read()


async def test_a_reader_of_a_closed_descriptor_gets_no_other_file() -> None:
    reads, writes = pipe()
    waiting = asyncio.gather(reads.read(), return_exceptions=True)
    await asyncio.sleep(0.01)
    reads.close()
    (error,) = await waiting
    assert isinstance(error, OSError) and error.errno == errno.EBADF
    writes.close()


async def test_one_that_is_cut_off_ends_after_what_is_in_it() -> None:
    reads, writes = pipe()
    await writes.write(b"said")
    reads.cut_off()
    await writes.write(b" later")
    assert await reads.read() == b"said"
    assert await reads.read() == b""
    other, still_open = pipe()
    waiting = asyncio.gather(other.read())
    await asyncio.sleep(0.01)
    other.cut_off()
    assert list(await waiting) == [b""]
    for each in (reads, writes, other, still_open):
        each.close()


async def test_a_terminal_that_nobody_has_any_more_has_ended() -> None:
    master, peer = pty.openpty()
    terminal = Descriptor(master)
    terminal.resize(Size(132, 43))
    assert struct.unpack("4H", fcntl.ioctl(peer, termios.TIOCGWINSZ, bytes(8))) == (43, 132, 0, 0)
    os.write(peer, b"hello")
    assert await terminal.read() == b"hello"
    os.close(peer)
    assert await terminal.read() == b""
    terminal.close()
    terminal.resize(Size(80, 24))


async def test_a_connection_ends_by_halves_or_at_once() -> None:
    near, far = socket.socketpair()
    connection = Connection(near)
    connection.finish()
    assert far.recv(10) == b""
    far.send(b"still here")
    assert await connection.read() == b"still here"
    connection.abort()
    connection.abort()
    connection.finish()
    assert connection.closed
    far.close()


async def test_an_aborted_connection_is_reset() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
        Connection(accepted).abort()
        with client, pytest.raises(ConnectionResetError):
            client.recv(10)
