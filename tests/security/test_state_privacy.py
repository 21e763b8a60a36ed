"""What crisp keeps is private, and what it says is said to nobody else (R9, R12)."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from cri.assembly import make_directory
from proto import api_pb2 as api
from tests.security.attacks import Attacked, Code, refused
from tests.security.images import Member

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.leaks("module")]


def as_nobody(*command: str) -> subprocess.CompletedProcess[str]:
    command = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command)
    return subprocess.run(command, capture_output=True, text=True)


async def test_another_user_cannot_walk_the_state(crisp: Attacked, tmp_path: Path) -> None:
    """CVE-2021-41103, CVE-2021-41091, CVE-2024-25621: a setuid program of an image lies below root."""
    name = await crisp.image([Member("bin/setuid", mode=0o4755, content=b"#!/bin/sh\n")])
    pod = await crisp.run_pod()
    id = await crisp.run(pod, crisp.attacker("sleep", "1000", image=name))
    for place in (crisp.host.root, crisp.host.state):
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
        for folder, _, names in os.walk(place):
            ended = as_nobody("ls", "-d", folder, *(f"{folder}/{name}" for name in names[:20]))
            assert ended.returncode and "ermission denied" in ended.stderr and not ended.stdout
    assert id in "".join(os.listdir(crisp.host.root / "containers"))

    for above in (tmp_path, *tmp_path.parents):
        if str(above) != "/" and above.owner() == "root":
            above.chmod(above.stat().st_mode | 0o005)
    (tmp_path / "weak").mkdir(mode=0o711)
    (tmp_path / "weak" / "setuid").touch()
    assert as_nobody("ls", str(tmp_path / "weak" / "setuid")).returncode == 0


async def test_directories_are_private_again_after_an_upgrade(crisp: Attacked, tmp_path: Path) -> None:
    """CVE-2024-25621: a directory that an older version made with another mode."""
    (tmp_path / "old").mkdir(mode=0o755)
    assert stat.S_IMODE(make_directory(str(tmp_path / "old")).stat().st_mode) == 0o700


async def test_sockets_and_files_are_of_root(crisp: Attacked) -> None:
    """CVE-2020-15257: modes of every socket, and nothing that others may write."""
    pod = await crisp.run_pod()
    await crisp.run(pod, crisp.attacker("sleep", "1000"))
    listen = Path(crisp.host.settings.listen.removeprefix("unix://"))
    assert stat.S_IMODE(listen.stat().st_mode) == 0o660 and listen.stat().st_uid == 0
    assert stat.S_IMODE((crisp.host.state / "admin.sock").stat().st_mode) == 0o600
    places = [Path(folder, name) for folder, _, names in os.walk(crisp.host.state) for name in names]
    sockets = [path for path in places if path.is_socket()]
    assert any(path.name == "monitor.sock" for path in sockets)
    assert all(not stat.S_IMODE(path.stat().st_mode) & 0o077 for path in sockets)
    database = crisp.host.root / "state.db"
    assert not stat.S_IMODE(database.stat().st_mode) & 0o077
    shared = [path for path in places if path.lstat().st_mode & 0o022 and not path.is_symlink()]
    assert [path for path in shared if "/shm/" not in str(path)] == []


async def test_no_socket_is_abstract(crisp: Attacked) -> None:
    """CVE-2020-15257: a container in the node's network sees abstract sockets, and none of them is ours."""
    config = crisp.pod()
    config.hostname = ""
    config.linux.security_context.namespace_options.network = api.NODE
    pod = await crisp.run_pod(config)
    attacker = crisp.attacker("sleep", "1000")
    attacker.linux.security_context.namespace_options.network = api.NODE
    id = await crisp.run(pod, attacker)
    with socket.socket(socket.AF_UNIX) as weak:
        weak.bind(f"\0crisp-test-{os.getpid()}")
        weak.listen()
        seen = [line.split()[-1] for line in (await crisp.say(id, "cat", "/proc/net/unix")).splitlines()]
        assert f"@crisp-test-{os.getpid()}" in seen
        ours = {each for each in seen if each.startswith("@") and ("crisp" in each or "monitor" in each)}
    assert ours == {f"@crisp-test-{os.getpid()}"}


def start_of(crisp: Attacked, id: str) -> Awaitable[Any]:
    started: Awaitable[Any] = crisp.runtime.StartContainer(api.StartContainerRequest(container_id=id))
    return started


async def test_a_log_is_never_written_through_a_link(crisp: Attacked, tmp_path: Path) -> None:
    """Row 34: a link at log_path, to a file, a pipe and a device, at the start and when it is opened again."""
    victim = tmp_path / "victim"
    victim.write_text("marker\n")
    weak = tmp_path / "weak.log"
    weak.symlink_to(victim)
    with open(weak, "a") as log:
        log.write("written\n")
    assert victim.read_text() == "marker\nwritten\n"

    config = crisp.pod()
    pod = await crisp.run_pod(config)
    folder = Path(config.log_directory)
    folder.mkdir(parents=True)
    os.mkfifo(tmp_path / "pipe")
    for target in (str(victim), str(tmp_path / "pipe"), "/dev/null", str(tmp_path / "dangling")):
        container = crisp.attacker("echo", "hello", log_path="0.log")
        (folder / "0.log").symlink_to(target)
        id = await crisp.create(pod, container)
        await refused(start_of(crisp, id), Code.INVALID_ARGUMENT, "open the log.*ELOOP")
        (folder / "0.log").unlink()
    os.mkfifo(folder / "pipe")
    id = await crisp.create(pod, crisp.attacker("echo", "hello", log_path="pipe"))
    await refused(start_of(crisp, id), Code.INVALID_ARGUMENT, "open the log")
    id = await crisp.run(pod, crisp.attacker("sleep", "1000", log_path="1.log"))
    (folder / "1.log").unlink()
    (folder / "1.log").symlink_to(victim)
    reopen = crisp.runtime.ReopenContainerLog(api.ReopenContainerLogRequest(container_id=id))
    await refused(reopen, Code.INVALID_ARGUMENT, "open the log.*ELOOP")
    assert victim.read_text() == "marker\nwritten\n" and not (tmp_path / "dangling").exists()


async def test_a_log_is_never_written_below_a_link(crisp: Attacked, tmp_path: Path) -> None:
    """Row 34: a directory of log_path is a link, planted by whoever may write to the log directory."""
    config = crisp.pod()
    pod = await crisp.run_pod(config)
    folder = Path(config.log_directory)
    folder.mkdir(parents=True)
    (folder / "main").symlink_to(tmp_path)
    id = await crisp.create(pod, crisp.attacker("echo", "hello", log_path="main/0.log"))
    await refused(start_of(crisp, id), Code.INVALID_ARGUMENT, "open the log.*ELOOP")
    assert os.listdir(tmp_path) == []


async def test_a_directory_of_logs_that_is_exchanged_all_the_time_leads_nowhere(
    crisp: Attacked, tmp_path: Path
) -> None:
    """CVE-2021-25741 by way of the logs: a pod that may write to its log directory exchanges a part of it for a link,
    in a loop of renameat2(2), while containers start. What is checked and then opened by its path, the weak variant,
    is behind the link."""
    victim, logs = tmp_path / "victim", tmp_path / "logs"
    victim.mkdir()
    (logs / "a").mkdir(parents=True)
    (logs / "b").symlink_to(victim)
    assert not (logs / "a").is_symlink()
    (logs / "a").rename(logs / "c")
    (logs / "b").rename(logs / "a")
    (logs / "a/0.log").write_text("hello\n")
    assert os.listdir(victim) == ["0.log"]
    (victim / "0.log").unlink()
    (logs / "a").rename(logs / "b")
    (logs / "c").rename(logs / "a")

    pod = await crisp.run_pod(crisp.pod(log_directory=str(logs)))
    racer = crisp.attacker("sleep", "1000", log_path="racer.log")
    racer.mounts.append(api.Mount(container_path="/logs", host_path=str(logs)))
    swaps, racing = ("probe", "swap", "/logs/a", "/logs/b", "2"), await crisp.run(pod, racer)
    outcomes = {True: 0, False: 0}
    while not all(outcomes.values()):
        race = asyncio.create_task(crisp.say(racing, *swaps))
        while not race.done():
            id = await crisp.create(pod, crisp.attacker("echo", "hello", log_path=f"a/{sum(outcomes.values())}.log"))
            try:
                await start_of(crisp, id)
            except grpc.aio.AioRpcError as error:
                assert error.code() is Code.INVALID_ARGUMENT, error.details()
                outcomes[False] += 1
            else:
                outcomes[True] += 1
        assert int(await race) > 1000
    assert os.listdir(victim) == []


async def test_an_id_is_no_path(crisp: Attacked, tmp_path: Path) -> None:
    """CVE-2025-0750: names that lead out of a directory never become one. A path that is joined does, the weak variant,
    and what lies there is cleaned up."""
    (tmp_path / "victim").mkdir()
    (tmp_path / "state/pods").mkdir(parents=True)
    shutil.rmtree(os.path.join(tmp_path, "state/pods", "../../victim"))
    assert os.listdir(tmp_path) == ["state"]
    mounts = Path("/proc/self/mountinfo").read_text()
    for uid in ("../..", "..", "a/../../b", "/etc"):
        config = crisp.pod()
        config.metadata.uid = uid
        await refused(crisp.run_pod(config), Code.INVALID_ARGUMENT, "uid")
        for stop in (
            crisp.runtime.StopPodSandbox(api.StopPodSandboxRequest(pod_sandbox_id=uid)),
            crisp.runtime.RemovePodSandbox(api.RemovePodSandboxRequest(pod_sandbox_id=uid)),
            crisp.runtime.RemoveContainer(api.RemoveContainerRequest(container_id=uid)),
        ):
            await stop
    assert Path("/proc/self/mountinfo").read_text() == mounts


async def test_files_of_the_pod_are_not_writable_with_a_read_only_root(crisp: Attacked) -> None:
    """CVE-2020-8557: what crisp made for /etc cannot be filled where the root is read-only, else it can be."""
    pod = await crisp.run_pod()
    files = Path(crisp.host.pod_directory(pod)) / "files"
    weak, config = crisp.attacker("sleep", "1000"), crisp.attacker("sleep", "1000")
    config.linux.security_context.readonly_rootfs = True
    id = await crisp.run(pod, config)
    before = {name: (files / name).read_bytes() for name in ("hosts", "hostname", "resolv.conf")}
    for name in before:
        assert "Read-only" in await crisp.say(id, "sh", "-c", f"echo hostile >> /etc/{name}")
    assert before == {name: (files / name).read_bytes() for name in before}
    assert await crisp.say(await crisp.run(pod, weak), "sh", "-c", "echo 1.1.1.1 a >> /etc/hosts") == ""
    assert (files / "hosts").read_bytes() == before["hosts"] + b"1.1.1.1 a\n"
