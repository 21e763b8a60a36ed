"""The image table: records come back, unreadable ones are set aside."""

from __future__ import annotations

import asyncio
import sqlite3

import pytest

from cri.state.database import Database
from cri.state.images import ImageTable
from runtime.errors import ResourceExhausted
from runtime.images.model import Image


def image(id: str = "sha256:1", tag: str = "docker.io/library/busybox:latest") -> Image:
    return Image(id=id, config=b'{"x": "\xc3\xa4"}', layers=("ab", "cd"), size=7, repo_tags=(tag,), created_at=5)


def ignore() -> None:
    """Nobody has it in memory."""


async def test_images_outlive_the_daemon(database: Database) -> None:
    await ImageTable(database).save_images([image(), image("sha256:2", "b")], [], ignore)
    assert await ImageTable(database).load_images() == [image(), image("sha256:2", "b")]


async def test_one_call_replaces_and_removes(database: Database) -> None:
    table = ImageTable(database)
    await table.save_images([image(), image("sha256:2")], [], ignore)
    await table.save_images([image(tag="new")], ["sha256:2", "sha256:absent"], ignore)
    assert await table.load_images() == [image(tag="new")]


async def test_whoever_has_it_in_memory_is_told_also_if_the_caller_leaves(database: Database) -> None:
    told = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        saving = group.create_task(ImageTable(database).save_images([image()], [], told.set))
        await asyncio.sleep(0)  # it has been handed over
        saving.cancel()
    assert saving.cancelled()
    await asyncio.wait_for(told.wait(), 20)
    assert await ImageTable(database).load_images() == [image()]


async def test_a_save_is_synced(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    run = database.run

    async def watch(*args: object, **options: object) -> object:
        seen.append(options["durable"])
        return await run(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(database, "run", watch)
    await ImageTable(database).save_images([image()], [], ignore)
    assert seen == [True]


async def test_on_a_disk_without_room_none_is_put_and_those_there_are_read_and_removed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = ImageTable(database)
    await table.save_images([image()], [], ignore)
    monkeypatch.setattr("cri.state.database.make_reserve", lambda path: False)
    with pytest.raises(ResourceExhausted, match="nothing new is begun"):
        await table.save_images([image("sha256:2")], [], ignore)
    assert await table.load_images() == [image()]
    await table.save_images([], [image().id], ignore)
    assert await table.load_images() == []


async def test_a_record_that_cannot_be_decoded_is_set_aside(database: Database) -> None:
    table = ImageTable(database)
    await table.save_images([image(), image("sha256:2")], [], ignore)

    def damage(connection: sqlite3.Connection) -> None:
        connection.execute("UPDATE images SET record = ? WHERE id = 'sha256:1'", (b"{",))

    def quarantined(connection: sqlite3.Connection) -> list[tuple[str, str]]:
        return connection.execute("SELECT kind, id FROM quarantine").fetchall()

    await database.run(damage)
    assert await table.load_images() == [image("sha256:2")]
    assert await database.run(quarantined) == [("images", "sha256:1")]
