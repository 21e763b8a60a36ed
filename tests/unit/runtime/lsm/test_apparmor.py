"""What the kernel has of AppArmor profiles, and how crisp's own gets there."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from runtime.errors import HostFault
from runtime.lsm import apparmor

LISTED = """\
unconfined-not-this (complain)
crisp-default (enforce)
/usr/bin/man (enforce)
with space (kill)
odd//hat (enforce)
"""


@pytest.fixture
def listed(tmp_path: Path) -> str:
    path = tmp_path / "profiles"
    path.write_text(LISTED)
    return str(path)


def parser(folder: Path, script: str) -> str:
    program = folder / "apparmor_parser"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


@pytest.mark.parametrize(
    ("name", "found"),
    [("crisp-default", True), ("/usr/bin/man", True), ("with space", True), ("odd//hat", True)]
    + [
        (name, False)
        for name in ("", "crisp", "crisp-default (enforce)", "unconfined", "unconfined-not-this (complain")
    ],
)
def test_a_profile_is_loaded_if_the_kernel_lists_exactly_its_name(listed: str, name: str, found: bool) -> None:
    assert apparmor.is_loaded(name, listed) == found


def test_without_a_list_nobody_can_tell(tmp_path: Path) -> None:
    with pytest.raises(HostFault) as raised:
        apparmor.is_loaded("x", str(tmp_path / "absent"))
    assert raised.value.errno == errno.ENOENT


def test_the_parser_gets_the_text_and_replaces_what_is_there(tmp_path: Path, listed: str) -> None:
    path = parser(tmp_path, f'echo "$@" > {tmp_path}/words; cat > {tmp_path}/text')
    apparmor.load_default(path, listed)
    assert (tmp_path / "words").read_text() == "--replace --skip-cache\n"
    assert "profile crisp-default " in (tmp_path / "text").read_text()


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo 'AppArmor parser error: syntax' >&2; exit 1", "AppArmor parser error: syntax"),
        ("cat > /dev/null; exit 3", "ended with status 3"),
        ("cat > /dev/null; echo > $0.gone", "the kernel does not list it"),
    ],
)
def test_why_it_cannot_be_loaded_is_told(tmp_path: Path, script: str, words: str) -> None:
    (tmp_path / "none").touch()
    with pytest.raises(HostFault, match=words):
        apparmor.load_default(parser(tmp_path, script), str(tmp_path / "none"))


def test_a_parser_that_is_missing_broken_or_hangs_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HostFault, match="install the package apparmor"):
        apparmor.load_default(str(tmp_path))
    assert apparmor.find_parser(str(tmp_path)) is None
    program = tmp_path / "apparmor_parser"
    program.write_bytes(b"\x7fELF")
    program.chmod(0o755)
    with pytest.raises(HostFault) as raised:
        apparmor.load_default(str(tmp_path))
    assert raised.value.errno == errno.ENOEXEC
    monkeypatch.setattr(apparmor, "_SECONDS", 0.05)
    with pytest.raises(HostFault, match="no end within"):
        apparmor.load_default(parser(tmp_path, "exec sleep 10"))
