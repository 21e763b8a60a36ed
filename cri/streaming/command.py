"""Carries the bytes of one exec or attach between its client and its descriptors.

``cri.rpc.container_exec`` and ``container_attach`` have the descriptors from the pod's
monitor and give them to ``carry``; the streams come from the wire.

Invariant: no byte is lost in either direction, whichever end closes first: output that
was written before the end is delivered at the client's pace, and input is not read
faster than it is taken. Whoever still holds a pipe after the end gets ``DRAIN`` seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from cri.streaming.descriptor import Descriptor
from cri.streaming.session import CommandStreams, Size, Stream, StreamReset

T = TypeVar("T")

DRAIN = 5.0
"""Seconds for whoever still holds the output's pipes after the command's end."""

LOOK = 0.5
"""Seconds between two looks whether a client makes progress (``runtime.attach`` allows for them)."""

LARGEST = 0xFFFF
"""Characters of a terminal's side; the kernel keeps it in 16 bits."""


@dataclass(frozen=True, slots=True)
class Carried:
    """What is carried. ``outputs`` go to a stream each, or nowhere. ``input`` is None where nothing is
    typed; ``end_input`` is called once, when the client has ended its input. ``resize`` is None without a terminal.
    ``watched``: who writes into the outputs looks whether they are read.
    """

    outputs: Sequence[tuple[Descriptor, Stream | None]]
    input: Descriptor | None
    end_input: Callable[[], Awaitable[None]]
    resize: Callable[[Size], Awaitable[None]] | None = None
    watched: bool = False


async def carry(streams: CommandStreams, carried: Carried, ended: asyncio.Future[T], *, whole: bool = True) -> T | None:
    """Carry until ``ended`` is done and the output before that is delivered: its result; None when
    the client has gone first. The descriptors stay the caller's. Without ``whole`` a result that is not
    empty ends it at once.

    Raises: what ``ended`` raises.
    """
    async with asyncio.TaskGroup() as group:
        pending: set[Descriptor] = set()
        outputs = [group.create_task(pour(source, stream, pending)) for source, stream in carried.outputs]
        others = [group.create_task(wait_gone(streams))]
        gone = others[0]
        if streams.stdin is not None:
            others.append(group.create_task(fill(streams.stdin, carried.input, carried.end_input)))
        if carried.resize is not None:
            others.append(group.create_task(follow_size(streams, carried.resize)))
        if carried.watched:
            others.append(group.create_task(show_progress(carried.outputs, pending)))
        try:
            await asyncio.wait((ended, gone), return_when=asyncio.FIRST_COMPLETED)
            if ended.done() and (whole or ended.exception() or not ended.result()):
                await drain([source for source, _ in carried.outputs], outputs, gone)
        finally:
            for task in (*outputs, *others):
                task.cancel()
    return ended.result() if ended.done() else None


async def drain(sources: Sequence[Descriptor], outputs: Sequence[asyncio.Task[None]], gone: asyncio.Task[None]) -> None:
    """Wait until what was written is delivered, or there is nobody to deliver it to."""

    def cut_off() -> None:
        for source in sources:
            source.cut_off()

    timer = asyncio.get_running_loop().call_later(DRAIN, cut_off)
    try:
        delivered = set(outputs)
        while delivered and not gone.done():
            done, _ = await asyncio.wait((*delivered, gone), return_when=asyncio.FIRST_COMPLETED)
            delivered -= done
    finally:
        timer.cancel()


async def pour(source: Descriptor, stream: Stream | None, pending: set[Descriptor]) -> None:
    """All that ``source`` gives to ``stream``, whose half then ends; in ``pending`` while a write waits. A
    client that cuts it off does not stop the command: the rest is read and dropped."""
    while data := await source.read():
        if stream is not None:
            pending.add(source)
            try:
                await stream.write(data)
            except StreamReset:
                stream = None
            finally:
                pending.discard(source)
        await source.rest(len(data))
    if stream is not None:
        await stream.finish()


async def show_progress(outputs: Sequence[tuple[Descriptor, Stream | None]], pending: set[Descriptor]) -> None:
    """A slow client may need long for one write, during which nothing is read: then one byte is, as the sign
    that the client goes on to take some of that output. What else it takes or says is no sign."""
    watched = [(source, stream) for source, stream in outputs if stream is not None]
    before = [stream.delivered() for _, stream in watched]
    while True:
        await asyncio.sleep(LOOK)
        now = [stream.delivered() for _, stream in watched]
        for (source, _), earlier, later in zip(watched, before, now, strict=True):
            if later > earlier and source in pending:
                source.read_ahead()
        before = now


async def fill(stream: Stream, sink: Descriptor | None, end: Callable[[], Awaitable[None]]) -> None:
    """All that the client sends to ``sink``, then ``end`` it. When nobody takes it any more the rest is
    read and dropped: a client may have more to say on other streams of the same connection."""
    try:
        while data := await stream.read():
            if sink is not None:
                try:
                    await sink.write(data)
                except OSError:
                    sink = None
    except StreamReset:
        pass  # it says no more, however it ended
    await end()


async def follow_size(streams: CommandStreams, resize: Callable[[Size], Awaitable[None]]) -> None:
    with contextlib.suppress(StreamReset):
        while (size := await streams.next_size()) is not None:
            await resize(Size(*(min(max(value, 0), LARGEST) for value in (size.width, size.height))))


async def wait_gone(streams: CommandStreams) -> None:
    with contextlib.suppress(StreamReset):
        await streams.closed()
