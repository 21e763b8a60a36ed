"""What pods were attached with, on disk."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from network.cni.cache import Cache, Entry, decode, encode
from network.cni.conf import parse_list
from network.cni.result import parse
from runtime.errors import HostFault

ID = "ab" * 32
CONF = parse_list({"cniVersion": "0.4.0", "name": "net", "plugins": [{"type": "bridge", "ipam": {"x": [1]}}]})
RESULT = parse({"ips": [{"version": "4", "address": "10.0.0.2/24"}]}, "0.4.0")
ENTRY = Entry(
    sandbox_id=ID, conf=CONF, netns="/ns", arguments={"IgnoreUnknown": "1"}, capabilities={"dns": {"servers": ["x"]}}
)


def test_what_is_written_is_read_back_without_and_with_result(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cni")
    assert cache.ids() == () and cache.read(ID) is None and not cache.is_used()
    cache.write(ENTRY)
    assert cache.read(ID) == ENTRY
    cache.write(replace(ENTRY, result=RESULT))
    found = cache.read(ID)
    assert found is not None and found.result is not None
    assert found.result.addresses("eth0") == ("10.0.0.2",)
    assert cache.ids() == (ID,)
    cache.remove(ID)
    cache.remove(ID)
    assert cache.ids() == () and cache.read(ID) is None and cache.is_used()
    Cache(tmp_path / "never").remove(ID)


def test_folder_and_file_are_private(tmp_path: Path) -> None:
    Cache(tmp_path / "cni").write(ENTRY)
    assert stat.S_IMODE((tmp_path / "cni").stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "cni").iterdir()] == [0o600]


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(tmp_path / "cni")
    cache.write(ENTRY)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(HostFault, match=f"record the attachment: .*{ID}.json: no space left"):
        cache.write(replace(ENTRY, result=RESULT))
    monkeypatch.undo()
    assert cache.read(ID) == ENTRY
    assert os.listdir(tmp_path / "cni") == [f"{ID}.json"]


@pytest.mark.parametrize(
    "text", [b"", b"{}", b"[]", b"{", b"\0" * 100, encode(ENTRY)[:50], b'{"format": 2}', b"[" * 99999]
)
def test_a_file_that_is_not_what_was_written_is_told(tmp_path: Path, text: bytes) -> None:
    cache = Cache(tmp_path / "cni")
    cache.write(ENTRY)
    (tmp_path / "cni" / f"{ID}.json").write_bytes(text)
    with pytest.raises(HostFault, match="is not what was written"):
        cache.read(ID)
    assert cache.ids() == (ID,)


def test_a_network_that_would_not_be_accepted_is_not_read_either() -> None:
    with pytest.raises(ValueError, match="no plugin's name"):
        decode(encode(ENTRY).replace(b'"bridge"', b'"../sh"'))
    with pytest.raises(ValueError, match="has no address"):
        decode(encode(replace(ENTRY, result=RESULT)).replace(b"10.0.0.2/24", b"10.0.0.2/99"))


def test_what_cannot_be_opened_or_removed_is_the_hosts_fault(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cni")
    (tmp_path / "cni" / f"{ID}.json").mkdir(parents=True)
    with pytest.raises(HostFault, match=r"read the attachment.*EISDIR"):
        cache.read(ID)
    with pytest.raises(HostFault, match="forget the attachment"):
        cache.remove(ID)


def test_other_files_are_nobodys(tmp_path: Path) -> None:
    Cache(tmp_path / "cni").write(ENTRY)
    for name in ("README", "x.json", f"{ID}.partial", f"{ID}.json~"):
        (tmp_path / "cni" / name).touch()
    assert Cache(tmp_path / "cni").ids() == (ID,)


def test_two_that_are_the_first_at_once_are_both_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, answers = Cache(tmp_path / "cni"), iter([False])
    (tmp_path / "cni").mkdir()  # by the other, after this one has looked
    monkeypatch.setattr(Path, "is_dir", lambda path: next(answers, True))
    cache.write(ENTRY)
    assert cache.ids() == (ID,)


def test_what_a_killed_daemon_had_begun_to_write_is_discarded_and_what_is_whole_stays(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cni")
    cache.discard_partial()
    cache.write(ENTRY)
    (tmp_path / "cni" / f"{'cd' * 32}.partial").write_text("{")
    cache.discard_partial()
    assert os.listdir(tmp_path / "cni") == [f"{ID}.json"]
