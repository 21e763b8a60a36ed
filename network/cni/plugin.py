"""Running one program: a CNI plugin, bounded in time and in what it may say.

``chain`` makes its environment and input and understands its output. It runs in the host's
namespaces, in a process group of its own, with its input as a file and its output through
pipes; other descriptors of the daemon it does not have.

Invariant: when ``run`` returns or raises, the program has ended, but for one that the kernel
does not let go; its group was killed unless it ended by itself. The pid is not reaped before
the last signal that may be sent to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO

from runtime.errors import DeadlineExceeded, HostFault, ResourceExhausted

MAX_OUTPUT = 1 << 20
"""Bytes of standard output; a program that writes more is killed."""

MAX_WORDS = 4096
"""Bytes of standard error that are kept: the last ones."""

KILL_SECONDS = 5.0
"""How long a killed program may take to be gone before it is left to the kernel."""

_PIECE = 65536


@dataclass(frozen=True, slots=True)
class Ended:
    """``code`` is the exit status, or a signal's number below zero."""

    code: int
    output: bytes
    words: str


async def run(program: str, environment: Mapping[str, str], text: bytes, seconds: float) -> Ended:
    """Run ``program`` with ``text`` as its standard input.

    Raises:
        HostFault: it cannot be executed.
        DeadlineExceeded: it was killed after ``seconds``.
        ResourceExhausted: it was killed as it wrote more than MAX_OUTPUT.
    """
    process = _start(program, environment, text)
    running = _Running(process)
    try:
        async with asyncio.timeout(seconds):
            await asyncio.shield(running.ended)
    except TimeoutError:
        words = f"; it wrote: {running.words()}" if running.words() else ""
        raise DeadlineExceeded(f"did not end within {seconds:.3g} s{words}") from None
    finally:
        await running.finish()
    if len(running.output) > MAX_OUTPUT:
        raise ResourceExhausted(f"wrote more than {MAX_OUTPUT} bytes")
    return Ended(process.returncode, bytes(running.output), running.words())


def _start(program: str, environment: Mapping[str, str], text: bytes) -> subprocess.Popen[bytes]:
    given = os.memfd_create("cni-stdin", os.MFD_CLOEXEC)
    try:
        os.write(given, text)
        os.lseek(given, 0, os.SEEK_SET)
        return subprocess.Popen(
            [program],
            stdin=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(environment),
            cwd="/",
            process_group=0,
        )
    except OSError as error:
        raise HostFault(object=program, call="execve", errno=error.errno or 0) from error
    finally:
        os.close(given)


class _Running:
    """A started program: its output is read and its end awaited by the loop."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None and process.stderr is not None
        self._process = process
        self._pipes: list[tuple[IO[bytes], Callable[[bytes], None]]] = [
            (process.stdout, self._take_output),
            (process.stderr, self._take_words),
        ]
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self.output = bytearray()
        self._words = bytearray()
        self._pidfd = os.pidfd_open(process.pid)
        self._loop.add_reader(self._pidfd, self._reap)
        for pipe, take in self._pipes:
            os.set_blocking(pipe.fileno(), False)
            self._loop.add_reader(pipe.fileno(), self._read, pipe, take)

    def words(self) -> str:
        """What it wrote to standard error, as text without control characters."""
        text = self._words[-MAX_WORDS:].decode(errors="replace")
        return " ".join("".join(char if char.isprintable() else " " for char in text).split())

    def _read(self, pipe: IO[bytes], take: Callable[[bytes], None]) -> bool:
        """One piece of what there is; whether there may be more."""
        try:
            piece = os.read(pipe.fileno(), _PIECE)
        except BlockingIOError:
            return False
        if not piece:
            self._loop.remove_reader(pipe.fileno())
            return False
        take(piece)
        return True

    def _take_output(self, piece: bytes) -> None:
        if len(self.output) <= MAX_OUTPUT:
            self.output += piece
            if len(self.output) > MAX_OUTPUT:
                self._kill()

    def _take_words(self, piece: bytes) -> None:
        self._words += piece
        del self._words[:-MAX_WORDS]

    def _reap(self) -> None:
        """It has ended. Whoever inherited its pipes may hold them open; what it wrote itself is in them."""
        self._loop.remove_reader(self._pidfd)
        for pipe, take in self._pipes:
            for _ in range(2 * MAX_OUTPUT // _PIECE):
                if not self._read(pipe, take):
                    break
        self._process.wait()
        os.close(self._pidfd)
        self._pidfd = -1
        self.ended.set_result(None)

    def _kill(self) -> None:
        """The whole group, as long as its leader is not reaped and the number therefore its own."""
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def finish(self) -> None:
        """See that it is over and let go of its pipes."""
        self._kill()
        try:
            await asyncio.wait([self.ended], timeout=KILL_SECONDS)
        finally:
            for pipe, _ in self._pipes:
                self._loop.remove_reader(pipe.fileno())
                pipe.close()
            self._pipes = []
