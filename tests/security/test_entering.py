"""Entering a container opens, reads and runs nothing of the image but the final execve (R4).

What happens to the container's file system is told by fanotify(7), from the moment at which its
root is entered; what the process does before that, by its script.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from cri.plan.container import ContainerPlan
from cri.plan.document import decode
from cri.steps.container import plan_init
from proto import api_pb2 as api
from runtime import written
from runtime.linux.script import Script
from runtime.templates import Templates
from tests.security.attacks import Attacked, Code, refused, status_of
from tests.security.images import FIFO, Member, build_loader
from tests.security.watch import Seen, watching

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.leaks("module")]

PROGRAM = {Seen("open", "/bin/probe"), Seen("execute", "/bin/probe"), Seen("read", "/bin/probe")}
"""What execve(2) itself does to a program without a loader."""

BAIT = [
    Member("etc/passwd", content=b"root:x:0:0::/root:/bin/sh\nuser:x:1234:1234::/home/user:/bin/sh\n", mode=0o644),
    *(Member(f"etc/{name}", FIFO, mode=0o644) for name in ("nsswitch.conf", "localtime", "shadow")),
    Member("etc/ld.so.preload", content=b"/hostile-loader\n"),
    Member("hostile-loader", content=build_loader()),
    *(Member(f"sbin/{name}", content=build_loader()) for name in ("init", "ldconfig", "modprobe", "unpigz")),
]
"""What a careless runtime would touch: some would hold it up for ever, some would run."""


def waiting_pid(crisp: Attacked, container: str) -> int:
    """The process that waits for the start, confined already; 0 until it does."""
    pids = crisp.cgroup_file(container, "cgroup.procs").read_text().split()
    return next((int(pid) for pid in pids if status_of(int(pid))["Seccomp"] == "2"), 0)


async def image_of_bait(crisp: Attacked) -> str:
    return await crisp.image(BAIT, {"WorkingDir": "/work/deeper", "User": "user"})


async def test_a_careless_command_touches_the_image(crisp: Attacked) -> None:
    """CVE-2019-14271, CVE-2022-1227, CVE-2026-41567 as they were: who enters a root and then asks who the user is,
    or runs a program that has a loader, opens files of the image; the watch tells of it."""
    image = await image_of_bait(crisp)
    id = await crisp.run(await crisp.run_pod(), crisp.attacker("/bin/probe", "swap", "/a", "/b", "1000", image=image))
    root = f"/proc/{crisp.pid(id)}/root"
    with watching(root) as watch:
        weak = f"import os; os.chroot({root!r}); import pwd; open('/etc/passwd').read(); os.listdir('/etc')"
        subprocess.run([sys.executable, "-c", weak], check=True)
        seen = watch.seen()
        assert {Seen("open", "/etc/passwd"), Seen("read", "/etc/passwd"), Seen("open", "/etc")} <= seen
        weak = f"import os; os.chroot({root!r}); os.execv('/bin/sh', ['sh', '-c', ':'])"
        subprocess.run([sys.executable, "-c", weak], env={}, check=False)
        assert {Seen("open", "/etc/ld.so.preload"), Seen("open", "/hostile-loader")} <= watch.seen()


@pytest.mark.parametrize("how", ["plain", "tty", "read-only", "user by name"])
async def test_a_start_opens_the_entrypoint_alone(how: str, crisp: Attacked) -> None:
    """CVE-2018-15664, CVE-2019-14271, CVE-2022-1227, CVE-2026-41567: from the moment the process has its root."""
    image = await image_of_bait(crisp)
    config = crisp.attacker("/bin/probe", "swap", "/a", "/b", "1000", image=image, tty=how == "tty")
    config.linux.security_context.readonly_rootfs = how == "read-only"
    config.linux.security_context.run_as_username = "user" if how == "user by name" else ""
    id = await crisp.create(await crisp.run_pod(), config)
    await crisp.until(lambda: waiting_pid(crisp, id) > 0)
    with watching(f"/proc/{waiting_pid(crisp, id)}/root") as watch:
        await crisp.start(id)
        assert watch.seen() == PROGRAM


@pytest.mark.parametrize("how", ["plain", "the wrong name", "asked for"])
async def test_a_command_opens_its_program_alone(how: str, crisp: Attacked) -> None:
    """CVE-2019-14271, CVE-2022-1227, CVE-2026-42306: a command enters a root that lives, and touches nothing else."""
    image = await image_of_bait(crisp)
    id = await crisp.run(await crisp.run_pod(), crisp.attacker("/bin/probe", "swap", "/a", "/b", "1000", image=image))
    with watching(f"/proc/{crisp.pid(id)}/root") as watch:
        if how == "asked for":
            asked = api.ExecRequest(container_id=id, cmd=["/bin/probe", "fds"], tty=True, stdin=True, stdout=True)
            await crisp.runtime.Exec(asked)  # nothing is born before somebody connects
            assert watch.seen() == set()
        elif how == "the wrong name":
            await refused(crisp.exec(id, "/none"), Code.FAILED_PRECONDITION, "no such file")
            assert watch.seen() == set()
        else:
            assert (await crisp.say(id, "/bin/probe", "fds")).split() == ["0", "1", "2"]
            assert watch.seen() == PROGRAM


OPENERS = frozenset({"open", "openat", "openat2", "open_tree", "creat", "readlinkat", "mkdirat", "mknodat", "symlinkat",
                     "execveat", "mount", "move_mount", "linkat", "unlinkat", "renameat2", "fsopen"})  # fmt: skip


async def test_the_script_of_a_birth_names_no_path_after_the_pivot_but_the_entrypoint(crisp: Attacked) -> None:
    """CVE-2024-21626, CVE-2019-14271: the calls that follow pivot_root(2), for a container with a volume, a device
    and a working directory. A script that resolves anything later would show one of the openers."""
    config = crisp.attacker("/bin/probe", "fds", image=await image_of_bait(crisp), working_dir="/work/here")
    config.mounts.append(api.Mount(container_path="/data", host_path="/tmp"))
    config.devices.append(api.Device(container_path="/dev/x", host_path="/dev/null", permissions="r"))
    id = await crisp.create(await crisp.run_pod(), config)
    record = crisp.host.store.containers.get(id)
    calls: list[str] = []
    own = Script.call

    def heard(script: Script, name: str, *arguments: Any, **more: Any) -> Any:
        calls.append(name)
        return own(script, name, *arguments, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Script, "call", heard)
        patch.setattr(written, "_TEMPLATES", Templates())  # else it is taken from where it was kept
        assert plan_init(crisp.host, decode(record.plan, ContainerPlan), record.layers, "") is not None
    at = calls.index("pivot_root")
    assert OPENERS & set(calls[:at])  # the mounts before it
    assert not OPENERS & set(calls[at:])
    assert calls.count("execve") == 1
