"""Bytes of a command: none is lost, whichever end closes first, and both sides can make the other wait."""

from __future__ import annotations

import array
import asyncio
import fcntl
import os
import termios
from typing import Any

import pytest

from cri.streaming import command
from cri.streaming.command import Carried, carry
from cri.streaming.descriptor import Descriptor
from cri.streaming.session import Size
from runtime.errors import Unavailable
from tests.unit.cri.streaming.peer import until
from tests.unit.cri.streaming.streams import Client

Ended = asyncio.Future[Any]


class Command:
    """The other side of the descriptors; ``ends`` counts the calls of ``end_input``."""

    def __init__(self, client: Client, **changes: Any) -> None:
        (out, self.out), (err, self.err), (self.stdin, typed) = os.pipe(), os.pipe(), os.pipe()
        self.held = [Descriptor(out), Descriptor(err), Descriptor(typed)]
        self.far = [Descriptor(self.out), Descriptor(self.err), Descriptor(self.stdin)]
        self.ends = 0
        self.ended: Ended = asyncio.get_running_loop().create_future()
        outputs = [(self.held[0], client.streams.stdout), (self.held[1], client.streams.stderr)]
        self.carried = Carried(outputs, self.held[2], self.end_input, **changes)
        self.task = asyncio.gather(carry(client.streams, self.carried, self.ended, whole=True))

    async def end_input(self) -> None:
        self.ends += 1
        self.held[2].close()

    async def result(self) -> Any:
        (found,) = await asyncio.wait_for(self.task, 10)
        self.close()
        return found

    def close(self) -> None:
        for descriptor in (*self.held, *self.far):
            descriptor.close()


async def test_output_arrives_whole_and_then_the_result() -> None:
    client = Client(stderr=True)
    run = Command(client)
    sent = os.urandom(2_000_000)

    async def speak() -> None:
        await run.far[0].write(sent)
        await run.far[1].write(b"and an error")
        run.far[0].close()
        run.far[1].close()
        run.ended.set_result(7)

    _, out, err = await asyncio.gather(speak(), client.stdout.read_all(), client.stderr.read_all())
    assert (out, err) == (sent, b"and an error")
    assert await run.result() == 7


async def test_what_was_written_before_the_end_is_delivered_at_the_clients_pace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(command, "DRAIN", 0.05)
    client = Client(window=1000)
    run = Command(client)
    sent = os.urandom(100_000)
    await run.far[0].write(sent)  # and whoever holds the pipe goes on to hold it
    run.ended.set_result(0)
    await asyncio.sleep(0.3)
    assert not run.task.done()  # longer than the drain, for the client has not taken it yet
    seen = bytearray()
    while len(seen) < len(sent):
        seen += await client.stdout.read()
    assert seen == sent
    assert await run.result() == 0


async def test_whoever_holds_the_pipes_after_the_end_is_waited_for_a_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "DRAIN", 60)
    client = Client()
    run = Command(client)
    run.ended.set_result(0)
    await asyncio.sleep(0.05)
    await run.far[0].write(b"late")
    assert await client.stdout.read() == b"late"
    assert not run.task.done()
    for far in run.far:
        far.close()
    assert await run.result() == 0


async def test_whoever_holds_the_pipes_and_says_nothing_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "DRAIN", 0.05)
    run = Command(Client())
    run.ended.set_result(0)
    assert await run.result() == 0


async def test_one_who_writes_for_ever_after_the_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "DRAIN", 0.1)
    client = Client()
    run = Command(client)

    async def babble() -> None:
        while True:
            await run.far[0].write(bytes(10_000))

    async def listen() -> None:
        while await client.stdout.read():
            await asyncio.sleep(0)

    babbling = asyncio.gather(babble(), return_exceptions=True)
    listening = asyncio.gather(listen())
    run.ended.set_result(0)
    assert await run.result() == 0
    await listening
    await babbling


async def test_input_reaches_the_command_whole_and_ends() -> None:
    client = Client(stdin=True)
    run = Command(client)
    sent = os.urandom(1_000_000)

    async def speak() -> None:
        await client.stdin.write(sent)
        await client.stdin.finish()

    async def listen() -> bytes:
        seen = bytearray()
        while data := await run.far[2].read():
            seen += data
        return bytes(seen)

    _, seen = await asyncio.gather(speak(), listen())
    assert seen == sent and run.ends == 1
    await run.far[0].write(b"answer")  # long after the end of the input
    assert await client.stdout.read() == b"answer"
    run.far[0].close()
    run.far[1].close()
    run.ended.set_result(0)
    assert await run.result() == 0


async def test_a_command_that_does_not_read_makes_the_client_wait() -> None:
    client = Client(stdin=True, window=10_000)
    run = Command(client)
    writing = asyncio.gather(client.stdin.write(bytes(5_000_000)), return_exceptions=True)
    await asyncio.sleep(0.1)
    assert not writing.done()
    run.far[2].close()  # it never will: the rest is taken and dropped
    await writing
    await client.stdin.finish()
    client.leave()
    assert await run.result() is None


async def test_a_client_that_does_not_read_makes_the_command_wait() -> None:
    client = Client(window=10_000)
    run = Command(client)
    writing = asyncio.gather(run.far[0].write(bytes(5_000_000)), return_exceptions=True)
    await asyncio.sleep(0.1)
    assert not writing.done()
    client.leave()
    assert await run.result() is None
    await writing


async def test_a_client_that_cuts_one_output_off_does_not_stop_the_command() -> None:
    client = Client(stderr=True)
    run = Command(client)
    client.stdout.reset()
    await asyncio.wait_for(run.far[0].write(bytes(2_000_000)), 10)
    await run.far[1].write(b"goes on")
    assert await client.stderr.read() == b"goes on"
    client.leave()
    assert await run.result() is None


async def test_a_cut_off_input_is_an_ended_one() -> None:
    client = Client(stdin=True)
    run = Command(client)
    client.stdin.reset()
    assert await run.far[2].read() == b"" and run.ends == 1
    client.leave()
    await run.result()


async def test_sizes_are_told_as_they_come() -> None:
    client, seen = Client(), []

    async def resize(size: Size) -> None:
        seen.append(size)

    run = Command(client, resize=resize)
    for size in (Size(80, 24), Size(-5, 1_000_000), None):
        client.sizes.put_nowait(size)
    while len(seen) < 2:
        await asyncio.sleep(0)
    assert seen == [Size(80, 24), Size(0, 65535)]
    client.leave()
    await run.result()


async def test_the_fault_that_ends_it_is_raised() -> None:
    client = Client()
    run = Command(client)
    run.far[0].close()
    run.far[1].close()
    run.ended.set_exception(Unavailable("the pod's monitor ended"))
    with pytest.raises(Unavailable):
        await run.result()
    run.close()


async def test_a_result_that_ends_it_at_once_waits_for_nobody() -> None:
    client = Client(window=10)
    reads, writes = os.pipe()
    os.write(writes, bytes(1000))
    source, ended = Descriptor(reads), asyncio.get_running_loop().create_future()

    async def end_input() -> None: ...

    carrying = asyncio.gather(
        carry(client.streams, Carried([(source, client.streams.stdout)], None, end_input), ended, whole=False)
    )
    await asyncio.sleep(0.01)
    ended.set_result("took no byte")
    assert list(await asyncio.wait_for(carrying, 10)) == ["took no byte"]
    source.close()
    os.close(writes)


async def test_a_client_that_makes_progress_is_seen_to_by_a_byte_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "LOOK", 0.02)
    client = Client(window=1000)
    run = Command(client, watched=True)
    sent = os.urandom(300_000)
    await run.far[0].write(sent)
    await asyncio.sleep(0.1)  # with it comes the sign for the first 1000 bytes
    before = waiting(run.far[0])  # a write is on its way, and the rest is in the pipe
    assert before > 10_000
    await asyncio.sleep(0.1)
    assert waiting(run.far[0]) == before  # nothing is taken, nothing is read
    seen = b""
    for left in range(before - 1, before - 6, -1):
        seen += await client.stdout.incoming.get(1)
        while waiting(run.far[0]) != left:
            await asyncio.sleep(0.001)
    run.far[0].close()
    run.far[1].close()
    run.ended.set_result(0)
    assert seen + await client.stdout.read_all() == sent
    assert await run.result() == 0


async def test_what_a_client_takes_of_one_output_is_no_sign_for_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "LOOK", 0.01)
    client = Client(stderr=True, window=1000)
    run = Command(client, watched=True)
    for each in run.far[:2]:
        await each.write(bytes(300_000))
    await until(lambda: client.stdout.peer.delivered() == client.stderr.peer.delivered() == 1000)

    async def take_one() -> int:
        """A byte of stdout, and its sign; what is in the pipe of stderr then."""
        before = waiting(run.far[0])
        await client.stdout.incoming.get(1)
        await until(lambda: waiting(run.far[0]) < before)
        return waiting(run.far[1])

    first = await take_one()  # with it came the sign for the first 1000 bytes of each
    assert {await take_one() for _ in range(5)} == {first} and first > 10_000
    client.leave()
    assert await run.result() is None


def waiting(writes: Descriptor) -> int:
    """Bytes in the pipe."""
    found = array.array("i", [0])
    fcntl.ioctl(writes._fd, termios.FIONREAD, found)
    return found[0]
