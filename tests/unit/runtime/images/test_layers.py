"""Layers: once, whole, in order, or not at all."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from runtime.errors import FailedPrecondition, Fault, HostFault, ResourceExhausted
from runtime.images import layers
from runtime.images.layers import Layer, LayerStore, first_failure
from runtime.images.sink import PipeSink
from runtime.images.stages import Stages
from runtime.images.trash import Trash
from tests.descriptors import open_descriptors
from tests.unit.runtime.images.fakes import Background, PlainRunner, diff_id

PLACES = ("before", "mid", "after")
CHAIN, UPPER = "a" * 64, "b" * 64


def feed(data: bytes) -> Callable[[PipeSink], Awaitable[None]]:
    async def write(sink: PipeSink) -> None:
        await sink.write(data)

    return write


@pytest.fixture
def runner() -> PlainRunner:
    return PlainRunner()


@pytest.fixture
def background() -> Background:
    return Background()


@pytest.fixture
async def store(tmp_path: Path, runner: PlainRunner, background: Background) -> AsyncIterator[LayerStore]:
    yield await open_store(tmp_path, runner, background)
    await background.settle()


async def open_store(tmp_path: Path, runner: PlainRunner, background: Background) -> LayerStore:
    directory = str(tmp_path / "layers")
    trash = Trash(LayerStore.trash_path(directory), runner, background)
    opened = LayerStore(directory, runner, trash, "/site-packages")
    await opened.open()
    return opened


def names(tmp_path: Path) -> list[str]:
    return sorted(name for name in os.listdir(tmp_path / "layers") if name != ".trash")


async def test_a_layer_is_unpacked_and_known(store: LayerStore, tmp_path: Path, runner: PlainRunner) -> None:
    layer = await store.ensure([CHAIN], diff_id(b"data"), feed(b"data"))
    assert layer == Layer(diff_id(b"data"), 4096, 2) == store.known[CHAIN]
    assert Path(store.tree(CHAIN), "content").read_bytes() == b"data"
    assert os.stat(store.tree(CHAIN)).st_mode & 0o777 == 0o755
    assert os.stat(tmp_path / "layers" / CHAIN).st_mode & 0o777 == 0o700
    assert names(tmp_path) == [CHAIN]
    assert runner.args[0]["codec_path"] == "/site-packages"
    assert (store.unpacked, store.unpacked_bytes) == (1, 4)


async def test_a_layer_survives_a_restart(
    store: LayerStore, tmp_path: Path, runner: PlainRunner, background: Background
) -> None:
    await store.ensure([CHAIN], diff_id(b"data"), feed(b"data"))
    again = await open_store(tmp_path, runner, background)
    assert again.known == store.known


async def test_two_pulls_unpack_a_layer_once(store: LayerStore, runner: PlainRunner) -> None:
    found = await asyncio.gather(*[store.ensure([CHAIN], diff_id(b"data"), feed(b"data")) for _ in range(5)])
    assert len(set(map(id, found))) == 1
    assert runner.calls == ["unpack"]


async def test_when_the_first_fails_the_second_tries_itself(store: LayerStore) -> None:
    async def broken(sink: PipeSink) -> None:
        await asyncio.sleep(0.01)
        raise FailedPrecondition("cut off")

    results = await asyncio.gather(
        store.ensure([CHAIN], diff_id(b"data"), broken),
        store.ensure([CHAIN], diff_id(b"data"), feed(b"data")),
        return_exceptions=True,
    )
    assert isinstance(results[0], FailedPrecondition)
    assert isinstance(results[1], Layer)


async def test_wrong_content_never_becomes_visible(store: LayerStore, tmp_path: Path, background: Background) -> None:
    with pytest.raises(FailedPrecondition, match="verify layer"):
        await store.ensure([CHAIN], diff_id(b"other"), feed(b"data"))
    with pytest.raises(HostFault, match="refused"):
        await store.ensure([CHAIN], diff_id(b"bad"), feed(b"bad"))
    assert names(tmp_path) == []
    assert store.known == {}
    await background.settle()
    assert os.listdir(tmp_path / "layers/.trash") == []


async def test_a_cancelled_pull_leaves_nothing(store: LayerStore, tmp_path: Path) -> None:
    async def endless(sink: PipeSink) -> None:
        while True:
            await asyncio.sleep(0.01)

    before = open_descriptors()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(store.ensure([CHAIN], diff_id(b"x"), endless), 0.05)
    assert names(tmp_path) == []
    async with asyncio.timeout(30):
        while open_descriptors() != before:  # the thread that read sees the end of the pipe
            await asyncio.sleep(0.01)


async def test_a_layer_waits_for_the_one_below(store: LayerStore, tmp_path: Path) -> None:
    released = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        upper = group.create_task(store.ensure([CHAIN, UPPER], diff_id(b"u"), feed(b"u"), released.wait()))
        await asyncio.sleep(0.05)
        assert UPPER not in store.known
        await store.ensure([CHAIN], diff_id(b"l"), feed(b"l"))
        released.set()
    assert upper.result() == store.known[UPPER]


async def test_a_failure_below_fails_the_layer(store: LayerStore, tmp_path: Path) -> None:
    async def fail() -> None:
        raise FailedPrecondition("below")

    with pytest.raises(FailedPrecondition, match="below"):
        await store.ensure([CHAIN, UPPER], diff_id(b"u"), feed(b"u"), fail())
    assert names(tmp_path) == []


async def test_what_is_no_whole_layer_is_thrown_away_at_start(
    tmp_path: Path, runner: PlainRunner, background: Background
) -> None:
    whole = json.dumps({"diff_id": diff_id(b"x"), "size": 1, "entries": 1})
    directory = tmp_path / "layers"
    for number, (name, info, tree) in enumerate(
        [
            (".tmp-1234", whole, True),
            ("not-a-layer", whole, True),
            ("1" * 64, whole, False),
            ("2" * 64, "{", True),
            ("3" * 64, '{"diff_id": "x", "size": 1, "entries": 1}', True),
            ("4" * 64, '{"diff_id": 5}', True),
            ("5" * 64, whole.replace('"size": 1', '"size": true'), True),
            ("6" * 64, whole, True),
        ]
    ):
        (directory / name).mkdir(parents=True)
        (directory / name / "layer.json").write_text(info)
        if tree:
            (directory / name / "fs" / str(number)).mkdir(parents=True)
    (directory / ("7" * 64)).write_text("a file")
    store = await open_store(tmp_path, runner, background)
    assert list(store.known) == ["6" * 64]
    assert names(tmp_path) == ["6" * 64]
    await background.settle()


async def test_discarded_layers_are_gone(store: LayerStore, tmp_path: Path) -> None:
    await store.ensure([CHAIN], diff_id(b"data"), feed(b"data"))
    await store.discard([CHAIN, UPPER])
    assert store.known == {}
    assert names(tmp_path) == []


async def test_a_full_disk_is_a_matter_of_resources(store: LayerStore, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        f_bavail, f_frsize = 0, 4096

    monkeypatch.setattr(os, "statvfs", lambda path: Full())
    with pytest.raises(ResourceExhausted, match="disk is full"):
        await store.ensure([CHAIN], diff_id(b"data"), feed(b"data"))


async def test_a_layer_that_cannot_be_committed_is_not_there(
    store: LayerStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "input/output error")

    monkeypatch.setattr(layers, "adopt_directories", fail)
    with pytest.raises(HostFault, match="commit layer"):
        await store.ensure([CHAIN], diff_id(b"data"), feed(b"data"))
    assert names(tmp_path) == []


async def test_a_layer_that_appears_while_its_pull_is_cancelled_is_known(
    store: LayerStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread cannot be stopped; a layer on disk that nobody knows would be in its own way."""
    renaming, go_on, rename = threading.Event(), threading.Event(), os.rename

    def slow(source: str, target: str) -> None:
        if target.endswith(CHAIN):
            renaming.set()
            go_on.wait(20)
        rename(source, target)

    monkeypatch.setattr(os, "rename", slow)
    async with asyncio.TaskGroup() as group:
        pull = group.create_task(store.ensure([CHAIN], diff_id(b"data"), feed(b"data")))
        await asyncio.to_thread(renaming.wait, 20)
        pull.cancel()
        await asyncio.sleep(0)
        go_on.set()
    assert pull.cancelled()
    assert names(tmp_path) == [CHAIN] == list(store.known)
    assert store.strays() == []


async def test_what_lies_in_the_place_of_a_layer_makes_way(store: LayerStore, tmp_path: Path) -> None:
    (tmp_path / "layers" / CHAIN / "something").mkdir(parents=True)
    await store.ensure([CHAIN], diff_id(b"data"), feed(b"data"))
    assert sorted(os.listdir(tmp_path / "layers" / CHAIN)) == ["fs", "layer.json"]


async def test_a_layer_that_may_not_outlive_a_power_cut_is_not_there(
    store: LayerStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = layers._sync_directory

    def fail(path: str) -> None:
        if path.endswith("/layers"):
            raise OSError(5, "input/output error")
        sync(path)

    monkeypatch.setattr(layers, "_sync_directory", fail)
    with pytest.raises(HostFault, match="commit layer"):
        await store.ensure([CHAIN], diff_id(b"data"), feed(b"data"))
    assert names(tmp_path) == [] and store.known == {}


async def test_what_is_neither_a_layer_nor_about_to_be_one_is_a_stray(store: LayerStore, tmp_path: Path) -> None:
    async def look(sink: PipeSink) -> None:
        assert [name for name in names(tmp_path) if name.startswith(".tmp-")] and store.strays() == []
        await sink.write(b"data")

    await store.ensure([CHAIN], diff_id(b"data"), look)
    assert store.strays() == []
    (tmp_path / "layers/.tmp-left").mkdir()
    (tmp_path / "layers" / UPPER).mkdir()
    assert sorted(store.strays()) == sorted(str(tmp_path / "layers" / name) for name in (".tmp-left", UPPER))
    for path in store.strays():
        await store.throw_stray(path)
    assert names(tmp_path) == [CHAIN] and store.strays() == []


async def test_a_layer_that_cannot_be_thrown_away_stays_known(
    store: LayerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.ensure([CHAIN], diff_id(b"data"), feed(b"data"))

    def fail(*_: object) -> None:
        raise OSError(5, "input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", fail)
        with pytest.raises(OSError, match="input/output"):
            await store.discard([CHAIN])
    assert list(store.known) == [CHAIN]
    await store.discard([CHAIN])
    assert store.known == {}


async def test_each_stage_of_a_layer_can_be_met(tmp_path: Path, runner: PlainRunner, background: Background) -> None:
    met: dict[str, list[str]] = {}

    class Look:
        async def hit(self, point: str) -> None:
            met[point] = [name for name in names(tmp_path) if not name.startswith(".tmp-")]

    directory, stages = str(tmp_path / "layers"), Stages(Look())
    trash = Trash(LayerStore.trash_path(directory), runner, background)
    store = LayerStore(directory, runner, trash, "", stages)
    await store.open()
    await store.ensure([CHAIN], diff_id(b"data"), feed(b"data"))
    visible = [point.removeprefix("images/") for point, found in met.items() if found == [CHAIN]]
    assert list(met) == [f"images/{name}:{at}" for name in ("unpack_layer", "commit_layer") for at in PLACES]
    assert visible == ["commit_layer:after"]
    await background.settle()


async def test_a_spooled_archive_is_gone_afterwards(store: LayerStore, tmp_path: Path) -> None:
    async with store.spool(feed(b"archive")) as path:
        assert Path(path, "content").read_bytes() == b"archive"
    assert names(tmp_path) == []
    assert store.known == {}
    with pytest.raises(HostFault):
        async with store.spool(feed(b"bad")):
            pass


def test_the_first_failure_counts() -> None:
    first = Fault("first")
    nested = BaseExceptionGroup("outer", [BaseExceptionGroup("inner", [first, Fault("second")])])
    assert first_failure(nested) is first
