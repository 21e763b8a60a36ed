"""``crisp images import|list|remove``."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from cri.cli import images
from proto import admin_pb2 as pb

ID = "sha256:" + "ab" * 32
BUSYBOX = pb.StoredImage(id=ID, repo_tags=["docker.io/library/busybox:1", "b:2"], size=4_260_000, created_at=5)
BARE = pb.StoredImage(id="sha256:" + "cd" * 32, size=10, pinned=True)


def test_an_archive_travels_in_chunks_after_its_name(
    admin: Any, crisp: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "CHUNK", 4)
    (tmp_path / "a.tar").write_bytes(b"0123456789")
    admin.images = [BUSYBOX]
    assert crisp("images", "import", str(tmp_path / "a.tar"), "--name", "busybox:1") == 0
    [sent] = admin.asked
    assert sent[0].reference == "busybox:1"
    assert [request.chunk for request in sent[1:]] == [b"0123", b"4567", b"89"]


def test_an_archive_can_come_from_standard_input(
    admin: Any, crisp: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.tar").write_bytes(b"piped")
    with open(tmp_path / "a.tar", "rb") as archive:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(archive))
        assert crisp("images", "import", "-") == 0
    assert b"".join(request.chunk for request in admin.asked[0]) == b"piped"


def test_an_archive_that_is_not_there_is_wrong_usage(
    crisp: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert crisp("images", "import", "/nowhere.tar") == 2
    assert "open the archive: /nowhere.tar: no such file" in capsys.readouterr().err


def test_an_archive_that_is_refused_is_named(
    admin: Any, crisp: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "a.tar").write_bytes(b"garbage")
    admin.refuse = (grpc.StatusCode.FAILED_PRECONDITION, "read tar: a header: the stream ends too early")
    assert crisp("images", "import", str(tmp_path / "a.tar")) == 1
    assert f"crisp: {tmp_path}/a.tar: read tar: a header: the stream ends" in capsys.readouterr().err


def test_the_list_has_a_row_for_each_name(
    admin: Any, crisp: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    admin.images = [BUSYBOX, BARE]
    assert crisp("images", "list") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["IMAGE", "ID", "SIZE"],
        ["<none>", "cdcdcdcdcdcdc", "10", "B", "pinned"],
        ["b:2", "ababababababa", "4.26", "MB"],
        ["docker.io/library/busybox:1", "ababababababa", "4.26", "MB"],
    ]


def test_programs_get_json(admin: Any, crisp: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    admin.images = [BUSYBOX]
    assert crisp("images", "list", "--output=json") == 0
    assert json.loads(capsys.readouterr().out) == [
        {
            "id": ID,
            "repo_tags": ["docker.io/library/busybox:1", "b:2"],
            "repo_digests": [],
            "size": 4_260_000,
            "created_at": 5,
            "pinned": False,
        }
    ]


def test_removing_shows_what_went(admin: Any, crisp: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    admin.images = [BUSYBOX]
    assert crisp("images", "remove", "b:2") == 0
    assert admin.asked[0].image == "b:2"
    assert "ababababababa" in capsys.readouterr().out


def test_removing_what_is_not_there_fails(
    admin: Any, crisp: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    admin.refuse = (grpc.StatusCode.NOT_FOUND, "image x: does not exist")
    assert crisp("images", "remove", "x") == 1
    assert capsys.readouterr().err == "crisp: image x: does not exist\n"
