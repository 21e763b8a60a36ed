"""One daemon a root: who holds the lock is named, and a stale file refuses nobody."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cri.root_lock import RootLock, StateLock, refuse_held_root
from runtime.errors import FailedPrecondition, HostFault


def test_a_second_one_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    first = RootLock(tmp_path)
    assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
    with pytest.raises(FailedPrecondition, match=rf"another crisp daemon \(pid {os.getpid()}\) uses this root"):
        RootLock(tmp_path)
    first.release()
    first.release()
    RootLock(tmp_path).release()


def test_a_file_that_nobody_holds_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("123456789 and more\n")
    lock = RootLock(tmp_path)
    assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
    lock.release()


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to("elsewhere")
    with pytest.raises(HostFault, match="lock"):
        RootLock(tmp_path)
    assert not (tmp_path / "elsewhere").exists()


def test_a_root_that_is_missing_is_a_fault_of_the_host(tmp_path: Path) -> None:
    with pytest.raises(HostFault, match="ENOENT"):
        RootLock(tmp_path / "missing")


def test_a_root_that_is_held_is_told_to_who_asks_and_nothing_is_made(tmp_path: Path) -> None:
    refuse_held_root(tmp_path / "missing")
    refuse_held_root(tmp_path)
    assert os.listdir(tmp_path) == []
    lock = RootLock(tmp_path)
    with pytest.raises(FailedPrecondition, match=rf"pid {os.getpid()}\) uses this root"):
        refuse_held_root(tmp_path)
    lock.release()
    refuse_held_root(tmp_path)


def test_a_state_directory_that_another_root_uses_is_refused(tmp_path: Path) -> None:
    lock = StateLock(tmp_path, "/one")
    for root in ("/one", "/two"):
        with pytest.raises(FailedPrecondition, match="is used by the crisp instance with the root /one"):
            StateLock(tmp_path, root)
    lock.release()
    lock.release()


def test_a_state_directory_with_pods_of_another_root_is_refused_and_an_empty_one_taken_over(tmp_path: Path) -> None:
    StateLock(tmp_path, "/one").release()
    StateLock(tmp_path, "/two").release()
    (tmp_path / "pods" / "0123").mkdir(parents=True)
    with pytest.raises(FailedPrecondition, match="has pods of the crisp instance with the root /two"):
        StateLock(tmp_path, "/one")
    StateLock(tmp_path, "/two").release()
    (tmp_path / "pods" / "0123").rmdir()
    StateLock(tmp_path, "/one").release()
