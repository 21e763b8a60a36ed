"""What may go on at once, and what has to be alone."""

from __future__ import annotations

import asyncio

from network.cni.gate import Gate, Locks


async def test_pods_go_on_together_and_the_collection_is_alone() -> None:
    gate, said = Gate(), list[str]()
    leave = asyncio.Event()

    async def pod(name: str) -> None:
        async with gate.together():
            said.append(f"{name} in")
            await leave.wait()
            said.append(f"{name} out")

    async def collect(name: str) -> None:
        async with gate.alone():
            said.append(f"{name} in")
            await asyncio.sleep(0)
            said.append(f"{name} out")

    async with asyncio.TaskGroup() as group:
        group.create_task(pod("a"))
        group.create_task(pod("b"))
        await asyncio.sleep(0)
        assert said == ["a in", "b in"]
        group.create_task(collect("first"))
        await asyncio.sleep(0)
        group.create_task(collect("second"))
        group.create_task(pod("late"))
        await asyncio.sleep(0)
        assert said == ["a in", "b in"]
        leave.set()
    assert said[:6] == ["a in", "b in", "a out", "b out", "first in", "first out"]
    assert sorted(said[6:]) == ["late in", "late out", "second in", "second out"]
    assert said.index("second out") == said.index("second in") + 1


async def test_who_fails_alone_opens_the_gate_again() -> None:
    gate = Gate()
    try:
        async with gate.alone():
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    async with gate.together():
        assert True


async def test_a_lock_is_of_its_key_and_forgotten_when_nobody_wants_it() -> None:
    locks, said = Locks(), list[str]()

    async def work(key: str, name: str) -> None:
        async with locks.of(key):
            said.append(f"{name} in")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            said.append(f"{name} out")

    await asyncio.gather(work("x", "1"), work("x", "2"), work("y", "3"))
    assert said.index("1 out") < said.index("2 in") and said.index("3 in") < said.index("1 out")
    assert not locks._locks and not locks._users
