"""A systemd that listens on a socket of the test's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fake_systemd import FakeSystemd


@pytest.fixture
async def systemd(tmp_path: Path) -> AsyncIterator[FakeSystemd]:
    fake = FakeSystemd()
    async with fake.serving(tmp_path / "bus"):
        yield fake
