"""Which network is in force, and how it changes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from network.cni.selection import WRITTEN, Selection
from runtime.errors import HostFault, InvalidArgument

TEMPLATE = '{"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "ptp", "subnet": "{{.PodCIDR}}"}]}'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "net.d"


@pytest.fixture
async def selection(folder: Path, tmp_path: Path) -> AsyncIterator[Selection]:
    (tmp_path / "template").write_text(TEMPLATE)
    made = Selection(str(folder), str(tmp_path / "template"))
    yield made
    made.close()


def is_configured(selection: Selection) -> bool:
    """A call, as what it returns changes by itself."""
    return selection.configured


def has_network(selection: Selection) -> bool:
    return selection.reading.conf is not None


def written(folder: Path) -> str:
    return str(json.loads((folder / WRITTEN).read_text())["plugins"][0]["subnet"])


async def test_a_change_in_the_folder_is_noticed_by_itself_and_told_once(folder: Path) -> None:
    selection, changed = Selection(str(folder)), asyncio.Event()
    assert is_configured(selection) is False
    assert selection.reading.problem == f"there is no folder {folder}"
    selection.on_change = changed.set
    selection.refresh()
    assert not changed.is_set()
    folder.mkdir()
    (folder / "a.conflist").write_text(TEMPLATE)
    while not has_network(selection):
        await asyncio.wait_for(changed.wait(), 20)
        changed.clear()
    assert is_configured(selection) is True
    assert selection.reading.file == f"{folder}/a.conflist"
    (folder / "a.conflist").write_text("{")
    while has_network(selection):
        await asyncio.wait_for(changed.wait(), 20)
        changed.clear()
    assert is_configured(selection) is True and "is not JSON" in selection.reading.problem
    selection.close()


async def test_a_template_becomes_a_configuration_when_the_subnets_are_known(
    selection: Selection, folder: Path
) -> None:
    assert selection.configured
    assert not selection.write_template(())
    assert selection.write_template(("10.1.0.0/24",)) and written(folder) == "10.1.0.0/24"
    assert not selection.write_template(("10.1.0.0/24",))
    assert selection.write_template(("10.2.0.0/24",)) and written(folder) == "10.2.0.0/24"
    reading = selection.refresh()
    assert reading.conf is not None and reading.conf.name == "net"
    assert [path.name for path in folder.iterdir()] == [WRITTEN]


async def test_anothers_configuration_is_left_to_decide(selection: Selection, folder: Path) -> None:
    folder.mkdir()
    (folder / "99-other.conf").write_text("{}")
    assert not selection.write_template(("10.1.0.0/24",))
    assert not (folder / WRITTEN).exists()


async def test_a_template_that_is_wrong_or_cannot_be_read_is_told(
    selection: Selection, folder: Path, tmp_path: Path
) -> None:
    template = tmp_path / "template"
    template.write_text('{"name": "{{.PodCIDR}}"}')
    with pytest.raises(InvalidArgument, match="template: makes a configuration that has a name that is none"):
        selection.write_template(("10.1.0.0/24",))
    template.write_bytes(b"\xff")
    with pytest.raises(HostFault, match="is no text"):
        selection.write_template(("10.1.0.0/24",))
    template.unlink()
    with pytest.raises(HostFault, match="ENOENT"):
        selection.write_template(("10.1.0.0/24",))
    template.write_text(TEMPLATE)
    folder.write_text("in the way")
    with pytest.raises(HostFault, match="write the CNI configuration"):
        selection.write_template(("10.1.0.0/24",))
    folder.unlink()
