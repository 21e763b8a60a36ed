"""The image store: names, layers in use, recovery."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runtime.errors import HostFault, InvalidArgument
from runtime.images.config import chain_ids
from runtime.images.model import Dropped, Image
from runtime.images.sink import PipeSink
from runtime.images.stages import REMOVE, points
from runtime.images.store import ImageStore
from tests.unit.runtime.images.fakes import Background, MemoryRecords, PlainRunner, diff_id


class Setup:
    """A store with what surrounds it; ``stacked`` are the layers that containers use."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.records = MemoryRecords()
        self.runner = PlainRunner()
        self.background = Background()
        self.stacked: set[str] = set()
        self.failpoints: FailOnce | None = None

    async def open(self) -> tuple[ImageStore, list[Dropped]]:
        return await ImageStore.open(
            str(self.root),
            self.records,
            self.runner,
            spawn=self.background,
            layers_in_use=lambda: self.stacked,
            codec_path="",
            failpoints=self.failpoints,
        )

    def on_disk(self) -> set[str]:
        return {name for name in os.listdir(self.root / "layers") if name != ".trash"}


@pytest.fixture
async def setup(tmp_path: Path) -> AsyncIterator[Setup]:
    made = Setup(tmp_path)
    yield made
    await made.background.settle()


async def add(store: ImageStore, number: int, *contents: bytes, tags: tuple[str, ...] = ()) -> Image:
    chain = chain_ids(tuple(map(diff_id, contents)))
    with store.hold(chain):
        for position, content in enumerate(contents):

            async def feed(sink: PipeSink, content: bytes = content) -> None:
                await sink.write(content)

            await store.layers.ensure(chain[: position + 1], diff_id(content), feed)
        image = Image(id=f"sha256:{number:064x}", config=b"{}", layers=chain, size=1, repo_tags=tags, created_at=number)
        return await store.add(image)


async def test_an_image_is_listed_with_its_layers(setup: Setup) -> None:
    store, dropped = await setup.open()
    image = await add(store, 1, b"base", b"top", tags=("r.example/a:v1",))
    assert dropped == []
    assert store.images() == [image]
    assert store.resolve("r.example/a:v1") == image
    assert store.lowerdirs(image) == [store.layers.tree(chain_id) for chain_id in reversed(image.layers)]
    usage = store.usage()
    assert (usage.directory, usage.used_bytes, usage.inodes_used) == (str(setup.root), 8192, 4)
    assert store.root == str(setup.root)


async def test_a_tag_moves_and_the_old_image_stays_untagged(setup: Setup) -> None:
    store, _ = await setup.open()
    old = await add(store, 1, b"one", tags=("r.example/a:v1",))
    new = await add(store, 2, b"two", tags=("r.example/a:v1",))
    assert store.resolve("r.example/a:v1") == new
    untagged = store.resolve(old.id)
    assert untagged is not None and untagged.repo_tags == ()
    assert setup.records.transactions[-1] == ([new.id, old.id], [])


async def test_removing_by_any_name_removes_all_of_it(setup: Setup) -> None:
    store, _ = await setup.open()
    image = await add(store, 1, b"one", tags=("r.example/a:v1", "r.example/a:v2"))
    assert await store.remove("r.example/a:v2") == image
    assert store.images() == []
    assert await store.remove("r.example/a:v1") is None
    assert setup.on_disk() == set()
    assert setup.records.images == {}
    with pytest.raises(InvalidArgument):
        await store.remove("UPPER")


class FailOnce:
    """Fails at ``point``, once."""

    def __init__(self, point: str) -> None:
        self.point = point

    async def hit(self, point: str) -> None:
        if point == self.point:
            self.point = ""
            raise HostFault("made to fail")


@pytest.mark.parametrize("point", points(REMOVE))
async def test_a_removal_that_failed_is_gone_on_with_by_asking_again(setup: Setup, point: str) -> None:
    setup.failpoints = FailOnce(point)
    store, _ = await setup.open()
    image = await add(store, 1, b"one", b"two")
    with pytest.raises(HostFault):
        await store.remove(image.id)
    await store.remove(image.id)
    assert (store.images(), setup.records.images, setup.on_disk()) == ([], {}, set())


async def test_what_is_stored_is_told_also_if_whoever_asked_has_left(setup: Setup) -> None:
    """Else the image would be there after a restart and not before, or the reverse."""
    store, _ = await setup.open()
    for change in ("add", "remove"):
        setup.records.gate = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            work = add(store, 1, b"one") if change == "add" else store.remove(f"sha256:{1:064x}")
            task = group.create_task(work)
            await asyncio.wait_for(setup.records.reached.wait(), 20)
            task.cancel()
        assert task.cancelled()
        setup.records.gate.set()
        await setup.records.settle()
        assert [image.id for image in store.images()] == list(setup.records.images)
        assert bool(store.images()) == (change == "add")


async def test_layers_that_others_need_stay(setup: Setup) -> None:
    store, _ = await setup.open()
    one = await add(store, 1, b"base", b"one")
    two = await add(store, 2, b"base", b"two")
    assert setup.runner.calls.count("unpack") == 3
    await store.remove(one.id)
    assert setup.on_disk() == set(two.layers)


async def test_layers_of_containers_stay_until_these_are_gone(setup: Setup) -> None:
    store, _ = await setup.open()
    image = await add(store, 1, b"one")
    setup.stacked = set(image.layers)
    await store.remove(image.id)
    assert setup.on_disk() == set(image.layers)
    setup.stacked = set()
    assert await store.collect() == list(image.layers)
    assert setup.on_disk() == set()


async def test_layers_of_a_pull_in_progress_stay(setup: Setup) -> None:
    store, _ = await setup.open()
    image = await add(store, 1, b"one")
    with store.hold(image.layers):
        with store.hold(image.layers):
            pass
        await store.remove(image.id)
        assert setup.on_disk() == set(image.layers)
    assert await store.collect() == list(image.layers)


async def test_five_removals_at_once_are_one(setup: Setup) -> None:
    store, _ = await setup.open()
    image = await add(store, 1, b"one")
    found = await asyncio.gather(*[store.remove(image.id) for _ in range(5)])
    assert sorted(found, key=lambda each: each is None) == [image, None, None, None, None]


async def test_recovery_keeps_what_is_whole_and_drops_the_rest(setup: Setup) -> None:
    store, _ = await setup.open()
    kept = await add(store, 1, b"base", b"one", tags=("r.example/a:v1",))
    lost = await add(store, 2, b"base", b"two", tags=("r.example/b:v1",))
    await add(store, 3, b"orphan")
    del setup.records.images[f"sha256:{3:064x}"]
    os.rename(setup.root / "layers" / lost.layers[1], setup.root / "layers/.tmp-dead")
    again, dropped = await setup.open()
    assert again.images() == [kept]
    [only] = dropped
    assert only.image_id == lost.id
    assert only.reason.startswith("1 of 2 layers are missing")
    assert setup.on_disk() == set(kept.layers)
    assert list(setup.records.images) == [kept.id]
