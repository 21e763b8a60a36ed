"""Every call over the daemon's end of a channel ends, and no descriptor is left."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import pytest

from runtime import channel, channel_async
from runtime.channel import Message
from runtime.channel_async import AsyncChannel
from runtime.errors import DeadlineExceeded, NotFound, Unavailable
from tests.descriptors import open_descriptors


class Ends:
    """The end under test and, as ``far``, the peer, played by the test."""

    def __init__(self) -> None:
        self.events: list[Message] = []
        near, self.far = channel.pair()
        self.far.settimeout(5)
        self.near = AsyncChannel(near, "peer", self.events.append)

    def take(self) -> tuple[Message, list[int]]:
        received = channel.receive(self.far)
        assert received is not None
        return received

    def answer(self, message: Message, descriptors: list[int] | None = None) -> None:
        channel.send(self.far, message, descriptors or [])


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    before = open_descriptors()
    made = Ends()
    yield made
    made.near.close()
    made.far.close()
    assert open_descriptors() == before


async def begin(ends: Ends, op: str = "x", timeout: float | None = 5) -> tuple[asyncio.Task[channel_async.Result], int]:
    """A call in flight, and its number."""
    task = asyncio.get_running_loop().create_task(ends.near.call(op, {}, timeout=timeout))
    await asyncio.sleep(0)
    message, _ = ends.take()
    return task, message["id"]


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0.001)


async def test_a_request_arrives_as_it_was_whatever_bytes_its_text_stands_for(ends: Ends) -> None:
    for text in ("plain", "é", b"\xff\xfe=1".decode("utf-8", "surrogateescape"), "\0\n"):
        args = {"env": [text], "n": 1, "half": 0.5, "none": None, "yes": True}
        task = asyncio.get_running_loop().create_task(ends.near.call("x", args, timeout=5))
        await asyncio.sleep(0)
        message, _ = ends.take()
        assert message["args"] == args
        ends.answer(channel.answer(message["id"], {}))
        await task


async def test_a_call_returns_the_result_of_its_own_reply(ends: Ends) -> None:
    first, one = await begin(ends)
    second, two = await begin(ends)
    ends.answer(channel.answer(two, {"n": 2}))
    ends.answer(channel.answer(one, {"n": 1}))
    assert (await first, await second) == (({"n": 1}, []), ({"n": 2}, []))


async def test_descriptors_of_a_reply_are_the_callers(ends: Ends) -> None:
    task, number = await begin(ends)
    ends.answer(channel.answer(number, {}), [0, 0])
    _, descriptors = await task
    assert len(descriptors) == 2
    channel.close_all(descriptors)


async def test_events_that_came_before_anybody_listened_are_told_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_async, "EARLY_LIMIT", 2)
    near, far = channel.pair()
    early, told = AsyncChannel(near, "peer"), list[Message]()
    try:
        for n in range(3):
            channel.send(far, {"event": "x", "n": n})
        await settle()
        early.listen(told.append)
        channel.send(far, {"event": "x", "n": 9})
        await settle()
    finally:
        early.close()
        far.close()
    assert [event["n"] for event in told] == [0, 1, 9]


async def test_descriptors_can_be_sent(ends: Ends) -> None:
    task = asyncio.get_running_loop().create_task(ends.near.call("x", {}, [0]))
    await asyncio.sleep(0)
    message, descriptors = ends.take()
    channel.close_all(descriptors)
    assert len(descriptors) == 1
    ends.answer(channel.answer(message["id"], {}))
    await task


async def test_a_refusal_is_raised_and_its_descriptors_closed(ends: Ends) -> None:
    task, number = await begin(ends)
    ends.answer(channel.refusal(number, NotFound("gone")), [0])
    with pytest.raises(NotFound, match="gone"):
        await task


async def test_a_deadline_that_the_peer_reports_stays_the_peers(ends: Ends) -> None:
    task, number = await begin(ends)
    ends.answer(channel.refusal(number, DeadlineExceeded("theirs")))
    with pytest.raises(DeadlineExceeded, match=r"^theirs"):
        await task


async def test_a_call_without_a_reply_ends_at_its_timeout(ends: Ends) -> None:
    task, number = await begin(ends, "slow", timeout=0.01)
    with pytest.raises(DeadlineExceeded, match="slow: peer: no answer"):
        await task
    ends.answer(channel.answer(number, {}), [0])  # too late: closed
    await settle()


async def test_a_reply_that_arrives_with_the_cancellation_is_closed(ends: Ends) -> None:
    task, number = await begin(ends)
    ends.answer(channel.answer(number, {}), [0])
    ends.near._on_readable()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancelled_call_leaves_the_channel_usable(ends: Ends) -> None:
    task, _ = await begin(ends)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    other, number = await begin(ends)
    ends.answer(channel.answer(number, {}))
    assert await other == ({}, [])


async def test_the_end_of_the_peer_ends_the_calls_in_flight(ends: Ends) -> None:
    task, _ = await begin(ends)
    ended: list[bool] = []
    ends.near.add_close_callback(lambda: ended.append(True))
    ends.far.close()
    with pytest.raises(Unavailable, match="peer: the connection has ended"):
        await task
    await ends.near.wait_closed()
    await settle()
    assert ended == [True]
    assert ends.near.closed


async def test_a_call_after_the_end_is_refused(ends: Ends) -> None:
    ends.near.close()
    ends.near.close()
    with pytest.raises(Unavailable):
        await ends.near.call("x", {})


@pytest.mark.parametrize("garbage", [b"{", b"[]", b"\xff"])
async def test_garbage_ends_the_connection(ends: Ends, garbage: bytes) -> None:
    task, _ = await begin(ends)
    ends.far.sendall(garbage)
    with pytest.raises(Unavailable):
        await task


@pytest.mark.parametrize("odd", [{}, {"id": "1"}, {"id": 99, "ok": {}}, {"id": None, "error": {}}])
async def test_a_reply_that_nobody_waits_for_is_dropped(ends: Ends, odd: Message) -> None:
    ends.answer(odd, [0])
    await settle()
    assert not ends.near.closed


async def test_a_reply_without_ok_and_error_is_a_fault_of_the_call(ends: Ends) -> None:
    task, number = await begin(ends)
    ends.answer({"id": number})
    with pytest.raises(channel.MalformedMessage):
        await task


async def test_events_arrive_in_order_and_their_descriptors_are_closed(ends: Ends) -> None:
    for number in range(40):
        ends.answer({"event": "x", "n": number}, [0])
    await settle()
    assert [event["n"] for event in ends.events] == list(range(40))


async def test_a_request_that_is_too_large_fails_alone(ends: Ends) -> None:
    with pytest.raises(channel.MalformedMessage, match="exceed"):
        await ends.near.call("x", {"blob": "x" * channel.MESSAGE_LIMIT})
    task, number = await begin(ends)
    ends.answer(channel.answer(number, {}))
    await task


async def test_requests_wait_for_a_peer_that_is_slow_to_read(ends: Ends) -> None:
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(ends.near.call("x", {"blob": "x" * 20_000})) for _ in range(50)]
    await asyncio.sleep(0)
    for _ in tasks:
        await asyncio.sleep(0)
        message, _ = ends.take()
        ends.answer(channel.answer(message["id"], {}))
        await settle()
    assert await asyncio.gather(*tasks) == [({}, [])] * 50


async def test_a_request_cancelled_while_it_waits_is_never_sent(ends: Ends) -> None:
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(ends.near.call(f"op{n}", {"blob": "x" * 20_000})) for n in range(50)]
    await asyncio.sleep(0)
    tasks[-1].cancel()
    await asyncio.sleep(0)
    seen = []
    for _ in range(49):
        await settle()
        message, _ = ends.take()
        seen.append(message["op"])
        ends.answer(channel.answer(message["id"], {}))
    assert seen == [f"op{n}" for n in range(49)]
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_peer_that_never_reads_is_unavailable(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_async, "BACKLOG_LIMIT", 4)
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(ends.near.call("x", {"blob": "x" * 50_000})) for _ in range(30)]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="does not read"):
        await tasks[-1]
    ends.near.close()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_what_is_posted_arrives_and_its_answer_is_dropped_with_its_descriptors(ends: Ends) -> None:
    reads, writes = os.pipe()
    assert ends.near.post("prepare", {"n": 1}, [writes])
    os.close(writes)
    message, descriptors = ends.take()
    assert (message["op"], message["args"], len(descriptors)) == ("prepare", {"n": 1}, 1)
    channel.close_all(descriptors)
    ends.answer(channel.answer(message["id"], {}), [reads])
    os.close(reads)
    task, number = await begin(ends)
    ends.answer(channel.answer(number, {"n": 2}))
    assert await task == ({"n": 2}, [])


async def test_what_cannot_be_posted_at_once_is_not_sent_later(ends: Ends) -> None:
    while ends.near.post("fill", {"x": "y" * 10000}):
        pass
    task = asyncio.get_running_loop().create_task(ends.near.call("wait", {}))
    await asyncio.sleep(0)
    ends.take()
    assert not ends.near.post("late", {})  # it would overtake
    ops = []
    while "wait" not in ops:
        await asyncio.sleep(0)
        ops.append(ends.take()[0]["op"])
    assert "late" not in ops
    task.cancel()
    ends.near.close()
    assert not ends.near.post("x", {})
