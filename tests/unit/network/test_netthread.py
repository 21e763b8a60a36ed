from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

from network.netthread import NetThread
from tests.descriptors import open_descriptors


@pytest.fixture
def thread() -> Iterator[NetThread]:
    made = NetThread()
    yield made
    made.close()


def test_jobs_run_in_order_in_one_thread_that_was_entered_first() -> None:
    seen: list[str | int] = []
    thread = NetThread(lambda: seen.append(threading.get_ident()))

    def job(number: int) -> int:
        seen.append(number)
        return threading.get_ident()

    async def cycle() -> list[int]:
        return await asyncio.gather(*(thread.run(job, number) for number in range(5)))

    try:
        idents = asyncio.run(cycle())
    finally:
        thread.close()
    assert seen == [idents[0], 0, 1, 2, 3, 4]
    assert set(idents) == {idents[0]} and idents[0] != threading.get_ident()


def test_a_jobs_fault_reaches_its_caller(thread: NetThread) -> None:
    def fail(word: str) -> None:
        raise LookupError(word)

    with pytest.raises(LookupError, match="gone"):
        asyncio.run(thread.run(fail, word="gone"))
    assert isinstance(thread.submit(fail, "gone").exception(5), LookupError)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError as error:
        assert error.errno == errno.EBADF
        return False
    return True


def test_a_job_has_its_descriptors_when_the_caller_has_gone(thread: NetThread) -> None:
    """A cancelled caller closes what it lent; the job in flight must not meet a reused number."""
    began, go_on = threading.Event(), threading.Event()
    stats: list[int] = []
    copies: list[int] = []

    def job(fds: Sequence[int]) -> None:
        copies.extend(fds)
        began.set()
        go_on.wait(5)
        stats.append(os.fstat(fds[0]).st_ino)

    async def cycle() -> int:
        reader, writer = os.pipe()
        inode = os.fstat(reader).st_ino
        try:
            async with asyncio.timeout(5):
                running = asyncio.gather(thread.run_with_fds([reader], job), return_exceptions=True)
                while not began.is_set():
                    await asyncio.sleep(0.001)
                running.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await running
        finally:
            os.close(reader)
            os.close(writer)
        go_on.set()
        await thread.run(lambda: None)
        return inode

    inode = asyncio.run(cycle())
    assert stats == [inode]
    assert not _is_open(copies[0])


def test_a_job_that_never_ran_leaves_no_descriptor(thread: NetThread) -> None:
    go_on = threading.Event()
    ran: list[int] = []
    before = open_descriptors()

    async def cycle() -> None:
        blocker = thread.submit(go_on.wait, 5)
        waiting = asyncio.gather(thread.run_with_fds([0, 1], lambda fds: ran.extend(fds)))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        go_on.set()
        await asyncio.wrap_future(blocker)

    asyncio.run(cycle())
    assert ran == []
    assert open_descriptors() <= before


def test_a_descriptor_that_is_closed_already_is_refused_and_the_others_are_closed(thread: NetThread) -> None:
    before = open_descriptors()
    job: Callable[[Sequence[int]], None] = lambda _: None  # noqa: E731
    with pytest.raises(OSError, match="Bad file descriptor"):
        asyncio.run(thread.run_with_fds([0, 999_999], job))
    assert open_descriptors() <= before
