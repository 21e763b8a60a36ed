"""The daemon's way to processes: it starts the zygote, and has it fork monitors and workers.

``cri`` has one ``Supervisor``. The daemon itself never forks; the zygote is started
by exec, from a read-only mount of the interpreter (``runtime.program``), and again
whenever it has died.

Invariant: a monitor or worker that was forked is known to the caller, or ends by
itself: it sees the end of a connection that nobody took.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from runtime import channel
from runtime.channel import Message
from runtime.channel_async import AsyncChannel
from runtime.errors import HostFault, NotFound, Unavailable
from runtime.monitor_client import MonitorClient
from runtime.peers import SOCKET_NAME
from runtime.procfs import start_time as read_start_time
from runtime.program import open_program

ZYGOTE_SECONDS = 60.0
"""How long a zygote may take to import what it needs and to rehearse: on a node that boots everything at once,
or is emulated, more than twenty seconds. A zygote that dies is noticed at once."""

CONNECT_SECONDS = 5.0
"""How long a monitor may take to accept a connection."""

_FOLDER = os.path.dirname(os.path.abspath(__file__))
# Not sys.path: of the folder that holds this package, which is full of others, the zygote can import this one only.
_BOOT = (
    "import sys,types;"
    "package=types.ModuleType('runtime');package.__path__=[sys.argv[2]];sys.modules['runtime']=package;"
    "from runtime.zygote import main;main(int(sys.argv[1]))"
)
_ENVIRONMENT = {
    "PATH": os.defpath,
    "LC_ALL": "C.UTF-8",  # any other locale may need a library to decode an error message, from wherever it looks
    # A monitor lives long on little: freed memory goes back to the kernel instead of to a growing reserve.
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "131072",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}

Spawn = Callable[[str, Coroutine[Any, Any, None]], object]


class Supervisor:
    """Of the running loop. ``spawn`` starts a named task (``cri.tasks``): with it a dead zygote
    is replaced at once, without it when it is needed next."""

    def __init__(self, spawn: Spawn | None = None, descriptors: tuple[int, int] | None = None) -> None:
        """``descriptors`` is the RLIMIT_NOFILE that containers get, where the daemon's own is another."""
        self._spawn = spawn
        self._starting = asyncio.Lock()
        self._zygote: AsyncChannel | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._closing = False
        self._descriptors = descriptors

    @property
    def zygote_pid(self) -> int | None:
        """None while there is none."""
        return None if self._process is None else self._process.pid

    async def start_zygote(self) -> None:
        """Have a zygote, started now unless there is one.

        Raises:
            HostFault: the interpreter cannot be sealed or executed.
            Unavailable: it did not answer.
        """
        await self._ready_zygote()

    async def close(self) -> None:
        """End the zygote; monitors go on. The object is of no use afterwards."""
        self._closing = True
        if self._zygote is not None:
            self._zygote.close()
        await asyncio.to_thread(self._reap)

    async def fork_monitor(self, sandbox: str, directory: str) -> MonitorClient:
        """A new monitor for the pod in the existing ``directory``.

        Raises:
            Fault: there is none, or it ends by itself.
        """
        result, (sock,) = await self._ask("fork_monitor", {"sandbox": sandbox, "directory": directory}, (), 1)
        owned, pid = socket.socket(fileno=sock), int(result["pid"])
        try:
            return MonitorClient(owned, pid, read_start_time(pid))
        except NotFound as error:
            owned.close()
            raise Unavailable("has ended at once", step="fork the monitor", object=sandbox) from error

    async def connect_monitor(self, directory: str, pid: int, start_time: int) -> MonitorClient:
        """The monitor in ``directory`` that an earlier daemon forked; has to be the process that was recorded.

        Raises:
            Unavailable: it has gone, or somebody else is there.
        """
        try:
            if read_start_time(pid) != start_time:
                raise Unavailable("another process has its pid", step="find the monitor", object=str(pid))
        except NotFound as error:
            raise Unavailable("has ended", step="find the monitor", object=str(pid)) from error
        sock = await _connect(directory)
        listener = channel.peer_credentials(sock)
        if listener != (pid, os.getuid(), listener[2]):
            sock.close()
            raise Unavailable(f"process {listener[0]} listens in its place", step="find the monitor", object=str(pid))
        return MonitorClient(sock, pid, start_time)

    async def find_monitor(self, directory: str) -> MonitorClient:
        """Whichever monitor listens in ``directory``, where none was recorded. Raises as ``connect_monitor``."""
        sock = await _connect(directory)
        pid = channel.peer_credentials(sock)[0]
        sock.close()
        try:
            return await self.connect_monitor(directory, pid, read_start_time(pid))
        except NotFound as error:
            raise Unavailable("has ended", step="find the monitor", object=str(pid)) from error

    async def run_worker(
        self, entry: str, args: Message, fds: Sequence[int] = (), *, timeout: float | None = None
    ) -> Message:
        """What ``entry`` (``runtime.module:function``) returns, called in a process of its own.

        A call that ends early, by ``timeout`` (seconds) or cancellation, kills the worker.

        Raises:
            Fault: what the function raised.
            Unavailable: the worker died without a word.
            TimeoutError: it took too long.
        """
        _, (sock, pidfd) = await self._ask("fork_worker", {"entry": entry, "args": args}, fds, 2)
        worker = _Reply(socket.socket(fileno=sock), entry)
        try:
            async with asyncio.timeout(timeout):
                return await worker.wait()
        except BaseException:
            _kill(pidfd)
            raise
        finally:
            worker.close()
            os.close(pidfd)

    async def _ask(
        self, op: str, args: Message, descriptors: Sequence[int], expected: int
    ) -> tuple[Message, list[int]]:
        """``expected`` descriptors come back. A zygote that dies meanwhile is replaced, once."""
        zygote = await self._ready_zygote()
        try:
            result, given = await zygote.call(op, args, descriptors)
        except Unavailable:
            if not zygote.closed:
                raise
            result, given = await (await self._ready_zygote()).call(op, args, descriptors)
        if len(given) != expected:
            channel.close_all(given)
            raise HostFault(f"{len(given)} descriptors, expected {expected}", step=op, object="zygote")
        return result, given

    async def _ready_zygote(self) -> AsyncChannel:
        async with self._starting:
            if self._closing:
                raise Unavailable("the daemon is stopping", object="zygote")
            if self._zygote is not None and not self._zygote.closed:
                return self._zygote
            await asyncio.to_thread(self._reap)
            near, far = channel.pair()
            try:
                self._process = _execute_zygote(far.fileno())
            except BaseException:
                near.close()
                raise
            finally:
                far.close()
            if self._descriptors is not None:
                resource.prlimit(self._process.pid, resource.RLIMIT_NOFILE, self._descriptors)
            zygote = AsyncChannel(near, "zygote")
            try:
                await zygote.call("ping", {}, timeout=ZYGOTE_SECONDS)
            except BaseException:
                zygote.close()
                raise
            self._zygote = zygote
            zygote.add_close_callback(self._on_zygote_closed)
            return zygote

    def _on_zygote_closed(self) -> None:
        if self._spawn is not None and not self._closing:
            self._spawn("restart the zygote", self.start_zygote())

    def _reap(self) -> None:
        """Wait for the zygote, whose connection has ended; kill one that does not notice."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.wait(2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _execute_zygote(descriptor: int) -> subprocess.Popen[bytes]:
    interpreter = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    program = open_program(interpreter)
    try:
        # argv[0] tells the interpreter where its library is; what is executed is the sealed copy.
        return subprocess.Popen(
            [interpreter, "-I", "-S", "-B", "-c", _BOOT, str(descriptor), _FOLDER],
            executable=f"/proc/self/fd/{program}",
            env=_ENVIRONMENT,
            cwd="/",
            pass_fds=(program, descriptor),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise HostFault(step="start the zygote", object=interpreter, call="execve", errno=error.errno or 0) from error
    finally:
        os.close(program)


async def _connect(directory: str) -> socket.socket:
    """A connection to ``monitor.sock`` in ``directory``, by way of a descriptor: the path may be of any length."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    try:
        opened = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            await _connect_to(sock, f"/proc/self/fd/{opened}/{SOCKET_NAME}")
        finally:
            os.close(opened)
    except BaseException as error:
        sock.close()
        if isinstance(error, OSError):
            said = os.strerror(error.errno or 0).lower()
            raise Unavailable(said, step="find the monitor", object=directory) from error
        raise
    return sock


async def _connect_to(sock: socket.socket, path: str) -> None:
    for _ in range(int(CONNECT_SECONDS / 0.05)):
        try:
            sock.connect(path)
            return
        except BlockingIOError:
            await asyncio.sleep(0.05)  # its queue of connections is full; unix(7) has no readiness for that
    raise Unavailable("does not accept connections", step="find the monitor")


class _Reply:
    """The one message of a worker."""

    def __init__(self, sock: socket.socket, name: str) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._name = name

    async def wait(self) -> Message:
        loop, readable = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._sock.fileno(), readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(self._sock.fileno())
        received = channel.receive(self._sock)
        if received is None:
            raise Unavailable("the worker ended without an answer", object=self._name)
        message, descriptors = received
        channel.close_all(descriptors)
        return channel.result_of(message)

    def close(self) -> None:
        self._sock.close()


def _kill(pidfd: int) -> None:
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        return
