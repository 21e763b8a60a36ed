"""A profile of the node's is in force as it was read, or the container is not there (R11)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from proto import api_pb2 as api
from tests.security.attacks import Attacked, Code, refused, status_of

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.leaks("module")]

PROFILE = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}
TRY = "mkdir /tmp/made && echo made"


def with_profile(crisp: Attacked, path: Path, *command: str) -> api.ContainerConfig:
    config = crisp.attacker(*command)
    seccomp = config.linux.security_context.seccomp
    seccomp.profile_type, seccomp.localhost_ref = api.SecurityProfile.Localhost, str(path)
    return config


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    (tmp_path / "profile.json").write_text(json.dumps(PROFILE))
    return tmp_path / "profile.json"


def exchange(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


CHANGES: dict[str, Callable[[Path], object]] = {
    "is empty": lambda path: path.write_text(""),
    "is gone": lambda path: path.unlink(),
    "allows everything": lambda path: path.write_text('{"defaultAction": "SCMP_ACT_ALLOW"}'),
    "is a directory": lambda path: exchange(path, lambda path: path.mkdir()),
    "is a pipe": lambda path: exchange(path, os.mkfifo),
    "is a link to a device": lambda path: exchange(path, lambda path: path.symlink_to("/dev/zero")),
}


@pytest.mark.parametrize("how", sorted(CHANGES))
async def test_a_profile_that_changes_after_the_creation_changes_nothing(
    how: str, crisp: Attacked, profile: Path
) -> None:
    """CVE-2023-2431: what is read again and is not there is no filter at all, the weak variant; here the container
    has what it was created with, and so have the commands in it."""
    pod = await crisp.run_pod()
    weak = crisp.attacker("sh", "-c", TRY)
    weak.linux.security_context.seccomp.profile_type = api.SecurityProfile.Unconfined
    assert await crisp.output(pod, weak) == ["made"]
    id = await crisp.create(pod, with_profile(crisp, profile, "sh", "-c", f"{TRY}; sleep 1000"))
    CHANGES[how](profile)
    await crisp.start(id)
    assert status_of(crisp.pid(id))["Seccomp"] == "2"
    for _ in range(2):
        assert "Operation not permitted" in await crisp.say(id, "sh", "-c", TRY)
    assert not os.path.exists(f"/proc/{crisp.pid(id)}/root/tmp/made")


FP = Code.FAILED_PRECONDITION
BAD: dict[str, tuple[Code, Callable[[Path], object]]] = {
    "is empty": (FP, lambda path: path.write_text("")),
    "is no JSON": (FP, lambda path: path.write_text("{")),
    "has no action": (FP, lambda path: path.write_text("{}")),
    "has an unknown action": (FP, lambda path: path.write_text('{"defaultAction": "NONE"}')),
    "has a key twice": (FP, lambda path: path.write_text('{"defaultAction": "SCMP_ACT_ERRNO", "defaultAction": ""}')),
    "is too large": (Code.RESOURCE_EXHAUSTED, lambda path: path.write_text(json.dumps(PROFILE) + " " * (20 << 20))),
    "is a pipe": (FP, lambda path: exchange(path, os.mkfifo)),
    "is a directory": (FP, lambda path: exchange(path, lambda path: path.mkdir())),
    "is a device": (FP, lambda path: exchange(path, lambda path: path.symlink_to("/dev/zero"))),
    "is gone": (Code.NOT_FOUND, lambda path: path.unlink()),
}


@pytest.mark.parametrize("how", sorted(BAD))
async def test_a_bad_profile_is_refused_and_never_left_out(how: str, crisp: Attacked, profile: Path) -> None:
    """CVE-2023-2431: a file that is no profile fails the creation, quickly."""
    code, change = BAD[how]
    change(profile)
    await refused(crisp.create(await crisp.run_pod(), with_profile(crisp, profile, "true")), code)
