"""An image store with real workers, and a registry."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runtime.images.registry import Registry
from runtime.images.store import ImageStore
from runtime.images.transport import Patience
from tests.kernel.runtime.images.workers import SITE_PACKAGES, SubprocessRunner
from tests.unit.runtime.images.fakes import Background, MemoryRecords
from tests.unit.runtime.images.registries import FakeRegistry


@pytest.fixture
def runner() -> SubprocessRunner:
    return SubprocessRunner()


@pytest.fixture
def background() -> Background:
    return Background()


@pytest.fixture
async def store(tmp_path: Path, runner: SubprocessRunner, background: Background) -> AsyncIterator[ImageStore]:
    root = tmp_path / "root"
    root.mkdir(mode=0o700)
    opened, _ = await ImageStore.open(
        str(root),
        MemoryRecords(),
        runner,
        spawn=background,
        layers_in_use=set,
        codec_path=SITE_PACKAGES,
    )
    yield opened
    await background.settle()
    assert os.listdir(root / "layers/.trash") == []
    shutil.rmtree(root)


@pytest.fixture
async def server() -> AsyncIterator[FakeRegistry]:
    async with FakeRegistry() as started:
        yield started


@pytest.fixture
async def registry() -> AsyncIterator[Registry]:
    async with Registry("", Patience(attempts=3, first_delay=0.001, max_delay=0.01, stall=5)) as opened:
        yield opened
