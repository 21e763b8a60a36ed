"""Each operation of a monitor is one method, with the arguments and descriptors that it says."""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import select
import socket
import struct
import uuid
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from runtime import births, channel
from runtime.channel import Message
from runtime.errors import DeadlineExceeded, FailedPrecondition, HostFault, NotFound, NotSupported, ScriptFailed
from runtime.linux.spawn import MAGIC
from runtime.monitor_client import MonitorClient
from runtime.mountpoints import plan_mountpoints
from runtime.requests import PAUSE_ROOT, Mountpoint, Rootfs
from runtime.written import write_init
from tests.descriptors import open_descriptors

T = TypeVar("T")

NOWHERE: Any = {"v1": [], "v2": None}
USER = {"uid": 0, "gid": 0, "additionalGids": []}
PROCESS: Any = {
    "terminal": False,
    "user": USER,
    "args": ["true"],
    "env": [],
    "cwd": "/",
    "capabilities": dict.fromkeys(("bounding", "effective", "permitted", "inheritable", "ambient"), ()),
    "rlimits": [],
    "noNewPrivileges": False,
}


def sandbox(kinds: list[str]) -> Any:
    made = {"namespaces": kinds, "hostname": "h", "sysctls": {}, "cgroup": NOWHERE, "user": USER}
    return {**made, "no_new_privileges": False, "seccomp": None, "oom_score_adj": 0}


def start(**changes: Any) -> Any:
    linux: Any = {"namespaces": [{"type": kind} for kind in ("pid", "uts", "ipc", "mount")], "devices": []}
    linux.update({"maskedPaths": [], "readonlyPaths": [], "rootfsPropagation": "rslave"})
    spec = {"process": PROCESS, "root": {"readonly": False}, "hostname": "h", "mounts": [], "linux": linux}
    rootfs = {"lowerdirs": ["/l"], "upperdir": "/u", "workdir": "/w", "staging": "/s"}
    made = {"container": "c", "spec": spec, "rootfs": rootfs, "volumes": [], "images": [], "missing_sources": []}
    rest = {"pid_mode": "container", "target": None, "seccomp": None, "log_path": None, "stdin": False}
    return {**made, **rest, "cgroup": NOWHERE, "stdin_once": False, "memory_events": None, **changes}


class Played:
    """A client, and the monitor at its other end, played by the test."""

    def __init__(self) -> None:
        near, self.far = channel.pair()
        self.far.settimeout(5)
        self.client = MonitorClient(near, 42, 1000)
        self.scripts: list[bytes] = []
        """What came with the last request."""

    async def take(self) -> tuple[Message, list[int]]:
        """The next request, which the client may still have to send."""
        while not select.select([self.far], [], [], 0)[0]:
            await asyncio.sleep(0.001)
        received = channel.receive(self.far)
        assert received is not None
        return received

    async def serve(self, call: Awaitable[T], result: Message, descriptors: int = 0) -> tuple[T, str, Message]:
        """What ``call`` returns when it is answered so, and the ``op`` and ``args`` that it sent."""
        task = asyncio.ensure_future(call)
        await asyncio.sleep(0)
        received = channel.receive(self.far)
        assert received is not None
        self.scripts = [os.pread(memfd, 1 << 20, 0) for memfd in received[1][:1]]
        channel.close_all(received[1])
        channel.send(self.far, channel.answer(received[0]["id"], result), [0] * descriptors)
        return await task, received[0]["op"], received[0]["args"]


@pytest.fixture
async def played() -> AsyncIterator[Played]:
    before = open_descriptors()
    made = Played()
    yield made
    made.client.close()
    made.far.close()
    assert open_descriptors() == before


async def test_a_monitor_tells_who_it_is(played: Played) -> None:
    assert await played.serve(played.client.hello(), {"pid": 42}) == ({"pid": 42}, "hello", {})


@pytest.mark.parametrize(("kinds", "count"), [(["network", "ipc"], 3), (["ipc", "pid"], 2), ([], 0)])
async def test_a_sandbox_comes_with_a_descriptor_for_each_namespace(
    played: Played, kinds: list[str], count: int
) -> None:
    made, op, args = await played.serve(played.client.sandbox(sandbox(kinds)), {"pause_pid": 7}, count)
    assert (op, args) == ("sandbox", {"held": [], "new": kinds, "cgroup": NOWHERE})
    assert [script[:4] for script in played.scripts] == [MAGIC.to_bytes(4, "little")]
    assert made.pause_pid == 7
    assert list(made.namespaces) == kinds
    assert (made.netlink is not None) == ("network" in kinds)
    given = [*made.namespaces.values(), *([made.netlink] if made.netlink is not None else [])]
    assert len(set(given)) == count
    channel.close_all(given)


async def test_descriptors_that_are_too_few_are_a_fault_and_closed(played: Played) -> None:
    with pytest.raises(HostFault, match="1 descriptors, expected 2"):
        await played.serve(played.client.sandbox(sandbox(["network"])), {"pause_pid": 7}, 1)


async def test_start_returns_pid_and_time(played: Played) -> None:
    got, op, args = await played.serve(played.client.start(start()), {"pid": 5, "started_at": 9})
    assert (got, op) == ((5, 9), "start")
    assert (args["container"], args["joined"], len(played.scripts)) == ("c", ["ipc", "uts"], 1)


async def test_a_script_is_sent_as_it_would_be_written_whatever_was_sent_before(played: Played) -> None:
    for number in range(3):
        id, pod = secrets.token_hex(32), uuid.uuid4()
        v1 = [f"/sys/fs/cgroup/{kind}/pods/pod{pod}/{id}" for kind in ("cpu,cpuacct", "freezer")]
        cgroup = {"v1": v1, "v2": f"/sys/fs/cgroup/unified/pods/pod{pod}/{id}"}
        source = {"destination": "/data", "type": "bind", "source": f"/pods/{pod}/{id}", "options": ["rbind", "ro"]}
        asked = start(cgroup=cgroup)
        process = {**PROCESS, "env": [f"HOSTNAME=pod-{number}", "PATH=/bin"], "args": ["run", id]}
        asked["spec"] = {**asked["spec"], "mounts": [source], "process": process}
        await played.serve(played.client.start(asked), {"pid": 5, "started_at": 9})
        assert played.scripts == [births.container(asked)[1].bytes()]
        own = {"v1": [v1[0], f"{v1[1]}/exec-{number + 9}"], "v2": f"{cgroup['v2']}/exec-{number + 9}"}
        command: Any = {"container": id, "exec": f"exec-{number + 9}", "process": process, "stdin": False}
        command.update({"cgroup": own, "seccomp": None, "timeout": number})
        _, streams = (await played.serve(played.client.exec(command), {"pid": 5}, 2))[0]
        channel.close_all(streams)
        assert played.scripts == [births.command(command)[1].bytes()]


async def test_what_is_prepared_waits_in_its_script_and_is_released_by_its_name(played: Played) -> None:
    assert played.client.prepare(write_init(start(), waits=True))
    received = channel.receive(played.far)
    assert received is not None
    (memfd,) = received[1]
    expected = births.container_script(start(), None, waits=True).bytes()
    assert (received[0]["op"], os.pread(memfd, 1 << 20, 0)) == ("prepare", expected)
    assert expected != births.container_script(start(), None).bytes()
    channel.close_all(received[1])
    answered = await played.serve(played.client.release("c", start), {"pid": 5, "started_at": 9})
    assert answered == ((5, 9), "release", {"container": "c"})


async def test_a_call_that_fails_after_the_release_is_told_in_the_words_of_the_waiting_script(played: Played) -> None:
    task = asyncio.ensure_future(played.client.release("c", start))
    await asyncio.sleep(0)
    received = channel.receive(played.far)
    assert received is not None
    script = births.container_script(start(), None, waits=True)
    channel.send(played.far, channel.refusal(received[0]["id"], ScriptFailed(script.last - 1, errno.EACCES)))
    with pytest.raises(HostFault) as raised:
        await task
    assert str(raised.value) == str(script.fault(script.last - 1, errno.EACCES))


async def refused(played: Played, call: Awaitable[T], error: Exception) -> T:
    """What ``call`` returns, or raises, when the monitor answers ``error``."""
    task = asyncio.ensure_future(call)
    await asyncio.sleep(0)
    received = channel.receive(played.far)
    assert received is not None
    channel.send(played.far, channel.refusal(received[0]["id"], error))
    return await task


async def test_a_monitor_that_knows_nothing_of_it_has_nothing_prepared(played: Played) -> None:
    with pytest.raises(NotFound, match="older"):
        await refused(played, played.client.release("c", start), NotSupported("unknown operation 'release'"))
    await refused(played, played.client.discard("c"), NotSupported("unknown operation 'discard'"))


async def test_a_release_that_is_not_answered_does_not_wait_for_ever(played: Played) -> None:
    with pytest.raises(DeadlineExceeded):
        await played.client.release("c", start, timeout=0.01)


async def test_a_failed_call_is_told_even_where_there_are_no_words_for_it(played: Played) -> None:
    def gone() -> Any:
        raise NotFound("no such layer")

    with pytest.raises(HostFault, match=r"call 3 .* no such layer"):
        await refused(played, played.client.release("c", gone), ScriptFailed(3, errno.EPERM))


async def test_volumes_are_filled_before_the_start(played: Played) -> None:
    asked = start(volumes=[{"destination": "/data", "source": "/volumes/1"}])
    task = asyncio.ensure_future(played.client.start(asked))
    fill = {key: asked[key] for key in ("rootfs", "volumes", "cgroup")}
    for op, args, count in (("fill_volumes", fill, 0), ("start", None, 1)):
        received = await played.take()
        assert (received[0]["op"], len(received[1])) == (op, count)
        assert args is None or received[0]["args"] == args
        channel.close_all(received[1])
        channel.send(played.far, channel.answer(received[0]["id"], {"pid": 5, "started_at": 9}))
    assert await task == (5, 9)


async def test_a_failed_call_of_the_script_is_told_in_its_words(played: Played) -> None:
    task = asyncio.ensure_future(played.client.start(start()))
    await asyncio.sleep(0)
    received = channel.receive(played.far)
    assert received is not None
    channel.close_all(received[1])
    channel.send(played.far, channel.refusal(received[0]["id"], ScriptFailed(0, errno.EPERM)))
    with pytest.raises(HostFault, match=r"leave the monitor: prctl: operation not permitted \(EPERM\)"):
        await task


@pytest.mark.parametrize(("terminal", "stdin", "count"), [(False, False, 2), (False, True, 3), (True, True, 1)])
async def test_exec_returns_its_streams(played: Played, terminal: bool, stdin: bool, count: int) -> None:
    command: Any = {"container": "c", "exec": "e", "process": {**PROCESS, "terminal": terminal}, "stdin": stdin}
    command.update({"cgroup": NOWHERE, "seccomp": None, "timeout": None})
    (pid, streams), op, _ = await played.serve(played.client.exec(command), {"pid": 5}, count)
    assert (pid, len(streams), op) == (5, count, "exec")
    channel.close_all(streams)


async def test_the_plain_operations_send_what_they_are_given(played: Played) -> None:
    client = played.client
    assert (await played.serve(client.signal("c", 15), {}))[1:] == ("signal", {"container": "c", "signal": 15})
    assert (await played.serve(client.kill("c"), {}))[1:] == ("kill", {"container": "c"})
    assert (await played.serve(client.discard("c"), {}))[1:] == ("discard", {"container": "c"})
    assert (await played.serve(client.forget("c"), {}))[1:] == ("forget", {"container": "c"})
    assert (await played.serve(client.kill_exec("e"), {}))[1:] == ("kill_exec", {"exec": "e"})
    assert (await played.serve(client.reopen_log("c"), {}))[1:] == ("reopen_log", {"container": "c"})
    assert (await played.serve(client.shutdown(), {}))[1:] == ("shutdown", {})


async def test_a_sandbox_of_a_blank_pod_comes_with_what_is_new(played: Played) -> None:
    blank, op, args = await played.serve(played.client.blank(["network", "uts"]), {"pause_pid": 0}, 3)
    assert (op, args, list(blank.namespaces)) == ("blank", {"namespaces": ["network", "uts"]}, ["network", "uts"])
    assert blank.netlink is not None
    request = sandbox(["network", "uts", "pid"])
    made, _, args = await played.serve(played.client.sandbox(request), {"pause_pid": 7}, 1)
    assert (args["held"], args["new"]) == (["network", "uts", PAUSE_ROOT], ["pid"])
    assert (list(made.namespaces), made.netlink) == (["pid"], None)
    channel.close_all([*blank.namespaces.values(), blank.netlink, *made.namespaces.values()])


def in_cgroup(tmp_path: Path) -> Any:
    """A request whose v2 cgroup is there to be opened."""
    return {**sandbox(["network", "uts"]), "cgroup": {"v1": [], "v2": str(tmp_path)}}


async def blank(played: Played) -> socket.socket:
    """The other end of the socket of what waits in a blank pod."""
    task = asyncio.ensure_future(played.client.blank(["network", "uts"]))
    request, (script, theirs) = await played.take()
    os.close(script)
    channel.send(played.far, channel.answer(request["id"], {"pause_pid": 0}), [0] * 3)
    made = await task
    channel.close_all([*made.namespaces.values(), made.netlink or 0])
    return socket.socket(fileno=theirs)


async def test_a_blank_pod_that_lacks_nothing_but_its_name_is_not_the_monitors_matter(
    played: Played, tmp_path: Path
) -> None:
    with await blank(played) as waits:
        assert not (await played.client.sandbox(in_cgroup(tmp_path))).pause_pid
        word, given, _, _ = socket.recv_fds(waits, 10, 2)
        assert (word, os.pread(given[0], 4, 0), len(given)) == (b"!", MAGIC.to_bytes(4, "little"), 2)
        assert os.path.samestat(os.fstat(given[1]), tmp_path.stat())
        _, (running,), _, _ = socket.recv_fds(waits, 10, 1)
        os.pwrite(given[0], struct.pack("=i", 4711), 8)  # it is born
        channel.close_all([*given, running])  # and has executed
    assert await played.client.wait_for_pause() == 4711
    with pytest.raises(FailedPrecondition, match="none is on its way"):
        await played.client.wait_for_pause()


async def test_pause_is_the_monitors_matter_where_the_one_that_waited_is_dead(played: Played, tmp_path: Path) -> None:
    (await blank(played)).close()
    made, op, args = await played.serve(played.client.sandbox(in_cgroup(tmp_path)), {"pause_pid": 7}, 0)
    assert (op, args["held"], args["new"], made.pause_pid) == ("sandbox", ["network", "uts", PAUSE_ROOT], [], 7)


async def test_pause_is_the_monitors_matter_where_the_one_that_waited_has_died_before_it_read(
    played: Played, tmp_path: Path
) -> None:
    waits = await blank(played)
    assert not (await played.client.sandbox(in_cgroup(tmp_path))).pause_pid
    waits.close()
    waited = asyncio.ensure_future(played.client.wait_for_pause())
    request, descriptors = await played.take()
    channel.close_all(descriptors)
    channel.send(played.far, channel.answer(request["id"], {"pause_pid": 7}))
    assert (await waited, request["op"], request["args"]["new"]) == (7, "sandbox", [])


async def test_a_blank_pod_that_could_not_be_made_leaves_nothing(played: Played) -> None:
    task = asyncio.ensure_future(played.client.blank(["uts"]))
    request, descriptors = await played.take()
    channel.close_all(descriptors)
    channel.send(played.far, channel.refusal(request["id"], HostFault("no", step="x")))
    with pytest.raises(HostFault, match="x: no"):
        await task


async def test_a_user_is_resolved(played: Played) -> None:
    request: Any = {"user": "app"}
    user = {"uid": 1, "gid": 1, "additionalGids": [], "home": "/"}
    assert await played.serve(played.client.resolve_user(request), user) == (user, "resolve_user", request)


async def test_a_path_of_an_image_is_found(played: Played) -> None:
    rootfs = start()["rootfs"]
    asked = {"rootfs": rootfs, "path": "data"}
    found = {"directory": True}
    looked = played.client.find_in_image(rootfs, "data")
    assert await played.serve(looked, found) == (found, "find_in_image", asked)


async def test_events_and_the_end_are_told(played: Played) -> None:
    events: list[Message] = []
    ended: list[bool] = []
    played.client.on_event(events.append)
    played.client.on_close(lambda: ended.append(True))
    channel.send(played.far, {"event": "exit"})
    await asyncio.sleep(0.01)
    played.far.close()
    await played.client.wait_closed()
    await asyncio.sleep(0)
    assert (events, ended, played.client.closed) == ([{"event": "exit"}], [True], True)


@pytest.mark.parametrize(
    ("count", "stdin", "near", "typed"), [(2, True, 2, False), (3, True, 2, True), (2, False, 2, False)]
)
async def test_an_attach_comes_with_what_can_be_read_and_typed_into(
    played: Played, count: int, stdin: bool, near: int, typed: bool
) -> None:
    call = played.client.attach("one", "a", ["stdout", "stderr"], stdin=stdin)
    (outputs, input), op, args = await played.serve(call, {}, count)
    assert (op, args) == (
        "attach",
        {"container": "one", "attach": "a", "streams": ["stdout", "stderr"], "stdin": stdin},
    )
    assert len(outputs) == near and (input is not None) == typed
    channel.close_all([*outputs, *filter(None, [input])])


@pytest.mark.parametrize(("count", "stdin"), [(1, True), (3, False), (4, True)])
async def test_an_attach_with_other_descriptors_is_refused_and_they_are_closed(
    played: Played, count: int, stdin: bool
) -> None:
    with pytest.raises(HostFault, match=f"{count} descriptors, expected 2"):
        await played.serve(played.client.attach("one", "a", ["stdout", "stderr"], stdin=stdin), {}, count)


async def test_stdin_is_ended_and_a_terminal_resized_by_name(played: Played) -> None:
    assert (await played.serve(played.client.close_stdin("one"), {}))[1:] == ("close_stdin", {"container": "one"})
    _, op, args = await played.serve(played.client.resize("one", 80, 24), {})
    assert (op, args) == ("resize", {"container": "one", "width": 80, "height": 24})


async def test_mountpoints_are_made_by_a_script(played: Played) -> None:
    rootfs: Rootfs = {"lowerdirs": ["/l"], "upperdir": "/u", "workdir": "/w", "staging": "/s"}
    places = [Mountpoint(path="/etc/hosts", kind="file")]
    _, op, args = await played.serve(played.client.make_mountpoints(rootfs, places), {})
    assert (op, args, played.scripts) == ("make_mountpoints", {}, [plan_mountpoints(rootfs, places).bytes()])
