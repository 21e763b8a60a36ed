"""The zygote: a small frozen python from which monitors and workers are forked.

Started by ``runtime.supervisor`` with an exec of its own, before the daemon has a
second thread, and ended by the end of the daemon's socket. It imports once what
every monitor, container init and exec needs; they share those pages.

    fork_monitor {sandbox, directory}          -> {pid} and [socket]
    fork_worker {entry, args} and descriptors  -> {pid} and [socket, pidfd]
    ping {}                                    -> {pid} of the zygote

The zygote itself reads no request. Once there is one it forks, and the child reads
it, answers it, and is what was asked for. Whatever the zygote writes to its own
memory between two forks would be one more private page in every monitor, so it
does next to nothing.

A worker's ``entry`` is ``module:function`` below ``runtime``; the function is called
with ``args`` and the descriptors, and what it returns is the one message that the
worker's socket carries.

Invariant: one thread, standard library and ``runtime`` only; it never runs what a
request brings, and never waits for what it has forked but to take its request.
"""

from __future__ import annotations

import functools
import gc
import importlib
import os
import select
import signal
from collections.abc import Callable, Sequence
from typing import NoReturn

from runtime import channel, children
from runtime.channel import Message, Socket
from runtime.errors import InvalidArgument, NotSupported
from runtime.heap import fill_holes
from runtime.linux import process
from runtime.monitor import Monitor
from runtime.nearness import gather_code
from runtime.program import LAUNCH, open_program
from runtime.rehearsal import rehearse

# What python imports by itself on some path: never to be looked for after the fork, when
# the process may be in a container's root, or the files be those of the next release.
PRELOADED = ("encodings.ascii", "encodings.latin_1", "encodings.utf_8", "linecache", "traceback", "warnings")

IGNORED = (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE, signal.SIGTERM)
"""By the zygote, which ends with its daemon, and by monitors: a host that shuts down sends
SIGTERM to all at once, and the containers' last lines and exits are still to be kept."""


class Zygote:
    """Serves one connection, its daemon's. ``monitor`` is the blank one that every pod gets a copy of."""

    def __init__(self, sock: Socket) -> None:
        self._sock = sock
        self._monitor = Monitor(open_program(LAUNCH))
        self._wakeup, self._wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._arrived = select.poll()
        self._arrived.register(sock.fileno(), select.POLLIN)
        self._arrived.register(self._wakeup, select.POLLIN)
        signal.set_wakeup_fd(self._wakes, warn_on_full_buffer=False)

    def serve(self) -> None:
        """Fork a child for each request that arrives, until one finds that the daemon has gone."""
        request = self._sock.fileno()
        goes_on = b"1"
        while goes_on:
            for descriptor, _ in self._arrived.poll():
                if descriptor == request:
                    goes_on = self._fork()
                else:
                    self._reap()

    def _fork(self) -> bytes:
        """Empty when there is nobody to serve any more."""
        taken, takes = os.pipe2(os.O_CLOEXEC)
        if os.fork() == 0:  # noqa: TID251 - one thread, and next to nothing done before: the place to fork
            self._run_child(taken, takes)
        os.close(takes)
        goes_on = os.read(taken, 1)
        os.close(taken)
        return goes_on

    def _reap(self) -> None:
        os.read(self._wakeup, 4096)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                continue
        except ChildProcessError:
            return

    def _run_child(self, taken: int, takes: int) -> NoReturn:
        """In the child: nothing may return to the zygote's stack.

        A byte to ``takes`` says that the request has been read and that more may come;
        its end without a byte, that none will.
        """
        try:
            received = channel.receive(self._sock)
            if received is not None:
                message, descriptors = received
                number, op, args = channel.read_request(message)
                os.write(takes, b"1")
                os.dup2(0, 2)
                channel.close_all([taken, takes, self._wakeup, self._wakes])
                try:
                    self._carry_out(number, op, args, descriptors)
                except Exception as error:  # noqa: BLE001 - the boundary to the daemon: it asked, it is told
                    channel.send(self._sock, channel.refusal(number, error))
        finally:
            os._exit(0)

    def _carry_out(self, number: int, op: str, args: Message, descriptors: list[int]) -> None:
        if op == "ping":
            channel.send(self._sock, channel.answer(number, {"pid": os.getppid()}))
        elif op == "fork_monitor":
            directory = os.open(args["directory"], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            set_name("crisp-monitor")
            os.setsid()
            self._monitor.live(args["sandbox"], directory, self._introduce(number, []))
        elif op == "fork_worker":
            self._run_worker(number, args["entry"], args["args"], descriptors)
        else:
            raise NotSupported(f"unknown operation {op!r}", step="ask the zygote")

    def _introduce(self, number: int, given: Sequence[int]) -> Socket:
        """Answer the request with this process, one end of a new socket and ``given``; the other end.

        The process is none of the zygote's from here on.
        """
        own, theirs = channel.pair()
        channel.send(self._sock, channel.answer(number, {"pid": os.getpid()}), [theirs.fileno(), *given])
        theirs.close()
        self._sock.close()
        return own

    def _run_worker(self, number: int, entry: str, args: Message, descriptors: list[int]) -> None:
        module, _, name = entry.partition(":")
        if not module.startswith("runtime.") or not name.isidentifier():
            raise InvalidArgument("no entry of a worker", object=entry[:100])
        pidfd = os.pidfd_open(os.getpid())
        sock = self._introduce(number, [pidfd])
        os.close(pidfd)
        channel.send(sock, run_worker(module, name, args, descriptors))


def run_worker(module: str, name: str, args: Message, descriptors: list[int]) -> Message:
    """Be a worker: the one message that it has to say."""
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, *IGNORED):
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        set_name("crisp-worker")
        function: Callable[[Message, list[int]], Message] = getattr(importlib.import_module(module), name)
        return {"ok": function(args, descriptors)}
    except BaseException as error:  # noqa: BLE001 - the daemon has to hear of it
        return channel.refusal(0, error)


def set_name(name: str) -> None:
    """The name that ps shows for this process (proc_pid_comm(5)), at most 15 bytes."""
    comm = os.open("/proc/self/comm", os.O_WRONLY | os.O_CLOEXEC)
    os.write(comm, name.encode())
    os.close(comm)


def settle(descriptor: int) -> Socket:
    """Make this process fit to be forked from; its socket."""
    process.close_all_but({0, 1, 2, descriptor})
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    children.handle_signal()
    # Inherited by all that is forked from here: non-dumpable before any container can see it.
    process.set_dumpable(False)
    os.umask(0o022)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    set_name("crisp-zygote")
    os.set_inheritable(descriptor, False)
    return Socket(fileno=descriptor)


def warm_up() -> None:
    """Import, rehearse and arrange all that monitors will share."""
    for name in PRELOADED:
        importlib.import_module(name)
    try:
        fill_holes()  # for the code that is put together
        gather_code(functools.partial(rehearse, 1))
        rehearse()
    except OSError as error:
        os.write(2, f"crisp zygote: pods will need more memory: {error}\n".encode())
    gc.collect()
    fill_holes()


def main(descriptor: int) -> NoReturn:
    """Be the zygote of the daemon at the other end of the socket ``descriptor``."""
    sock = settle(descriptor)
    warm_up()
    zygote = Zygote(sock)
    gc.collect()
    gc.freeze()
    zygote.serve()
    os._exit(0)
