"""Runs inside the guest, as a service: carries out commands that come over a virtio-serial port.

``machine`` is the other end. Both send a JSON object a line. To the guest: ``run`` (a list of
words), ``timeout`` in seconds and ``environment``. Back: ``ready`` (seconds since the kernel
began) once, ``output`` as it comes, and at the end ``status``, as a shell has it; 124 is a
command that was killed at its timeout.

Invariant: nothing is imported but the standard library; one command runs at a time.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import selectors
import signal
import subprocess
import time
from typing import Any

PORT = "crisp.agent"
TIMED_OUT = 124


def find_port() -> str:
    """The device of the port named ``PORT``; there is no link to it before udev makes one."""
    while True:
        for name in glob.glob("/sys/class/virtio-ports/*/name"):
            with open(name, encoding="ascii") as file:
                if file.read().strip() == PORT:
                    return f"/dev/{name.split('/')[-2]}"
        time.sleep(0.05)


def send(port: int, message: dict[str, Any]) -> None:
    line = json.dumps(message).encode() + b"\n"
    while line:
        line = line[os.write(port, line) :]


def receive(port: int, buffered: bytearray) -> dict[str, Any]:
    """The next message; an end of file is a host that is not connected, and is waited out."""
    while b"\n" not in buffered:
        chunk = os.read(port, 65536)
        buffered += chunk
        if not chunk:
            time.sleep(0.05)
    line, _, rest = bytes(buffered).partition(b"\n")
    buffered[:] = rest
    message: dict[str, Any] = json.loads(line)
    return message


def carry_out(port: int, command: list[str], timeout: float, environment: dict[str, str]) -> int:
    """Run ``command`` in a session of its own, pass its output on, and return its status."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **environment},
        start_new_session=True,
    )
    deadline, timed_out = time.monotonic() + timeout, False
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector, process.stdout as output:
        selector.register(output, selectors.EVENT_READ)
        while process.poll() is None or selector.select(0):
            if selector.select(0.5):
                chunk = os.read(output.fileno(), 65536)
                if not chunk:
                    break
                send(port, {"output": chunk.decode(errors="replace")})
            elif time.monotonic() > deadline:
                timed_out = True
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                break
    status = process.wait()
    return TIMED_OUT if timed_out else status if status >= 0 else 128 - status


def main() -> None:
    port, buffered = os.open(find_port(), os.O_RDWR | os.O_CLOEXEC), bytearray()
    with open("/proc/uptime", encoding="ascii") as file:
        send(port, {"ready": float(file.read().split()[0])})
    while True:
        asked = receive(port, buffered)
        try:
            status = carry_out(port, asked["run"], asked["timeout"], asked["environment"])
        except OSError as error:
            send(port, {"output": f"{asked['run'][0]}: {error}\n"})
            status = 127
        send(port, {"status": status})


if __name__ == "__main__":
    main()
