"""The published crictl's streams against a real daemon: exec, attach, port-forward, over both transports.

    make conformance          (as root; or: python tests/conformance/crictl_streaming.py)

``crictl_session`` has crictl and the daemon.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator

from tests.conformance import crictl_smoke
from tests.conformance.crictl_session import PATIENCE, Failed, Session, Step, play
from tests.ports import free_port

MIB = 1024 * 1024
SIZE = 64 * MIB
TRANSPORTS = ("spdy", "websocket")
ECHO = "echo ready; while read -r line; do echo got $line; done; echo over"
SERVE = (
    "mkdir -p /www; dd if=/dev/urandom of=/www/file bs=1M count=64 2>/dev/null; "
    "httpd -p 127.0.0.1:8080 -h /www; echo ready; exec sleep 100000"
)


class Terminal:
    """A command on a pseudo terminal of ``rows`` and ``columns``."""

    def __init__(self, command: list[str], rows: int = 24, columns: int = 80) -> None:
        self.master, peer = pty.openpty()
        self.resize(rows, columns, tell=False)
        self.process = subprocess.Popen(command, stdin=peer, stdout=peer, stderr=peer, start_new_session=True)
        os.close(peer)
        self.seen = ""

    def resize(self, rows: int, columns: int, *, tell: bool = True) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        if tell:  # the terminal is not the controlling one of the command's session
            self.process.send_signal(signal.SIGWINCH)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def expect(self, text: str) -> str:
        """Read until ``text`` has appeared; what came before it, which is forgotten."""
        if not self.hears(text, PATIENCE):
            raise Failed(f"{text!r} did not appear; there was {self.seen!r}")
        before, _, self.seen = self.seen.partition(text)
        return before

    def hears(self, text: str, seconds: float) -> bool:
        """Read until ``text`` has appeared, or for so long."""
        until = time.monotonic() + seconds
        while text not in self.seen and time.monotonic() < until:
            self._read()
        return text in self.seen

    def _read(self) -> None:
        if select.select([self.master], [], [], 0.1)[0]:
            with contextlib.suppress(OSError):  # EIO: the command has closed it
                self.seen += os.read(self.master, 65536).decode(errors="replace")

    def close(self) -> int:
        """The command's status; it is killed if it does not end."""
        until = time.monotonic() + 10
        while self.process.poll() is None and time.monotonic() < until:
            self._read()
        if self.process.poll() is None:
            self.process.kill()
        status = self.process.wait()
        os.close(self.master)
        return status


@contextlib.contextmanager
def terminal(session: Session, *arguments: str, rows: int = 24, columns: int = 80) -> Iterator[Terminal]:
    found = Terminal(session.command(*arguments), rows, columns)
    try:
        yield found
    finally:
        found.close()


# ---------------------------------------------------------------------------- steps


def step_run(session: Session) -> None:
    crictl_smoke.step_images(session)
    session.pod = session("runp", session.pod_config())
    session.container = session.run_container("serving", SERVE)


def step_exec_tells_output_and_code(session: Session, transport: str) -> None:
    said = session("exec", "--transport", transport, session.container, "sh", "-c", "echo out; echo err >&2")
    assert said == "out", said
    with contextlib.suppress(Failed):
        session("exec", "--transport", transport, session.container, "sh", "-c", "exit 7")
        raise AssertionError("a command that fails has to fail crictl")


def step_exec_takes_a_file(session: Session, transport: str) -> None:
    data = os.urandom(MIB) * (SIZE // MIB)
    (session.folder / "data").write_bytes(data)
    command = session.command("exec", "-i", "--transport", transport)
    with open(session.folder / "data", "rb") as source:
        began = time.monotonic()
        done = subprocess.run(
            [*command, session.container, "sha256sum"], stdin=source, capture_output=True, timeout=120, check=True
        )
    took = time.monotonic() - began
    assert done.stdout.decode().split()[0] == hashlib.sha256(data).hexdigest(), done.stdout
    print(f"       {SIZE / MIB / took:.0f} MiB/s in, sha256sum included")


def step_exec_gives_a_file(session: Session, transport: str) -> None:
    expected = session("exec", "-s", session.container, "sha256sum", "/www/file").split()[0]
    command = session.command("exec", "--transport", transport)
    began = time.monotonic()
    done = subprocess.run(
        [*command, session.container, "cat", "/www/file"], capture_output=True, timeout=120, check=True
    )
    took = time.monotonic() - began
    assert hashlib.sha256(done.stdout).hexdigest() == expected, len(done.stdout)
    print(f"       {SIZE / MIB / took:.0f} MiB/s out")


def step_exec_on_a_terminal_is_resized(session: Session, transport: str) -> None:
    with terminal(
        session, "exec", "-it", "--transport", transport, session.container, "sh", rows=33, columns=99
    ) as shell:
        shell.type("stty size; echo first-$((1+1))\n")
        shell.expect("33 99")
        shell.expect("first-2")
        shell.resize(44, 111)
        wait_until_size(shell, "44 111")
        shell.type("exit 3\n")
        shell.expect("exit code 3")


def wait_until_size(shell: Terminal, size: str) -> None:
    """A resize travels beside what is typed: it may be seen a moment later."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        shell.type("echo size: $(stty size); echo d''one\n")
        if size in shell.expect("done"):
            return
    raise Failed(f"the terminal never had the size {size}")


def wait_until_attached(one: Terminal, other: Terminal) -> None:
    """Nothing tells when a client is; what came before that it never hears."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        one.type("echo he''re\n")
        if other.hears("here", 1) and one.hears("here", 1):
            return
    raise Failed(f"one of two was not attached; they saw {one.seen!r} and {other.seen!r}")


def step_attach_types_and_hears(session: Session, transport: str) -> None:
    id = session.run_container(f"echo-{transport}", ECHO, stdin=True, stdin_once=True)
    command = session.command("attach", "-i", "--transport", transport, id)
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("hello\n")
    process.stdin.flush()
    assert process.stdout.readline() == "got hello\n"
    out, err = process.communicate("more\n", timeout=PATIENCE)
    assert (out, process.returncode) == ("got more\nover\n", 0), (out, err)
    session.wait_for(
        lambda: session.json("inspect", id)["status"]["state"] == "CONTAINER_EXITED", "the end of its stdin"
    )


def step_attach_from_two_terminals(session: Session, transport: str) -> None:
    id = session.run_container(f"shell-{transport}", "echo ready; exec sh", stdin=True, tty=True)
    arguments = ("attach", "-i", "-t", "--transport", transport, id)
    with terminal(session, *arguments) as first, terminal(session, *arguments) as second:
        wait_until_attached(first, second)
        first.type("echo one-$((1+1))\n")
        first.expect("one-2")
        second.expect("one-2")
        second.type("echo two-$((1+1))\n")
        first.expect("two-2")
        second.expect("two-2")
    assert session.json("inspect", id)["status"]["state"] == "CONTAINER_RUNNING"
    session("rm", "-f", id)


def step_port_forward_carries_connections(session: Session, transport: str) -> None:
    expected = session("exec", "-s", session.container, "sha256sum", "/www/file").split()[0]
    local, dead = free_port(), free_port()
    command = session.command("port-forward", "--transport", transport)
    process = subprocess.Popen(
        [*command, session.pod, f"{local}:8080", f"{dead}:9"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        session.wait_for(lambda: crictl_smoke.answers(f"http://127.0.0.1:{local}/file"), "the forwarded port")
        began = time.monotonic()
        with urllib.request.urlopen(f"http://127.0.0.1:{local}/file", timeout=120) as answer:
            digest = hashlib.sha256(answer.read()).hexdigest()
        took = time.monotonic() - began
        assert digest == expected
        print(f"       {SIZE / MIB / took:.0f} MiB/s through port-forward")
        many(f"http://127.0.0.1:{local}/nothing", 50)
        # Last: a client of this family ends its session when it is told of an error.
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{dead}/", timeout=10)
            raise AssertionError("nobody listens there")
        process.wait(PATIENCE)
        assert process.stdout is not None
        said = process.stdout.read().decode()
        assert "connection refused" in said.lower(), said
    finally:
        process.kill()
        process.wait(10)


def many(url: str, count: int) -> None:
    """``count`` connections at once, each of which is answered."""
    codes: list[int] = []

    def ask() -> None:
        try:
            urllib.request.urlopen(url, timeout=PATIENCE)
        except urllib.error.HTTPError as error:
            codes.append(error.code)

    threads = [threading.Thread(target=ask) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [404] * count, codes


def step_remove(session: Session) -> None:
    session("rmp", "-f", session.pod)


STREAMS: list[Callable[[Session, str], None]] = [
    *(step_exec_tells_output_and_code, step_exec_takes_a_file, step_exec_gives_a_file),
    *(step_exec_on_a_terminal_is_resized, step_attach_types_and_hears, step_attach_from_two_terminals),
    step_port_forward_carries_connections,
]


def over(stream: Callable[[Session, str], None], transport: str) -> Step:
    def step(session: Session) -> None:
        stream(session, transport)

    step.__name__ = f"{stream.__name__}_over_{transport}"
    return step


if __name__ == "__main__":
    streamed = [over(stream, transport) for stream in STREAMS for transport in TRANSPORTS]
    sys.exit(play("crictl streaming", [step_run, *streamed, step_remove]))
