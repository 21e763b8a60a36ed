"""The zygote forks what it is asked for, stays small and single, and ends with its daemon."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime import channel, zygote
from runtime.errors import FailedPrecondition, Fault, InvalidArgument, NotSupported
from runtime.pause import PAUSE
from runtime.zygote import Zygote

pytestmark = pytest.mark.skipif(not os.path.exists(PAUSE), reason="needs runtime/pause: run `make install`")


class Daemon:
    """The near end of a zygote in a forked child of the test; without rehearsal, to be quick."""

    def __init__(self, begin: Callable[[channel.Socket], Zygote]) -> None:
        self.near, far = channel.pair()
        self.near.settimeout(30)
        self.pid = os.fork()
        if self.pid == 0:
            self.near.close()
            with contextlib.suppress(BaseException):
                begin(far).serve()
            os._exit(0)
        far.close()

    def ask(self, op: str, args: Any = None, descriptors: list[int] | None = None) -> tuple[Any, list[int]]:
        channel.send(self.near, channel.request(1, op, args or {}), descriptors or [])
        received = channel.receive(self.near)
        assert received is not None
        return channel.result_of(received[0]), received[1]

    def end(self) -> int:
        self.near.close()
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]) if self.pid else 0
        self.pid = 0
        return code


def settled(far: channel.Socket) -> Zygote:
    return Zygote(zygote.settle(os.dup(far.fileno())))


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    made = Daemon(settled)
    yield made
    assert made.end() == 0


def talk(descriptor: int) -> channel.Socket:
    sock = channel.Socket(fileno=descriptor)
    sock.settimeout(30)
    return sock


def said(sock: channel.Socket) -> Any:
    """The one message of a worker, or the next reply."""
    received = channel.receive(sock)
    assert received is not None
    assert received[1] == []
    return channel.result_of(received[0])


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def test_it_answers_a_ping(daemon: Daemon) -> None:
    assert daemon.ask("ping") == ({"pid": daemon.pid}, [])


def test_it_forks_a_monitor_that_serves_and_ends(daemon: Daemon, tmp_path: Path) -> None:
    result, (descriptor,) = daemon.ask("fork_monitor", {"sandbox": "s", "directory": str(tmp_path)})
    sock = talk(descriptor)
    channel.send(sock, channel.request(1, "hello", {}))
    hello = said(sock)
    assert (hello["pid"], hello["sandbox"]) == (result["pid"], "s")
    assert Path(f"/proc/{result['pid']}/comm").read_text() == "crisp-monitor\n"
    assert os.getsid(result["pid"]) == result["pid"]
    channel.send(sock, channel.request(2, "shutdown", {}))
    said(sock)
    sock.close()
    wait_until(lambda: not os.path.exists(f"/proc/{result['pid']}"))  # reaped, by the zygote


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_monitor_has_nothing_of_the_zygotes(daemon: Daemon, tmp_path: Path) -> None:
    result, (descriptor,) = daemon.ask("fork_monitor", {"sandbox": "s", "directory": str(tmp_path)})
    sock = talk(descriptor)
    channel.send(sock, channel.request(1, "hello", {}))
    said(sock)
    links = [os.readlink(f"/proc/{result['pid']}/fd/{fd}") for fd in os.listdir(f"/proc/{result['pid']}/fd")]
    # Its first connection and its listener are the only sockets, the wakeup the only pipe.
    assert sum(link.startswith("socket:") for link in links) == 2
    assert len({link for link in links if link.startswith("pipe:")}) == 1
    assert status(result["pid"])["Threads"] == "1"
    sock.close()  # a blank monitor ends with its daemon
    wait_until(lambda: not os.path.exists(f"/proc/{result['pid']}"))


def test_a_monitor_survives_the_zygote(tmp_path: Path) -> None:
    daemon = Daemon(settled)
    result, (descriptor,) = daemon.ask("fork_monitor", {"sandbox": "s", "directory": str(tmp_path)})
    os.kill(daemon.pid, signal.SIGKILL)
    os.waitpid(daemon.pid, 0)
    assert channel.receive(daemon.near) is None  # no copy of its end is held by the monitor
    daemon.near.close()
    sock = talk(descriptor)
    channel.send(sock, channel.request(1, "hello", {}))
    assert said(sock)["pid"] == result["pid"]
    sock.close()


def test_a_directory_that_is_missing_is_told(daemon: Daemon, tmp_path: Path) -> None:
    with pytest.raises(Fault, match="absent"):
        daemon.ask("fork_monitor", {"sandbox": "s", "directory": str(tmp_path / "absent")})
    daemon.ask("ping")


def test_a_worker_runs_the_function_with_its_descriptors(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "doomed/deep").mkdir(parents=True)
    directory = os.open(tmp_path, os.O_RDONLY)
    args = {"entry": "runtime.images.worker:delete_tree", "args": {"name": "doomed", "duty": 1.0}}
    result, (descriptor, pidfd) = daemon.ask("fork_worker", args, [directory])
    sock = talk(descriptor)
    said(sock)
    assert not (tmp_path / "doomed").exists()
    sock.close()
    os.close(pidfd)
    os.close(directory)
    wait_until(lambda: not os.path.exists(f"/proc/{result['pid']}"))


def test_what_a_worker_raises_is_told(daemon: Daemon) -> None:
    _, (descriptor, pidfd) = daemon.ask("fork_worker", {"entry": "runtime.images.worker:absent", "args": {}})
    sock = talk(descriptor)
    with pytest.raises(Fault, match="absent"):
        said(sock)
    sock.close()
    os.close(pidfd)


@pytest.mark.parametrize("entry", ["os:system", "runtime.images.worker", "runtimes.x:y", "runtime.x:a.b", ":x"])
def test_only_functions_of_runtime_are_run(daemon: Daemon, entry: str) -> None:
    with pytest.raises(InvalidArgument, match="no entry of a worker"):
        daemon.ask("fork_worker", {"entry": entry, "args": {}})


def test_a_worker_is_called_by_name_and_never_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    def play(args: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
        if args:
            raise FailedPrecondition("no layer")
        return {"descriptors": descriptors}

    monkeypatch.setattr(zygote, "played", play, raising=False)
    monkeypatch.setattr(os, "setsid", lambda: None)
    monkeypatch.setattr(zygote, "set_name", lambda name: None)
    old = {number: signal.getsignal(number) for number in (signal.SIGCHLD, *zygote.IGNORED)}
    try:
        assert zygote.run_worker("runtime.zygote", "played", {}, [5]) == {"ok": {"descriptors": [5]}}
        refused = zygote.run_worker("runtime.zygote", "played", {"x": 1}, [])
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
    assert refused["error"]["kind"] == "FailedPrecondition"


def test_an_unknown_operation_is_refused(daemon: Daemon) -> None:
    with pytest.raises(NotSupported):
        daemon.ask("fly")


def test_garbage_ends_it() -> None:
    daemon = Daemon(settled)
    daemon.near.sendall(b"{")
    assert channel.receive(daemon.near) is None
    assert daemon.end() == 0


def test_many_requests_in_a_row_are_each_answered(daemon: Daemon) -> None:
    for number in range(20):
        channel.send(daemon.near, channel.request(number, "ping", {}))
    seen = set()
    for _ in range(20):
        received = channel.receive(daemon.near)
        assert received is not None
        seen.add(received[0]["id"])
    assert seen == set(range(20))
    wait_until(lambda: Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text() == "")


def links(pid: int) -> list[str]:
    """What the descriptors of a process are; one that closes meanwhile is left out."""
    found = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return found


def test_it_keeps_three_descriptors_and_its_socket(daemon: Daemon) -> None:
    daemon.ask("ping")
    wait_until(lambda: sum(link.startswith("socket:") for link in links(daemon.pid)) == 1)  # those of its answer close
    assert links(daemon.pid).count("/dev/null") >= 2
    assert status(daemon.pid)["Threads"] == "1"
    assert Path(f"/proc/{daemon.pid}/comm").read_text() == "crisp-zygote\n"


def test_a_failed_rehearsal_is_said_and_survived(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_rounds: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(zygote, "rehearse", refuse)
    monkeypatch.setattr(zygote, "fill_holes", lambda: None)
    zygote.warm_up()
    assert "pods will need more memory: [Errno 1]" in capfd.readouterr().err


def test_main_serves_a_warm_zygote() -> None:
    near, far = channel.pair()
    near.settimeout(30)
    pid = os.fork()
    if pid == 0:
        near.close()
        zygote.main(os.dup(far.fileno()))
    far.close()
    channel.send(near, channel.request(1, "ping", {}))
    assert said(near) == {"pid": pid}
    near.close()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
