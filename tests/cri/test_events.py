"""Events: which there are of a change, in which order, and what happens to the slow."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from cri import events
from cri.events import Events, Subscriber, kinds_of
from cri.state.database import Database
from cri.state.records import ContainerState, SandboxRecord, SandboxState
from cri.state.store import Record, Store
from proto import api_pb2 as api
from tests.cri.harness import Crisp
from tests.unit.cri.state import samples

CREATED, STARTED = api.CONTAINER_CREATED_EVENT, api.CONTAINER_STARTED_EVENT
STOPPED, DELETED = api.CONTAINER_STOPPED_EVENT, api.CONTAINER_DELETED_EVENT


def pod(id: str, config: bytes = b"") -> SandboxRecord:
    return msgspec.structs.replace(samples.sandbox(id), name=id, config=config)


def in_state(state: ContainerState) -> Record:
    return msgspec.structs.replace(samples.container("c1", "s1"), state=state)


async def test_the_events_of_a_container() -> None:
    created, running, exited = map(in_state, (ContainerState.CREATED, ContainerState.RUNNING, ContainerState.EXITED))
    assert kinds_of(None, created) == (CREATED,)
    assert kinds_of(created, running) == (STARTED,)
    assert kinds_of(running, running) == ()
    assert kinds_of(running, exited) == kinds_of(created, exited) == (STOPPED,)
    assert kinds_of(running, in_state(ContainerState.UNKNOWN)) == ()
    assert kinds_of(exited, None) == (DELETED,)


async def test_the_events_of_a_sandbox() -> None:
    ready = msgspec.structs.replace(samples.sandbox("s1"), state=SandboxState.READY)
    over = msgspec.structs.replace(ready, state=SandboxState.NOTREADY)
    assert kinds_of(None, ready) == (CREATED, STARTED)
    assert kinds_of(ready, over) == (STOPPED,)
    assert kinds_of(over, over) == kinds_of(ready, ready) == ()
    assert kinds_of(over, None) == (DELETED,)


async def test_a_full_queue_gives_what_it_has_and_then_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "QUEUED_EVENTS", 2)
    subscriber = Subscriber()
    assert [subscriber.put(each) for each in (b"1", b"2", b"3")] == [True, True, False]
    assert await subscriber.next() == b"1"
    assert not subscriber.put(b"4"), "after the gap nothing may follow, room or not"
    assert await subscriber.next() == b"2"
    assert await subscriber.next() is None and subscriber.overflowed


async def test_bytes_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "QUEUED_BYTES", 10)
    subscriber = Subscriber()
    assert subscriber.put(b"x" * 6) and not subscriber.put(b"x" * 6)
    assert len(subscriber) == 1


async def test_a_slow_subscriber_is_counted_and_holds_up_nobody(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(events, "QUEUED_EVENTS", 3)
    database = await Database.open(tmp_path / "state.db")
    store, dropped = await Store.open(database), []
    published = Events(store, lambda: dropped.append(1))
    await store.commit(puts=(pod("s0"),))
    with published.subscribed() as slow, published.subscribed() as quick:
        for number in range(1, 4):
            await store.commit(puts=(pod(f"s{number}"),))
            for kind in (CREATED, STARTED):
                event = await quick.next()
                assert event is not None
                shown = api.ContainerEventResponse.FromString(event)
                assert (shown.container_id, shown.container_event_type) == (f"s{number}", kind)
                assert shown.pod_sandbox_status.id == f"s{number}" and shown.created_at > 0
        assert slow.overflowed and len(slow) == 3 and len(dropped) == 3
        published.close()
        assert await quick.next() is None and not quick.overflowed
    assert not published._subscribers
    await database.close()


async def test_a_change_that_no_event_can_be_made_of_ends_the_streams_and_not_the_commit(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "state.db")
    store = await Store.open(database)
    published = Events(store, lambda: None)
    with published.subscribed() as subscriber:
        await store.commit(puts=(pod("s1", config=b"\xff"),))
        assert store.sandbox("s1") is not None
        assert await subscriber.next() is None and subscriber.overflowed
    await database.close()


async def test_a_waiting_subscriber_is_woken(crisp: Crisp) -> None:
    with crisp.host.events.subscribed() as subscriber:
        waiting = asyncio.ensure_future(subscriber.next())
        await asyncio.sleep(0)
        sandbox = await crisp.run_pod()
        event = await asyncio.wait_for(waiting, 5)
        assert event is not None and api.ContainerEventResponse.FromString(event).container_id == sandbox
