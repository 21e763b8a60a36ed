"""Operations: join, adopt, refuse; no cancelled caller cancels the work."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from cri.state.database import Database
from cri.state.journal import Operation, Operations
from cri.state.store import Store, sandbox_key
from cri.tasks import Tasks
from runtime.errors import AlreadyExists, HostFault
from tests.unit.cri.state.samples import sandbox

KEY = sandbox_key("web", "default", "u", 0)


@pytest.fixture
def tasks() -> Tasks:
    return Tasks()


@pytest.fixture
def operations(store: Store, tasks: Tasks) -> Operations:
    return Operations(store, tasks)


class Work:
    """Makes the sandbox ``web``, waiting at ``gate`` between intent and end."""

    def __init__(self, store: Store, fails: bool = False) -> None:
        self.store = store
        self.fails = fails
        self.begun, self.gate = asyncio.Event(), asyncio.Event()
        self.calls = 0

    async def __call__(self, operation: Operation) -> None:
        self.calls += 1
        record = msgspec.structs.replace(sandbox(), id=operation.object_id)
        await self.store.commit(puts=[record], begin=operation.record(b"[]"))
        self.begun.set()
        await self.gate.wait()
        if self.fails:
            await self.store.commit(deletes=[record])
            raise HostFault("no", step="mount")
        await self.store.commit(puts=[record], end=operation.key)


def request(
    operations: Operations, work: Callable[[Operation], Awaitable[None]], digest: str = "d"
) -> asyncio.Future[str]:
    return asyncio.ensure_future(operations.run(KEY, "sandbox", digest, work))


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.001)


async def cancel(caller: asyncio.Future[Any]) -> None:
    caller.cancel()
    await asyncio.wait([caller])


async def test_the_identical_request_joins_the_one_in_flight(store: Store, operations: Operations) -> None:
    work = Work(store)
    first, second = request(operations, work), request(operations, work)
    await work.begun.wait()
    work.gate.set()
    assert await first == await second == store.holder(KEY)
    assert work.calls == 1


async def test_the_work_outlives_a_cancelled_caller_and_its_retry_joins(store: Store, operations: Operations) -> None:
    work = Work(store)
    first = request(operations, work)
    await work.begun.wait()
    await cancel(first)
    second = request(operations, work)
    await asyncio.sleep(0)
    assert operations.unfinished() == []
    work.gate.set()
    assert operations.in_flight(await second) is False
    assert work.calls == 1


async def test_a_result_that_was_never_delivered_is_adopted(store: Store, operations: Operations) -> None:
    work = Work(store)
    work.gate.set()
    first = await request(operations, work)
    assert await request(operations, work) == first
    assert work.calls == 1


async def test_a_delivered_request_is_refused(database: Database, store: Store, operations: Operations) -> None:
    work = Work(store)
    work.gate.set()
    id = await request(operations, work)
    operations.delivered(KEY)
    with pytest.raises(AlreadyExists, match=id):
        await request(operations, work)
    async with asyncio.timeout(30):
        while (await Store.open(database)).operations:
            await asyncio.sleep(0.02)
    operations.delivered(KEY)


async def test_a_name_taken_again_keeps_its_new_operation(
    database: Database, store: Store, operations: Operations, tasks: Tasks
) -> None:
    work = Work(store)
    work.gate.set()
    id = await request(operations, work)
    operations.delivered(KEY)
    record = store.sandbox(id)
    assert record is not None
    await store.delete_sandbox(record)
    again = await request(operations, work)
    await until(lambda: len(tasks) == 0)
    assert (await Store.open(database)).operations[KEY].object_id == again


async def test_another_request_for_a_name_in_flight_is_refused_with_its_id(
    store: Store, operations: Operations
) -> None:
    work = Work(store)
    first = request(operations, work)
    await work.begun.wait()
    id = store.holder(KEY)
    assert id
    assert operations.in_flight(id)
    with pytest.raises(AlreadyExists, match=id):
        await request(operations, work, "other")
    work.gate.set()
    await first


async def test_another_request_does_not_adopt(store: Store, operations: Operations) -> None:
    work = Work(store)
    work.gate.set()
    id = await request(operations, work)
    with pytest.raises(AlreadyExists, match=id):
        await request(operations, work, "other")


async def test_a_failure_reaches_all_who_wait_and_frees_the_name(store: Store, operations: Operations) -> None:
    failing = Work(store, fails=True)
    first, second = request(operations, failing), request(operations, failing)
    await failing.begun.wait()
    failing.gate.set()
    for caller in (first, second):
        with pytest.raises(HostFault):
            await caller
    working = Work(store)
    working.gate.set()
    assert await request(operations, working) == store.holder(KEY)


async def test_a_removed_object_gives_its_name_back(store: Store, operations: Operations) -> None:
    work = Work(store)
    work.gate.set()
    first = await request(operations, work)
    await store.delete_sandbox(store.sandboxes.get(first))
    assert await request(operations, work) != first
    assert work.calls == 2


async def test_a_failure_after_the_client_left_is_logged(
    store: Store, operations: Operations, caplog: pytest.LogCaptureFixture
) -> None:
    work = Work(store, fails=True)
    caller = request(operations, work)
    await work.begun.wait()
    await cancel(caller)
    with caplog.at_level(logging.WARNING):
        work.gate.set()
        await until(lambda: "failed after its client had left: mount: no" in caplog.text)


async def test_after_a_restart_the_unfinished_is_owed_and_the_done_is_adopted(
    database: Database, store: Store, tasks: Tasks
) -> None:
    before = Operations(store, tasks)
    hanging = Work(store)
    lost = request(before, hanging)
    await hanging.begun.wait()
    done_key = sandbox_key("done", "default", "u", 0)

    async def make(operation: Operation) -> None:
        record = msgspec.structs.replace(sandbox(), id=operation.object_id, name="done")
        await store.commit(puts=[record], begin=operation.record(b"[]"), end=operation.key)

    made = await before.run(done_key, "sandbox", "d", make)

    after = Operations(await Store.open(database), Tasks())
    [owed] = after.unfinished()
    assert owed.key == KEY
    with pytest.raises(AlreadyExists):
        await after.run(KEY, "sandbox", "d", make)
    assert await after.run(done_key, "sandbox", "d", make) == made
    await after.forget(KEY)
    assert after.unfinished() == []
    await cancel(lost)
    hanging.gate.set()
    await until(lambda: len(tasks) == 0)


async def test_a_single_flight_is_shared_and_then_done_again(operations: Operations) -> None:
    gate, calls = asyncio.Event(), []

    async def pull() -> int:
        calls.append(1)
        await gate.wait()
        return len(calls)

    first = asyncio.ensure_future(operations.join("pull busybox", pull))
    second = asyncio.ensure_future(operations.join("pull busybox", pull))
    await until(lambda: calls)
    await cancel(first)
    gate.set()
    assert await second == 1
    await until(lambda: not operations._single)
    assert await operations.join("pull busybox", pull) == 2


async def test_work_that_is_cancelled_at_the_end_of_the_daemon_cancels_who_waits(
    store: Store, operations: Operations, tasks: Tasks
) -> None:
    work = Work(store)
    caller = request(operations, work)
    await work.begun.wait()
    assert await tasks.cancel_all(30) == []
    with pytest.raises(asyncio.CancelledError):
        await caller


async def test_a_start_is_adopted_though_it_holds_no_name(store: Store, operations: Operations) -> None:
    key = '["start", "c1"]'

    async def start(operation: Operation) -> None:
        await store.commit(begin=operation.record(b"[]"))
        await store.commit(end=operation.key)

    async def again(_operation: Operation) -> None:
        pytest.fail("it was started before")

    assert await operations.run(key, "StartContainer", "d", start, lambda: "c1") == "c1"
    assert await operations.run(key, "StartContainer", "d", again) == "c1"
    operations.delivered(key)
    with pytest.raises(pytest.fail.Exception):
        await operations.run(key, "StartContainer", "d", again)


async def test_changes_of_one_object_come_one_after_the_other(store: Store, operations: Operations) -> None:
    gates = [asyncio.Event() for _ in range(3)]
    seen: list[str] = []

    def work(number: int) -> Callable[[Operation], Awaitable[None]]:
        async def change(operation: Operation) -> None:
            seen.append(f"{operation.object_id} {number}")
            await gates[number].wait()
            if number == 1:
                raise HostFault("no", step="write")

        return change

    changes = [asyncio.ensure_future(operations.change("k", "Update", "s1", work(each))) for each in range(3)]
    await until(lambda: seen)
    assert seen == ["s1 0"] and operations.in_flight("s1")
    changes[0].cancel()  # whoever asked has left, and it goes on
    gates[1].set()
    for _ in range(20):
        await asyncio.sleep(0)
    assert seen == ["s1 0"]
    gates[0].set()
    with pytest.raises(HostFault):
        await changes[1]
    await until(lambda: seen == ["s1 0", "s1 1", "s1 2"])
    gates[2].set()
    await changes[2]
    assert not operations.in_flight("s1")
