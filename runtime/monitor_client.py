"""A monitor, as the daemon sees it: one method an operation, events, its end.

``runtime.supervisor`` makes these, from a fork or by connecting to a monitor that
has outlived a daemon. The operations are those of ``runtime.monitor``; arguments
and results are the documents of ``runtime.requests``.

Invariant: descriptors that are returned are the caller's, and there are exactly
as many as the operation's docstring says.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

from runtime import channel
from runtime.blank_init import BlankInit
from runtime.channel import Message
from runtime.channel_async import AsyncChannel, Result
from runtime.errors import FailedPrecondition, Fault, HostFault, NotFound, NotSupported, ScriptFailed
from runtime.linux import spawn
from runtime.looks import FillRequest, FindRequest, Found, ResolveUserRequest
from runtime.mountpoints import plan_mountpoints
from runtime.pause import plan_blank
from runtime.requests import ExecRequest, Mountpoint, ResolvedUser, Rootfs, SandboxRequest, StartRequest
from runtime.written import Written, write_exec, write_init, write_named, write_pause

DEFAULT_TIMEOUT = 30.0
"""Seconds for an operation that does not wait for anything of the container's."""

KILL_TIMEOUT = 10.0
"""Seconds to pass a signal on; a monitor that takes longer hangs, and is ended itself."""

SHUTDOWN_TIMEOUT = 15.0
"""Longer than a monitor itself waits for what it has killed (``runtime.monitor``)."""


@dataclass(frozen=True, slots=True)
class SandboxMade:
    """``namespaces`` by kind, and a routing socket inside the new network, None without one; all the
    caller's. ``pause_pid`` is 0 where pause is on its way, and of no meaning for a blank pod."""

    pause_pid: int
    namespaces: dict[str, int]
    netlink: int | None


class MonitorClient:
    """``pid`` and ``start_time`` (clock ticks, /proc/PID/stat field 22) name the process for good."""

    def __init__(self, sock: channel.Socket, pid: int, start_time: int) -> None:
        self.pid = pid
        self.start_time = start_time
        self._blank: tuple[str, ...] = ()
        self._init: BlankInit | None = None
        self._asked: SandboxRequest | None = None
        self._channel = AsyncChannel(sock, f"monitor {pid}")
        self._channel.add_close_callback(self._end_init)

    @property
    def closed(self) -> bool:
        return self._channel.closed

    def on_event(self, callback: Callable[[Message], None]) -> None:
        """Get every event, earlier ones too: exit, exec_exit, attach_end, pause_exit, log_dropped. ``callback``
        must not raise."""
        self._channel.listen(callback)

    def on_close(self, callback: Callable[[], None]) -> None:
        """``callback`` is called once when the connection has ended: with the monitor, or by :meth:`close`."""
        self._channel.add_close_callback(callback)

    async def wait_closed(self) -> None:
        """Return once the connection has ended."""
        await self._channel.wait_closed()

    def close(self) -> None:
        """End the connection; the monitor and its containers go on."""
        self._end_init()
        self._channel.close()

    async def call(
        self, op: str, args: Message, descriptors: Sequence[int] = (), timeout: float | None = DEFAULT_TIMEOUT
    ) -> Result:
        """As :meth:`AsyncChannel.call`."""
        return await self._channel.call(op, args, descriptors, timeout=timeout)

    async def hello(self) -> Message:
        """{version, pid, start_time, sandbox, pause, containers: {id: {pid, state, exit, log_dropped}}}."""
        return await self._plain("hello", {})

    async def blank(self, kinds: Sequence[str]) -> SandboxMade:
        """Make namespaces for a pod that has no name yet; ``sandbox`` enters them then."""
        script = plan_blank(kinds)
        written = Written({"namespaces": list(kinds)}, script.bytes(), lambda: script)
        self._init = BlankInit()
        try:
            result = await self._birth("blank", written, [self._init.theirs.fileno()])
        except BaseException:
            self._end_init()
            raise
        self._init.theirs.close()
        self._blank = tuple(kinds)
        return self._made(result, kinds, "blank")

    async def sandbox(self, request: SandboxRequest) -> SandboxMade:
        """Make the pod's namespaces, but for those that ``blank`` has made, and pause; once a monitor.

        Where there is nothing to make but pause it is on its way then: ``wait_for_pause``.
        """
        init = self._init if set(request["namespaces"]) == set(self._blank) else None
        if init is not None and init.wake(write_named(request, self._blank), request["cgroup"]):
            self._asked = request
            return SandboxMade(0, {}, None)
        self._end_init()
        return await self._sandbox(request)

    async def wait_for_pause(self, timeout: float = DEFAULT_TIMEOUT) -> int:
        """The pid of the pause that ``sandbox`` has not waited for.

        Raises: as ``sandbox``.
        """
        init, (asked, self._asked) = self._init, (self._asked, None)
        if asked is None:
            raise FailedPrecondition("none is on its way", step="wait for pause")
        pid = None
        if init is not None:
            try:
                pid = await init.wait_executed(timeout)
            finally:
                self._init = None
                init.close()
        if pid is None:  # whoever was to bear it, or to become it, has been killed before
            try:
                pid = (await self._sandbox(asked)).pause_pid
            except FailedPrecondition as followed:  # the monitor has told of its end by then
                raise HostFault("it was killed before it was there", step="wait for pause") from followed
        return pid

    async def _sandbox(self, request: SandboxRequest) -> SandboxMade:
        written = write_pause(request, self._blank)
        return self._made(await self._birth("sandbox", written), written.told["new"], "sandbox")

    def _end_init(self) -> None:
        init, self._init = self._init, None
        if init is not None:
            init.close()

    def _made(self, result: Result, kinds: Sequence[str], op: str) -> SandboxMade:
        document, descriptors = result
        netlink = "network" in kinds
        self._expect(descriptors, len(kinds) + netlink, op)
        namespaces = dict(zip(kinds, descriptors, strict=False))
        return SandboxMade(int(document["pause_pid"]), namespaces, descriptors[-1] if netlink else None)

    def prepare(self, init: Written) -> bool:
        """Have a container's init born, which waits, for ``release``; False if nothing is on its way.

        Its volumes, if there are any, have been filled.
        """
        with spawn.closing_script(init.script) as memfd:
            return self._channel.post("prepare", init.told, [memfd])

    async def release(
        self, container: str, request: Callable[[], StartRequest], timeout: float = DEFAULT_TIMEOUT
    ) -> tuple[int, int]:
        """Start what is prepared: as ``start``, whose request is asked for if there is a fault to be put in words.

        Raises:
            NotFound: it is not prepared any more: ``discard`` and ``start`` it.
            DeadlineExceeded: somebody who shares its PID namespace keeps it stopped, or its program cannot be read.
            Fault: as ``start``.
        """
        try:
            result = await self._plain("release", {"container": container}, timeout)
        except NotSupported as older:
            raise NotFound("the monitor is of an older crisp", object=container) from older
        except ScriptFailed as failed:
            raise self._in_words(failed, container, request) from failed
        return int(result["pid"]), int(result["started_at"])

    def _in_words(self, failed: ScriptFailed, container: str, request: Callable[[], StartRequest]) -> Fault:
        try:
            return write_init(request(), waits=True).words().fault(failed.at, failed.errno)
        except (Fault, OSError) as error:
            message = f"call {failed.at} of its script failed, and what it means cannot be told: {error}"
            return HostFault(message, step="start", object=container, errno=failed.errno)

    async def discard(self, container: str) -> None:
        """End what is prepared for a container; fine if nothing is."""
        with contextlib.suppress(NotSupported):  # a monitor of an older crisp prepares nothing
            await self._plain("discard", {"container": container}, KILL_TIMEOUT)

    async def start(self, request: StartRequest, timeout: float | None = None) -> tuple[int, int]:
        """Start a container: ``(pid, started_at)``, in ns since the epoch.

        Raises:
            StartRefused: for a reason of the request or the image.
            Fault: any other: it can be tried again.
        """
        init = write_init(request)
        if request["volumes"]:
            rootfs, volumes, cgroup = request["rootfs"], request["volumes"], request["cgroup"]
            fill: FillRequest = {"rootfs": rootfs, "volumes": volumes, "cgroup": cgroup}
            await self._plain("fill_volumes", cast(Message, fill), timeout)
        result, descriptors = await self._birth("start", init, timeout=timeout)
        self._expect(descriptors, 0, "start")
        return int(result["pid"]), int(result["started_at"])

    async def signal(self, container: str, number: int) -> None:
        """Signal the main process of a container."""
        await self._plain("signal", {"container": container, "signal": number}, KILL_TIMEOUT)

    async def kill(self, container: str) -> None:
        """SIGKILL to all processes of a container."""
        await self._plain("kill", {"container": container}, KILL_TIMEOUT)

    async def forget(self, container: str) -> None:
        """Drop an exited container from what hello tells."""
        await self._plain("forget", {"container": container})

    async def exec(self, request: ExecRequest) -> tuple[int, list[int]]:
        """Run a command: ``(pid, [stdout, stderr])``, a third (stdin) when asked for, or [master] of its terminal.

        The event exec_exit follows.

        Raises:
            StartRefused: the command cannot be executed.
        """
        result, descriptors = await self._birth("exec", write_exec(request))
        expected = 1 if request["process"]["terminal"] else 2 + request["stdin"]
        self._expect(descriptors, expected, "exec")
        return int(result["pid"]), descriptors

    async def kill_exec(self, exec_id: str) -> None:
        """SIGKILL to an exec and all that it has started."""
        await self._plain("kill_exec", {"exec": exec_id})

    async def reopen_log(self, container: str) -> None:
        """Go on in a new log file; it exists when this returns."""
        await self._plain("reopen_log", {"container": container})

    async def attach(
        self, container: str, attach: str, streams: Sequence[str], *, stdin: bool
    ) -> tuple[list[int], int | None]:
        """Listen to ``streams`` (stdout, stderr) of a container from now on: a descriptor each to read
        from, and one to type into; None when the container has no stdin, or none any more.

        The event attach_end, with the name ``attach``, follows: at the end of the container's output, once
        the descriptors are closed, or with an error.

        Raises:
            NotSupported: the monitor is of an older crisp.
            FailedPrecondition: the container does not run.
        """
        asked = {"container": container, "attach": attach, "streams": list(streams), "stdin": stdin}
        _, descriptors = await self.call("attach", asked)
        if not (stdin and len(descriptors) == len(streams) + 1):
            self._expect(descriptors, len(streams), "attach")
        return descriptors[: len(streams)], descriptors[-1] if len(descriptors) > len(streams) else None

    async def close_stdin(self, container: str) -> None:
        """End a container's stdin, once nobody holds a descriptor of it any more."""
        await self._plain("close_stdin", {"container": container})

    async def resize(self, container: str, width: int, height: int) -> None:
        """Say how large a container's terminal is, in characters."""
        await self._plain("resize", {"container": container, "width": width, "height": height})

    async def resolve_user(self, request: ResolveUserRequest) -> ResolvedUser:
        """Who a user is by the image's own files."""
        return cast(ResolvedUser, await self._plain("resolve_user", cast(Message, request)))

    async def find_in_image(self, rootfs: Rootfs, path: str) -> Found:
        """What ``path`` is in the image whose layers ``rootfs`` has.

        Raises:
            FailedPrecondition: there is nothing, or neither a directory nor a file.
            NotSupported: the monitor is of an older crisp.
        """
        request: FindRequest = {"rootfs": rootfs, "path": path}
        return cast(Found, await self._plain("find_in_image", cast(Message, request)))

    async def make_mountpoints(self, rootfs: Rootfs, mountpoints: Sequence[Mountpoint]) -> None:
        """Make ``mountpoints`` in the upper directory of ``rootfs``; nothing is mounted any more when this returns.

        Raises:
            NotSupported: the monitor is of an older crisp.
            StartRefused: the image does not have them, nor can they be made.
        """
        script = plan_mountpoints(rootfs, mountpoints)
        _, descriptors = await self._birth("make_mountpoints", Written({}, script.bytes(), lambda: script))
        self._expect(descriptors, 0, "make_mountpoints")

    async def shutdown(self) -> None:
        """Kill all that is left of the pod and end the monitor."""
        self._end_init()
        await self._plain("shutdown", {}, SHUTDOWN_TIMEOUT)

    async def _birth(
        self, op: str, written: Written, given: Sequence[int] = (), *, timeout: float | None = DEFAULT_TIMEOUT
    ) -> Result:
        """Send what is written, and ``given``, with the operation; whose failed call comes back in words."""
        with spawn.closing_script(written.script) as memfd:
            try:
                return await self.call(op, written.told, [memfd, *given], timeout)
            except ScriptFailed as failed:
                raise written.words().fault(failed.at, failed.errno) from failed

    async def _plain(self, op: str, args: Message, timeout: float | None = DEFAULT_TIMEOUT) -> Message:
        result, descriptors = await self.call(op, args, timeout=timeout)
        self._expect(descriptors, 0, op)
        return result

    def _expect(self, descriptors: list[int], count: int, op: str) -> None:
        if len(descriptors) != count:
            channel.close_all(descriptors)
            raise HostFault(f"{len(descriptors)} descriptors, expected {count}", step=op, object=f"monitor {self.pid}")
