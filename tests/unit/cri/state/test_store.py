"""The store: memory shows exactly what is committed."""

from __future__ import annotations

import asyncio
import threading

import msgspec
import pytest

from cri.state.database import Database
from cri.state.records import ContainerRecord, ContainerState, OperationPhase, SandboxRecord
from cri.state.store import Store, container_key, sandbox_key
from runtime.errors import AlreadyExists, FailedPrecondition, NotFound, ResourceExhausted
from tests.unit.cri.state.samples import container, operation, sandbox


async def test_everything_is_there_after_a_restart(database: Database, store: Store) -> None:
    await store.commit(puts=[sandbox(), container()], begin=operation())
    again = await Store.open(database)
    assert again.sandbox("s1") == sandbox()
    assert again.containers_of("s1") == [container()]
    assert again.unfinished() == [operation()]


async def test_a_refused_commit_leaves_memory_and_rows_alone(database: Database, store: Store) -> None:
    await store.commit(puts=(sandbox("s1"),))
    with pytest.raises(AlreadyExists):
        await store.commit(puts=[sandbox("s2", "other"), sandbox("s3")], begin=operation())
    for each in (store, await Store.open(database)):
        assert [record.id for record in each.sandboxes] == ["s1"]
        assert each.operations == {}


async def test_a_name_has_one_holder(store: Store) -> None:
    await store.commit(puts=[sandbox(), container()])
    assert store.holder(sandbox_key("web", "default", "u", 0)) == "s1"
    assert store.holder(container_key("s1", "main", 0)) == "c1"
    assert store.holder(container_key("s1", "main", 1)) is None


def test_no_choice_of_names_makes_two_keys_equal() -> None:
    assert sandbox_key("a_b", "c", "u", 0) != sandbox_key("a", "b_c", "u", 0)
    assert sandbox_key('a", "b', "c", "u", 0) != sandbox_key("a", 'b", "c', "u", 0)


async def test_the_containers_of_a_sandbox_come_oldest_first(store: Store) -> None:
    await store.commit(puts=(sandbox(),))
    await store.commit(puts=(container("c2", name="second", created_at=9),))
    await store.commit(puts=(container("c1", name="first", created_at=3),))
    assert [record.id for record in store.containers_of("s1")] == ["c1", "c2"]
    await store.delete_container(container("c2", name="second"))
    assert [record.id for record in store.containers_of("s1")] == ["c1"]
    assert store.container("c2") is None


async def test_a_sandbox_goes_last(store: Store) -> None:
    await store.commit(puts=[sandbox(), container()])
    with pytest.raises(FailedPrecondition):
        await store.delete_sandbox(sandbox())
    assert store.sandbox("s1") is not None
    await store.commit(deletes=[sandbox(), container()])
    assert len(store.sandboxes) == len(store.containers) == 0
    assert store.containers_of("s1") == []


async def test_a_container_without_its_sandbox_is_refused(store: Store) -> None:
    with pytest.raises(Exception, match="FOREIGN KEY"):
        await store.commit(puts=(container(),))
    assert len(store.containers) == 0


async def test_an_operation_ends_with_its_record_in_one_commit(database: Database, store: Store) -> None:
    await store.commit(puts=[sandbox()], begin=operation())
    await store.commit(puts=[sandbox()], end="k")
    assert store.operations["k"].phase is OperationPhase.DONE
    assert store.unfinished() == []
    assert (await Store.open(database)).operations["k"].phase is OperationPhase.DONE


async def test_a_deleted_object_takes_its_operation_along(database: Database, store: Store) -> None:
    await store.commit(puts=[sandbox()], begin=operation())
    await store.delete_sandbox(sandbox())
    assert store.operations == {}
    assert (await Store.open(database)).operations == {}


async def test_forgetting_is_seen_at_once_and_lasts(database: Database, store: Store) -> None:
    await store.commit(puts=[sandbox()], begin=operation())
    forgetting = store.forget_operations(["k", "absent"])
    assert store.operations == {}
    await forgetting
    assert (await Store.open(database)).operations == {}


async def test_updates_at_the_same_time_all_count(store: Store) -> None:
    await store.commit(puts=[sandbox(), container()])

    def more(record: ContainerRecord) -> ContainerRecord:
        return msgspec.structs.replace(record, exit_code=record.exit_code + 1)

    await asyncio.gather(*(store.update_container("c1", more) for _ in range(50)))
    assert store.containers.get("c1").exit_code == 50


async def test_an_update_forgets_the_operation_that_ends_with_it(database: Database, store: Store) -> None:
    await store.commit(puts=[sandbox(), container()], begin=operation())
    await store.update_container("c1", lambda record: msgspec.structs.replace(record, exit_code=7), end="k")
    for each in (store, await Store.open(database)):
        assert each.operations == {} and each.containers.get("c1").exit_code == 7


async def test_an_update_that_fails_keeps_its_operation(database: Database, store: Store) -> None:
    await store.commit(puts=[sandbox()], begin=operation())
    with pytest.raises(NotFound):
        await store.update_container("c1", lambda record: record, end="k")
    for each in (store, await Store.open(database)):
        assert each.unfinished() == [operation()]


async def test_a_flush_returns_when_readers_see_what_was_to_be_stored(store: Store) -> None:
    storing = asyncio.ensure_future(store.commit(puts=(sandbox(),)))
    await asyncio.sleep(0)
    await store.flush()
    assert store.sandbox("s1") == sandbox()
    await storing


async def test_an_update_that_refuses_changes_nothing(store: Store) -> None:
    await store.commit(puts=[sandbox(), container()])

    def refuse(_: ContainerRecord) -> ContainerRecord:
        raise FailedPrecondition("no")

    with pytest.raises(FailedPrecondition):
        await store.update_container("c1", refuse)
    assert store.container("c1") == container()


async def test_an_update_of_what_is_gone_is_not_found(store: Store) -> None:
    with pytest.raises(NotFound):
        await store.update_sandbox("s1", lambda record: record)


async def test_a_sandbox_is_updated_in_place(store: Store) -> None:
    await store.commit(puts=(sandbox(),))

    def stop(record: SandboxRecord) -> SandboxRecord:
        return msgspec.structs.replace(record, reason="stopped")

    assert (await store.update_sandbox("s1", stop)).reason == "stopped"
    assert store.sandboxes.get("s1").reason == "stopped"


async def test_memory_follows_a_commit_whose_caller_was_cancelled(database: Database, store: Store) -> None:
    await store.commit(puts=[sandbox(), container()])
    gate = threading.Event()
    blocked = asyncio.ensure_future(database.run(lambda _: gate.wait(5), durable=True))
    exited = msgspec.structs.replace(container(), state=ContainerState.EXITED)
    caller = asyncio.ensure_future(store.commit(puts=(exited,)))
    await asyncio.sleep(0.01)
    caller.cancel()
    gate.set()
    await blocked
    await database.run(lambda _: None)
    assert store.container("c1") == exited


def running(record: ContainerRecord) -> ContainerRecord:
    return msgspec.structs.replace(record, state=ContainerState.RUNNING)


def ended(record: ContainerRecord) -> ContainerRecord:
    return msgspec.structs.replace(record, state=ContainerState.EXITED, exit_code=7)


async def test_what_is_owed_is_told_at_once_whatever_is_stored_meanwhile(database: Database, store: Store) -> None:
    await store.commit(puts=[sandbox(), running(container())])
    told = []
    store.watch(lambda before, after: told.append((before, after)))
    store.owe("c1", ended)
    assert store.containers.get("c1").exit_code == 7
    assert told == [(running(container()), ended(container()))]
    await store.update_container("c1", lambda now: msgspec.structs.replace(now, reason="other"))
    assert (store.containers.get("c1").exit_code, store.containers.get("c1").reason) == (7, "other")
    assert (await Store.open(database)).containers.get("c1").state is ContainerState.RUNNING
    await store.update_container("c1", ended)
    store.settle("c1", ended)
    store.settle("c1", ended)
    assert (await Store.open(database)).containers.get("c1") == store.containers.get("c1")
    await store.update_container("c1", lambda now: msgspec.structs.replace(now, exit_code=8))
    assert store.containers.get("c1").exit_code == 8


async def test_only_what_is_stored_is_settled(store: Store) -> None:
    await store.commit(puts=[sandbox(), running(container())])
    store.owe("c1", lambda now: msgspec.structs.replace(now, reason="first"))
    store.owe("c1", ended)
    store.settle("c1", ended)
    await store.commit(puts=(running(container()),))
    assert (store.containers.get("c1").reason, store.containers.get("c1").exit_code) == ("first", 0)


async def test_what_is_owed_to_something_that_is_removed_is_forgotten(store: Store) -> None:
    await store.commit(puts=[sandbox(), running(container())])
    store.owe("c1", ended)
    await store.delete_container(container())
    store.owe("c1", ended)
    await store.commit(puts=(running(container()),))
    assert store.containers.get("c1").state is ContainerState.RUNNING


async def test_without_reserve_and_room_an_intent_is_refused_and_an_end_is_stored(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.commit(puts=[sandbox(), container()])
    monkeypatch.setattr("cri.state.database.make_reserve", lambda path: False)
    with pytest.raises(ResourceExhausted):
        await store.commit(begin=operation())
    await store.commit(puts=[ended(container())])
    await store.delete_container(container())
    await store.forget_operations(["k"])
    assert store.operations == {} and store.container("c1") is None
