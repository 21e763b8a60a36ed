"""deploy/install-deps against a stand-in for apt-get: what it asks for, and when it refuses."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tree import ROOT

SCRIPT = ROOT / "deploy/install-deps"
TOOLS = ("sh", "grep", "mktemp", "cat", "rm", "chmod", "test")
APT = '#!/bin/sh\necho "$@" >>{log}\ntest -x "$POLICY_RC_D" && ! "$POLICY_RC_D" || exit 1\nexit {status}\n'


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A folder for PATH with few programs: no compiler, no busybox, and root by name."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in TOOLS:
        (folder / name).symlink_to(shutil.which(name) or f"/usr/bin/{name}")
    write(folder / "python3", f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    write(folder / "id", "#!/bin/sh\necho 0\n")
    return folder


def write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def run(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": str(path), "PYTHON": "python3", "TMPDIR": os.environ.get("TMPDIR", "/tmp")}
    environment["POLICY_RC_D"] = str(path / "policy-rc.d")
    command = ["/bin/sh", str(SCRIPT), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def apt(folder: Path, status: int = 0) -> Path:
    log = folder.parent / "apt.log"
    write(folder / "apt-get", APT.format(log=log, status=status))
    return log


def test_what_is_missing_is_named_with_a_reason_and_installed(bare: Path) -> None:
    log = apt(bare)
    done = run(bare)
    assert done.returncode == 0, done.stderr
    assert "  gcc: compiles launch and pause, the first programs of a pod\n" in done.stdout
    update, install = log.read_text().splitlines()
    assert update.endswith("update")
    assert " install --no-install-recommends " in install and " -y " in install
    assert {"gcc", "busybox"} <= set(install.split()) and "docker-registry" not in install
    assert not (bare / "policy-rc.d").exists()  # apt-get has seen that it says no


def test_tests_need_more_than_running_does(bare: Path) -> None:
    log = apt(bare)
    assert run(bare, "--test").returncode == 0
    assert "docker-registry" in log.read_text().splitlines()[1].split()


def test_the_guest_needs_an_emulator_which_nothing_else_does(bare: Path) -> None:
    log = apt(bare)
    assert run(bare, "--test").returncode == run(bare, "--guest").returncode == 0
    _, for_tests, _, for_guest = log.read_text().splitlines()
    assert "qemu-system-x86" in for_guest.split() and "docker-registry" not in for_guest.split()
    assert "qemu-system-x86" not in for_tests.split()


def test_a_user_who_is_not_root_is_told_what_root_has_to_do(bare: Path) -> None:
    log = apt(bare)
    write(bare / "id", "#!/bin/sh\necho 1000\n")
    done = run(bare)
    assert done.returncode == 1
    assert "only root can install them: apt-get install" in done.stderr
    assert not log.exists()


def test_a_system_without_apt_is_told_what_is_missing(bare: Path) -> None:
    done = run(bare)
    assert done.returncode == 1
    assert "this system has no apt-get" in done.stderr
    assert "  busybox: " in done.stdout


def test_a_failed_installation_is_told_as_such(bare: Path) -> None:
    apt(bare, status=100)
    done = run(bare)
    assert done.returncode == 1
    assert "apt-get could not install: " in done.stderr


def test_a_python_that_is_too_old_is_refused(bare: Path) -> None:
    write(bare / "python3", '#!/bin/sh\ncase "$*" in *sys.version_info*) exit 1;; -V) echo Python 3.9.2;; esac\n')
    apt(bare)
    done = run(bare)
    assert done.returncode == 1
    assert "python3 is Python 3.9.2; crisp needs Python 3.11 or newer" in done.stderr


def test_an_unknown_option_is_refused(bare: Path) -> None:
    done = run(bare, "--all")
    assert (done.returncode, done.stderr) == (2, "usage: deploy/install-deps [--test | --guest]\n")
