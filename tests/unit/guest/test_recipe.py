"""What the guest is made of: the parts fit each other, and the cache's key follows them."""

from __future__ import annotations

import configparser
import shutil
from pathlib import Path

import pytest

from tests.guest import recipe
from tests.guest.image import Image
from tests.guest.machine import plan_command
from tests.tree import ROOT


def test_what_is_enabled_is_not_masked_and_each_unit_of_ours_has_a_file() -> None:
    assert not set(recipe.ENABLED) & set(recipe.MASKED)
    ours = [name for name in recipe.ENABLED if not name.startswith("systemd-")]
    files = {Path(name).name for name in recipe.FILES} | {recipe.UNIT.name}
    assert set(ours) <= files


def test_what_goes_onto_the_disk_is_there() -> None:
    assert [name for name in recipe.SOURCES if not (ROOT / name).exists()] == []


def test_the_key_follows_the_lock_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = recipe.key()
    assert recipe.key() == before and len(before) == 16
    lock = tmp_path / "lock"
    shutil.copy(recipe.LOCK, lock)
    monkeypatch.setattr(recipe, "LOCK", lock)
    assert recipe.key() == before
    lock.write_text(lock.read_text() + "more==1\n")
    assert recipe.key() != before


def test_the_emulator_may_change_no_disk_and_reach_no_network() -> None:
    image = Image(Path("/k"), Path("/root.img"), Path("/swap.img"))
    words = plan_command(image, Path("/sources.img"), Path("/console"), Path("/agent"))
    drives = [words[at + 1] for at, word in enumerate(words) if word == "-drive"]
    assert len(drives) == 3 and all("snapshot=on" in drive for drive in drives)
    (network,) = [words[at + 1] for at, word in enumerate(words) if word == "-netdev"]
    assert "restrict=on" in network


def test_the_unit_lets_pods_live_on_and_gives_the_daemon_no_namespace_of_its_own() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(recipe.UNIT.read_text())
    service = dict(unit["Service"])
    wanted = {"Type": "notify", "KillMode": "process", "Delegate": "yes", "OOMPolicy": "continue"}
    assert {key: service.get(key) for key in wanted} == wanted
    namespaces = ("Private", "Protect", "ReadOnly", "ReadWrite", "Inaccessible", "MountFlags", "RootDirectory")
    assert not [key for key in service if key.startswith((*namespaces, "RuntimeDirectory"))]
