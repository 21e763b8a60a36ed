"""The monitor: one process a pod, the parent of all that runs in it.

Forked by ``runtime.zygote``; it survives the daemon, which finds it again by
``<pod>/monitor.sock``. It stays in the host's namespaces and in the daemon's
cgroup, so that no limit of the pod ever ends it. The operations of the channel
are the methods ``_op_...``; ``sandbox``, ``container`` and ``exec`` do the work.

Invariant: it waits for nobody but the kernel; what one container or one peer does
never delays the others; and it ends only by ``shutdown``, or when nobody can ever
use it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal

from runtime import channel, errands, exec, exits, image
from runtime.channel import Message, Socket
from runtime.children import Children
from runtime.container import Container
from runtime.errors import AlreadyExists, FailedPrecondition, HostFault, NotFound
from runtime.looks import FillRequest, FindRequest, ResolveUserRequest
from runtime.loop import Loop
from runtime.notes import add_note, describe_fault
from runtime.peers import SOCKET_NAME, Operation, Peers, Reply
from runtime.pod import Pod
from runtime.prepared import Prepared
from runtime.procfs import start_time
from runtime.requests import ContainerBirth, ExecBirth, SandboxBirth
from runtime.sandbox import Sandbox

LOOK_SECONDS = 10.0
"""How long looking up a user or a path in an image may take."""

MAKE_SECONDS = 10.0
"""How long making the mountpoints of an image may take."""

SHUTDOWN_SECONDS = 10.0
"""How long killed processes may take to be gone before ``shutdown`` answers with a fault."""

REMEMBERED = 128
"""Exited containers that hello still knows; ``exits`` has them all."""


class Monitor:
    """The state of one monitor: made before the fork, as a copy of the zygote's it costs less; then ``live``."""

    def __init__(self, launch: int) -> None:
        """``launch`` is a descriptor of the program of that name, which stays the caller's."""
        self._name = ""
        self._directory = -1
        self._shut = False
        self._closing: Reply | None = None
        self.loop = Loop(self._on_fault)
        children = Children(self.loop, self._on_last_child)
        self.pod = Pod(self.loop, children, launch, announce=self._announce, note=self._note)
        self.sandbox = Sandbox(self.pod)
        self.peers = Peers(self.loop, self._operations(), self._on_last_peer)

    def begin(self, sandbox: str, directory: int, sock: Socket) -> None:
        """Be the monitor of ``sandbox``. ``directory`` is a descriptor of the pod's directory,
        ``sock`` the first connection; both are taken over.

        Raises:
            OSError: the directory does not take what a monitor keeps there.
        """
        self._name, self._directory = sandbox, directory
        self.loop.open()
        self.pod.children.open()
        self.pod.exits = exits.open_directory(directory)
        self.peers.listen(directory)
        self.peers.add(sock)

    def live(self, sandbox: str, directory: int, sock: Socket) -> None:
        """Be the monitor of ``sandbox`` until the end; what ends it untimely is noted in ``directory``."""
        try:
            self.begin(sandbox, directory, sock)
            self.loop.run()
        except BaseException as error:
            add_note(directory, describe_fault(error))
            raise
        self.close()

    def close(self) -> None:
        """Let go of sockets and descriptors, after the peers have been told what is on its way."""
        self.peers.close()
        with contextlib.suppress(OSError):
            os.unlink(SOCKET_NAME, dir_fd=self._directory)
        self.pod.children.close()
        for client in self.pod.attached.values():
            client.close()
        self.loop.close()
        channel.close_all([self.pod.exits, self._directory, *self.pod.namespaces.values()])

    def _operations(self) -> dict[str, Operation]:
        return {
            "hello": self._op_hello,
            "blank": self._op_blank,
            "sandbox": self._op_sandbox,
            "prepare": self._op_prepare,
            "release": self._op_release,
            "discard": self._op_discard,
            "start": self._op_start,
            "signal": self._op_signal,
            "kill": self._op_kill,
            "forget": self._op_forget,
            "exec": self._op_exec,
            "kill_exec": self._op_kill_exec,
            "reopen_log": self._op_reopen_log,
            "attach": self._op_attach,
            "close_stdin": self._op_close_stdin,
            "resize": self._op_resize,
            "resolve_user": self._op_resolve_user,
            "find_in_image": self._op_find_in_image,
            "fill_volumes": self._op_fill_volumes,
            "make_mountpoints": self._op_make_mountpoints,
            "shutdown": self._op_shutdown,
        }

    def _op_hello(self, args: Message, reply: Reply) -> None:
        reply.ok(
            {
                "version": channel.VERSION,
                "pid": os.getpid(),
                "start_time": start_time(os.getpid()),
                "sandbox": self._name,
                "pause": self.sandbox.pause_pid,
                "containers": {name: container.describe() for name, container in self.pod.containers.items()},
            }
        )

    def _op_sandbox(self, args: Message, reply: Reply) -> None:
        request: SandboxBirth = args  # type: ignore[assignment] # plain JSON on both sides
        self.sandbox.create(request, reply)

    def _op_blank(self, args: Message, reply: Reply) -> None:
        self.sandbox.create_blank(args["namespaces"], reply)

    def _op_prepare(self, args: Message, reply: Reply) -> None:
        request: ContainerBirth = args  # type: ignore[assignment]
        self._make_room()
        Prepared(self.pod, request, reply.script())
        reply.ok({})

    def _op_release(self, args: Message, reply: Reply) -> None:
        prepared = self.pod.prepared.get(args["container"])
        if prepared is None:
            raise NotFound("is not prepared", object=args["container"])
        prepared.release(reply)

    def _op_discard(self, args: Message, reply: Reply) -> None:
        """Have nothing prepared for a container; fine if nothing is."""
        prepared = self.pod.prepared.get(args["container"])
        if prepared is None:
            reply.ok({})
        else:
            prepared.discard(reply)

    def _op_start(self, args: Message, reply: Reply) -> None:
        request: ContainerBirth = args  # type: ignore[assignment]
        name = request["container"]
        if name in self.pod.containers or name in self.pod.prepared:
            raise AlreadyExists("was started before", object=name)
        self._make_room()
        Container(self.pod, request).start(request, reply)

    def _op_signal(self, args: Message, reply: Reply) -> None:
        self._container(args).signal(args["signal"])
        reply.ok({})

    def _op_kill(self, args: Message, reply: Reply) -> None:
        self._container(args).kill()
        reply.ok({})

    def _op_forget(self, args: Message, reply: Reply) -> None:
        """Drop an exited container from what hello tells; the daemon has removed it."""
        if self._container(args).state != "exited":
            raise FailedPrecondition("has not ended", object=args["container"])
        del self.pod.containers[args["container"]]
        reply.ok({})

    def _op_exec(self, args: Message, reply: Reply) -> None:
        request: ExecBirth = args  # type: ignore[assignment]
        if request["exec"] in self.pod.execs:
            raise AlreadyExists("was started before", object=request["exec"])
        exec.Exec(self.pod, request).start(self._container(args).pidfd, reply)

    def _op_kill_exec(self, args: Message, reply: Reply) -> None:
        command = self.pod.execs.get(args["exec"])
        if command is None:
            raise NotFound("no such exec", object=args["exec"])
        command.kill()
        reply.ok({})

    def _op_reopen_log(self, args: Message, reply: Reply) -> None:
        self._container(args).reopen_log()
        reply.ok({})

    def _op_attach(self, args: Message, reply: Reply) -> None:
        if args["attach"] in self.pod.attached:
            raise AlreadyExists("is attached already", object=args["attach"])
        reply.ok({}, self._container(args).attach(args["attach"], args["streams"], args["stdin"]))

    def _op_close_stdin(self, args: Message, reply: Reply) -> None:
        self._container(args).close_stdin()
        reply.ok({})

    def _op_resize(self, args: Message, reply: Reply) -> None:
        self._container(args).resize(args["width"], args["height"])
        reply.ok({})

    def _op_resolve_user(self, args: Message, reply: Reply) -> None:
        request: ResolveUserRequest = args  # type: ignore[assignment]
        birth = errands.look("resolve the user", request["user"], reply)
        child = self.pod.children.fork(birth, functools.partial(image.resolve_user, request))
        self.loop.later(LOOK_SECONDS, functools.partial(child.signal, signal.SIGKILL))

    def _op_find_in_image(self, args: Message, reply: Reply) -> None:
        request: FindRequest = args  # type: ignore[assignment]
        birth = errands.look("look into the image", request["path"], reply)
        child = self.pod.children.fork(birth, functools.partial(image.find, request))
        self.loop.later(LOOK_SECONDS, functools.partial(child.signal, signal.SIGKILL))

    def _op_fill_volumes(self, args: Message, reply: Reply) -> None:
        request: FillRequest = args  # type: ignore[assignment]
        birth = errands.look("fill the volumes", "", reply, request["cgroup"])
        self.pod.children.fork(birth, functools.partial(image.fill_volumes, request))

    def _op_make_mountpoints(self, args: Message, reply: Reply) -> None:
        """Carry out a script that ends (``runtime.mountpoints``); the reply comes then."""
        if self._shut:
            raise FailedPrecondition("the pod is being shut down", object=self._name)
        birth = errands.carry_out("make mountpoints", reply)
        child = self.pod.children.spawn(birth, self.pod.launch, reply.script())
        self.loop.later(MAKE_SECONDS, functools.partial(child.signal, signal.SIGKILL))

    def _op_shutdown(self, args: Message, reply: Reply) -> None:
        """Kill all that is left of the pod, answer, and end."""
        self._shut, self._closing = True, reply
        for container in self.pod.containers.values():
            if container.state != "exited":
                container.kill()
        for prepared in self.pod.prepared.values():
            prepared.discard()
        self.sandbox.kill()
        self.loop.later(SHUTDOWN_SECONDS, self._on_shutdown_timeout)
        if not self.pod.children:
            self._on_last_child()

    def _on_shutdown_timeout(self) -> None:
        reply, self._closing = self._closing, None
        if reply is not None:
            left = len(self.pod.children)
            reply.fail(HostFault(f"{left} processes do not end", step="shut down the pod", object=self._name))

    def _on_last_child(self) -> None:
        if self._closing is not None:
            reply, self._closing = self._closing, None
            reply.ok({})
            self.loop.stopped = True
        elif not self.peers and self.sandbox.state == "ended":
            self.loop.stopped = True

    def _on_last_peer(self) -> None:
        """A monitor that holds nothing and whose daemon has gone is of use to nobody: exits are on disk."""
        if self.sandbox.state == "absent" or (self.sandbox.state == "ended" and not self.pod.children):
            self.loop.stopped = True

    def _container(self, args: Message) -> Container:
        found = self.pod.containers.get(args["container"])
        if found is None:
            raise NotFound("no such container", object=args["container"])
        return found

    def _make_room(self) -> None:
        """For one more container."""
        if self._shut:
            raise FailedPrecondition("the pod is being shut down", object=self._name)
        if len(self.pod.containers) >= REMEMBERED:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        ended = [name for name, container in self.pod.containers.items() if container.state == "exited"]
        for name in ended[: max(0, len(ended) - REMEMBERED + 1)]:
            del self.pod.containers[name]

    def _announce(self, event: Message) -> None:
        self.peers.announce(event)

    def _on_fault(self, error: BaseException) -> None:
        self._note(describe_fault(error))

    def _note(self, text: str) -> None:
        add_note(self._directory, text)
