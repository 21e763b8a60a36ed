"""``crisp fsck``: through the daemon, or with the root's lock when there is none."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import cri
from cri.fsck import Finding
from cri.settings import instance
from proto import admin_pb2 as pb
from runtime.errors import FailedPrecondition, HostFault

LEFT = pb.Finding(kind="cgroup", object="/crisp-0/ab", message="belongs to no pod")
GONE = pb.Finding(kind="cgroup", object="/crisp-0/ab", message="belongs to no pod", repaired=True)
STUCK = pb.Finding(kind="mount", object="/m", message="belongs to no pod", error="busy")


@pytest.fixture(autouse=True)
def its_root(request: pytest.FixtureRequest, state: Path) -> None:
    if "admin" in request.fixturenames:
        request.getfixturevalue("admin").info.instance = instance(f"{state}/root")


def test_a_daemon_of_another_root_is_not_asked(
    admin: Any, crisp: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    admin.info.instance, admin.info.settings_json = "0123abcd", '{"root": "/srv/other"}'
    assert crisp("fsck") == 2
    assert "serves /srv/other; name the state directory, too" in capsys.readouterr().err
    assert [type(request) for request in admin.asked] == [pb.DaemonInfoRequest]


def test_nothing_wrong_is_status_0(admin: Any, crisp: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert crisp("fsck") == 0
    assert capsys.readouterr().out == "nothing is wrong\n"
    assert admin.asked[-1].repair is False


def test_what_is_left_is_status_1(admin: Any, crisp: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    admin.findings = [LEFT]
    assert crisp("fsck") == 1
    assert "/crisp-0/ab  belongs to no pod" in capsys.readouterr().out


def test_what_was_repaired_is_status_0(
    admin: Any, crisp: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    admin.findings = [GONE]
    assert crisp("fsck", "--repair") == 0
    assert admin.asked[-1].repair is True
    assert capsys.readouterr().out.rstrip().endswith("repaired")


def test_a_repair_that_failed_says_why(
    admin: Any, crisp: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    admin.findings = [GONE, STUCK]
    assert crisp("fsck", "--repair", "--output=json") == 1
    found = json.loads(capsys.readouterr().out)
    assert found[1] == {"kind": "mount", "object": "/m", "message": STUCK.message, "repaired": False, "error": "busy"}
    assert crisp("fsck") == 1
    assert "not repaired: busy" in capsys.readouterr().out


class Offline:
    """In place of the daemon's parts: what ``fsck`` builds and asks without a daemon."""

    stuck = Finding("mount", "/m", "belongs to no pod", error="busy")

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.refuse: Exception | None = None
        live = SimpleNamespace(id="live", monitor=SimpleNamespace(pid=1, start_time=2), pause_pid=3)
        lost = SimpleNamespace(id="lost", monitor=SimpleNamespace(pid=4, start_time=5), pause_pid=0)
        bare = SimpleNamespace(id="bare", monitor=None, pause_pid=0)
        self.host = SimpleNamespace(
            store=SimpleNamespace(sandboxes=[live, lost, bare]),
            supervisor=SimpleNamespace(connect_monitor=self.connect),
            pod_directory=lambda id: Path("/pods") / id,
            pods={},
        )

    async def build(self, settings: Any, undo: Any, *, looking: bool) -> Any:
        if self.refuse:
            raise self.refuse
        undo.callback(self.calls.append, "closed")
        self.calls.append(f"built, metrics {settings.metrics!r}, looking {looking}")
        return self.host

    async def recover(self, _host: Any) -> None:
        self.calls.append("recovered")

    async def fsck(self, host: Any, *, repair: bool) -> list[Finding]:
        self.calls.append(f"looked, repair {repair}, live {sorted(host.pods)}")
        return [Finding("lease", "10.0.0.2", "belongs to no pod"), self.stuck] if not repair else [self.stuck]

    async def connect(self, directory: str, pid: int, start_time: int) -> Any:
        if directory == "/pods/lost":
            raise HostFault("gone")
        return SimpleNamespace(pid=pid, close=lambda: self.calls.append(f"monitor {pid} {start_time} closed"))


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, state: Path) -> Offline:
    (state / "root").mkdir()
    parts = Offline()
    names: dict[str, dict[str, Any]] = {
        "assembly": {"build": parts.build},
        "recovery": {"recover": parts.recover},
        "fsck": {"fsck": parts.fsck},
        "host": {"LivePod": SimpleNamespace},
        "logs": {"configure": lambda _: None},
    }
    for name, attributes in names.items():
        stub = ModuleType(f"cri.{name}")
        vars(stub).update(attributes)
        if name == "host":
            stub.LivePod = lambda monitor, pause_pid: SimpleNamespace(  # type: ignore[attr-defined]
                monitor=monitor, pause_pid=pause_pid
            )
        monkeypatch.setitem(sys.modules, f"cri.{name}", stub)
        monkeypatch.setattr(cri, name, stub, raising=False)
    return parts


def test_without_a_daemon_it_looks_itself_and_changes_nothing(offline: Offline, crisp: Callable[..., int]) -> None:
    assert crisp("fsck") == 1
    assert offline.calls == ["built, metrics '', looking True", "looked, repair False, live ['live']", "closed"]
    assert offline.host.pods["live"].monitor.pid == 1
    assert offline.host.pods["live"].pause_pid == 3


def test_without_a_daemon_a_repair_recovers_first_and_tells_what_that_repaired(
    offline: Offline, crisp: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert crisp("fsck", "--repair", "--output=json") == 1
    looked = "looked, repair False, live ['live']"
    assert offline.calls[1:] == [looked, "monitor 1 2 closed", "recovered", "looked, repair True, live []", "closed"]
    lease, mount = json.loads(capsys.readouterr().out)
    assert (lease["object"], lease["repaired"]) == ("10.0.0.2", True)
    assert (mount["object"], mount["repaired"], mount["error"]) == ("/m", False, "busy")


def test_a_daemon_that_holds_the_root_is_not_disturbed(
    offline: Offline, crisp: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    offline.refuse = FailedPrecondition("another crisp daemon (pid 7) uses this root")
    assert crisp("fsck") == 1
    assert "pid 7" in capsys.readouterr().err


def test_a_root_that_is_not_there_is_told_and_not_made(
    offline: Offline, crisp: Callable[..., int], capsys: pytest.CaptureFixture[str], state: Path
) -> None:
    (state / "root").rmdir()
    assert crisp("fsck") == 1
    assert f"{state}/root: no such directory" in capsys.readouterr().err and offline.calls == []
