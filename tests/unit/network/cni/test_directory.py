"""Which of the configurations in a folder is in force."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from network.cni.directory import list_files, read_directory


def put(folder: Path, file: str, **changes: Any) -> None:
    document = {"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "bridge"}], **changes}
    (folder / file).write_text(json.dumps(document))


def test_the_first_file_in_order_wins(tmp_path: Path) -> None:
    put(tmp_path, "20-b.conflist", name="second")
    put(tmp_path, "10-a.conflist", name="first")
    put(tmp_path, "00-notes.txt", name="none")
    reading = read_directory(str(tmp_path))
    assert reading.conf is not None and reading.conf.name == "first"
    assert (reading.file, reading.problem, reading.notes) == (f"{tmp_path}/10-a.conflist", "", ())


def test_a_malformed_first_file_is_told_and_the_next_does_not_take_its_place(tmp_path: Path) -> None:
    put(tmp_path, "20-b.conflist")
    (tmp_path / "10-a.conflist").write_text('{"cniVersion": "1.0.0",')
    reading = read_directory(str(tmp_path))
    assert reading.conf is None
    assert reading.problem.startswith(f"{tmp_path}/10-a.conflist is not JSON: ")


def test_two_files_with_one_networks_name_are_told(tmp_path: Path) -> None:
    put(tmp_path, "10-a.conflist")
    put(tmp_path, "20-b.conflist")
    put(tmp_path, "30-c.conflist", name="other")
    (tmp_path / "40-d.conf").write_text("{")
    reading = read_directory(str(tmp_path))
    assert reading.conf is not None
    assert reading.notes == ("10-a.conflist, 20-b.conflist all have the network 'net'; the first wins",)


def test_no_folder_and_no_file_are_told_apart(tmp_path: Path) -> None:
    assert read_directory(str(tmp_path / "none")).problem == f"there is no folder {tmp_path}/none"
    empty = read_directory(str(tmp_path))
    assert (empty.conf, empty.file) == (None, "")
    assert empty.problem == f"there is no configuration (.conflist, .conf, .json) in {tmp_path}"


def test_a_link_is_followed_and_what_is_no_file_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "real")
    (tmp_path / "10-a.conflist").symlink_to("real")
    assert read_directory(str(tmp_path)).conf is not None
    os.mkfifo(tmp_path / "05-a.conflist")
    assert "05-a.conflist is no regular file" in read_directory(str(tmp_path)).problem
    (tmp_path / "04-a.conf").mkdir()
    assert "04-a.conf is no regular file" in read_directory(str(tmp_path)).problem
    (tmp_path / "03-a.conf").symlink_to("nowhere")
    assert "03-a.conf cannot be read: no such file" in read_directory(str(tmp_path)).problem


@pytest.mark.parametrize("names", [["B.conf", "a.conf"], ["10.conf", "9.conf"], ["a.conf", "é.conf"]])
def test_the_order_is_that_of_bytes(tmp_path: Path, names: list[str]) -> None:
    for name in reversed(names):
        put(tmp_path, name)
    assert list_files(str(tmp_path)) == names
