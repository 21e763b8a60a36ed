"""Records and an open database for the tests of the state."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cri.state.database import Database
from cri.state.store import Store


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = await Database.open(tmp_path / "state.db")
    yield opened
    await opened.close()


@pytest.fixture
async def store(database: Database) -> Store:
    return await Store.open(database)
