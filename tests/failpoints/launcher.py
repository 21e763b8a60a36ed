"""Daemons that start in half the time: forked from a process that has imported all they need.

A restart is most of what a case with a kill costs, and importing most of a restart.
``python -m tests.failpoints.launcher`` is that process; ``Launcher`` is a test's end of
it, and ``Forked`` looks to a test like a ``subprocess.Popen``.

Invariant: the process never has a second thread, nor anything of gRPC but its modules.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import IO, Any


class Forked:
    """A daemon; the parts of ``subprocess.Popen`` that are needed."""

    def __init__(self, launcher: Launcher, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._launcher = launcher

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._launcher.ask(poll=self.pid)
        return self.returncode

    def wait(self, timeout: float) -> int:
        until = time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired(f"daemon {self.pid}", timeout)
            time.sleep(0.002)
        return status

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def _signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


class Launcher:
    """The process; ``close`` ends it."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.failpoints.launcher"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def start(self, argv: list[str], environment: dict[str, str], log: str, plant: str) -> Forked:
        """The daemon of the command line ``argv``, with ``environment`` alone; it writes to the file ``log``
        and executes ``plant`` (Python) before it begins."""
        return Forked(self, self.ask(argv=argv, environment=environment, log=log, plant=plant))

    def ask(self, **request: Any) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()
        self._process.wait(30)


def serve(requests: IO[str], answers: IO[str]) -> None:
    """Until the test's end is closed."""
    from cri import __main__, daemon  # noqa: F401 - what takes so long

    for line in requests:
        request = json.loads(line)
        answer = poll(request["poll"]) if "poll" in request else fork(request, __main__.main)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def poll(pid: int) -> int | None:
    """As ``Popen.poll``; asked once more after the end it is an error."""
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def fork(request: dict[str, Any], main: Any) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 99
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDONLY)
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for target, source in enumerate((null, log, log)):
            os.dup2(source, target)
        os.closerange(3, 64)
        os.environ.clear()
        os.environ.update(request["environment"])
        exec(request["plant"], {})  # noqa: S102 - a test's own text
        status = main(request["argv"])
        sys.stderr.flush()
    finally:
        os._exit(status)


if __name__ == "__main__":
    serve(sys.stdin, sys.stdout)
