"""``crisp demo``: the story it tells, and that it leaves nothing however it ends."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from cri.cli import demo
from cri.settings import Settings
from runtime.errors import Unavailable

SERVE = """
import os, signal, socket, sys
with open(sys.argv[2], "w") as group:
    group.write(str(os.getpgid(0)))
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
signal.pause()
"""


class FakePod:
    """In place of ``DemoPod``."""

    sandbox_id, container_id = "ab" * 32, "cd" * 32

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.took = {"RunPodSandbox": 0.0042}
        self.fails: Exception | None = None

    def start(self, image: str) -> None:
        self.calls.append(f"start {image}")
        if self.fails:
            raise self.fails

    def first_line(self) -> str:
        return "hello from demo\x1b[2J"

    def remove_all(self) -> int:
        self.calls.append("remove")
        return 1


class Refused(grpc.RpcError):
    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.INTERNAL

    def details(self) -> str:
        return "mount: no"


@pytest.fixture
def pod(monkeypatch: pytest.MonkeyPatch) -> FakePod:
    fake = FakePod()
    monkeypatch.setattr("cri.cli.demo_pod.DemoPod", lambda channel, logs: fake)
    monkeypatch.setattr(demo, "import_image", lambda settings: "demo:latest")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return fake


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch, state: Path) -> Path:
    """A child that only listens; its process group is in the file returned."""
    command = [sys.executable, "-c", SERVE, f"{state}/crisp.sock", f"{state}/group"]
    monkeypatch.setattr(demo, "serve_command", lambda args: command)
    return state / "group"


def ended(group: Path) -> bool:
    with suppress(ProcessLookupError):
        os.killpg(int(group.read_text()), 0)
        return False
    return True


def test_the_pod_is_shown_and_then_removed(
    admin: Any, daemon: Path, pod: FakePod, crisp: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    assert crisp("demo", "--once") == 0
    assert pod.calls == ["remove", "start demo:latest", "remove"]
    shown = capfd.readouterr().out
    assert "log        hello from demo" in shown
    assert "\x1b" not in shown
    assert "RunPodSandbox 4.2 ms" in shown
    assert "BEGAN" in shown
    assert "crictl --runtime-endpoint unix://" in shown
    assert "exec -s cdcdcdcdcdcdc" in shown
    assert admin.asked[0].pod == pod.sandbox_id
    assert ended(daemon)
    assert not (daemon.parent / "demo").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_order(
    number: signal.Signals,
    admin: Any,
    daemon: Path,
    pod: FakePod,
    crisp: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waiting = threading.Event()
    watch = demo.watch

    def watch_once(daemon: subprocess.Popen[bytes]) -> None:
        waiting.set()
        watch(daemon)

    def interrupt() -> None:
        waiting.wait(10)
        time.sleep(0.05)
        os.kill(os.getpid(), number)

    monkeypatch.setattr(demo, "watch", watch_once)
    before = signal.getsignal(number)
    sender = threading.Thread(target=interrupt)
    sender.start()
    assert crisp("demo") == 0
    sender.join()
    assert pod.calls[-1] == "remove"
    assert ended(daemon)
    assert signal.getsignal(number) is before


def test_a_pod_that_fails_is_removed_and_told(
    admin: Any, daemon: Path, pod: FakePod, crisp: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    pod.fails = Refused()
    assert crisp("demo") == 1
    assert capsys.readouterr().err == "crisp: mount: no\n"
    assert pod.calls[-1] == "remove"
    assert ended(daemon)


def test_a_pod_that_cannot_be_removed_is_told(pod: FakePod, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse() -> int:
        raise Refused

    pod.remove_all = refuse  # type: ignore[method-assign]
    demo.leave(pod, "/run/crisp.sock")  # type: ignore[arg-type]
    assert "could not be removed: mount: no" in capsys.readouterr().err


def test_a_daemon_that_does_not_come_up_is_told(
    pod: FakePod, crisp: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "serve_command", lambda args: ["false"])
    assert crisp("demo") == 1
    assert "the daemon ended with status 1" in capsys.readouterr().err
    assert pod.calls == []


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("sys.exit(3)", "the daemon ended with status 3"),
        ("os.kill(os.getpid(), 9)", "the daemon was killed by SIGKILL"),
    ],
)
def test_a_daemon_that_ends_while_it_serves_is_told_at_once(
    end: str,
    words: str,
    admin: Any,
    pod: FakePod,
    state: Path,
    crisp: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    script = SERVE.replace("signal.pause()", f"listener.accept(); sys.stdin.buffer.read(); {end}")
    command = [sys.executable, "-c", script, f"{state}/crisp.sock", f"{state}/group"]
    monkeypatch.setattr(demo, "serve_command", lambda args: command)
    assert crisp("demo") == 1
    told = capsys.readouterr().err
    assert words in told
    assert "the next `crisp demo` removes" in told


def test_another_daemon_on_the_socket_is_left_alone(
    pod: FakePod, crisp: Callable[..., int], monkeypatch: pytest.MonkeyPatch, state: Path
) -> None:
    """Its pods too: a second demo must not remove those of the first."""
    with socket.socket(socket.AF_UNIX) as another:
        another.bind(f"{state}/crisp.sock")
        another.listen()
        monkeypatch.setattr(demo, "serve_command", lambda args: ["sh", "-c", "sleep 0.2; exit 1"])
        assert crisp("demo", "--once") == 1
    assert pod.calls == []


def test_a_daemon_that_never_serves_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch, state: Path) -> None:
    monkeypatch.setattr(demo, "START_WAIT", 0.05)
    settings = Settings(listen=f"unix://{state}/crisp.sock")
    with pytest.raises(Unavailable, match="does not serve after"), demo.serving(["sleep", "60"], settings):
        raise AssertionError("nobody serves")


def test_a_daemon_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch, state: Path) -> None:
    monkeypatch.setattr(demo, "STOP_WAIT", 0.1)
    ready = state / "ready"

    def wait_ready(path: str, daemon: subprocess.Popen[bytes]) -> None:
        while not ready.exists():
            time.sleep(0.01)

    monkeypatch.setattr(demo, "wait_socket", wait_ready)
    script = "import signal, sys; signal.signal(15, signal.SIG_IGN); open(sys.argv[1], 'w'); signal.pause()"
    with demo.serving([sys.executable, "-W", "ignore", "-c", script, str(ready)], Settings()) as daemon:
        pass
    assert daemon.returncode == -signal.SIGKILL


def test_without_root_it_says_so(
    crisp: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert crisp("demo") == 1
    assert "pods need root" in capsys.readouterr().err


def test_the_daemon_gets_the_demos_options() -> None:
    given = argparse.Namespace(config=None, root="/r", state="/s", listen="unix:///l", metrics="", log_level=None)
    assert demo.serve_command(given)[1:] == [
        "-m", "cri", "serve", "--root=/r", "--state=/s", "--listen=unix:///l", "--metrics=", "--log-level=warning",
    ]  # fmt: skip


def test_commands_to_type_name_the_place_only_if_it_is_not_the_usual(pod: FakePod) -> None:
    usual = demo.next_commands(Settings(), pod)  # type: ignore[arg-type]
    assert usual[0].endswith("crisp explain demo")
    assert usual[-1] == "curl http://127.0.0.1:9790/metrics"
    moved = demo.next_commands(Settings(root="/r", state="/s", metrics=""), pod)  # type: ignore[arg-type]
    assert moved[0].endswith("crisp explain --root /r --state /s demo")
    assert not any(command.startswith("curl") for command in moved)


def test_programs_that_are_not_there_are_said_with_their_source(
    admin: Any, pod: FakePod, state: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "crictl" else f"/usr/bin/{name}")
    demo.tell(Settings(state=str(state)), pod)  # type: ignore[arg-type]
    said = capsys.readouterr().out
    assert "crictl is not installed here: https://" in said
    assert "curl is not" not in said


def test_the_image_is_built_and_brought_in(admin: Any, state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if subprocess.run(["which", "busybox"], capture_output=True, check=False).returncode:
        pytest.skip("no busybox to build the image from")
    assert demo.import_image(Settings(state=str(state))) == "crisp.local/demo:latest"
    sent = b"".join(request.chunk for request in admin.asked[0])
    assert b"manifest.json" in sent
    assert "built and imported in" in capsys.readouterr().out
