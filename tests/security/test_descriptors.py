"""No descriptor and no directory of the host reaches a container (R3)."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import grpc.aio
import pytest

from proto import api_pb2 as api
from tests.security.attacks import Attacked, Code, refused
from tests.security.images import symlink

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.leaks("module")]

FD_LINKS = [symlink(f"fd{n}", f"/proc/self/fd/{n}") for n in range(3, 40)]


def weak_start(root: Path, cwd: str) -> str:
    """What a runtime shows that enters ``root`` with a descriptor of the host open and then changes to ``cwd``."""
    code = (
        "import os, sys\n"
        "os.open('/', os.O_RDONLY | os.O_DIRECTORY)\n"
        f"os.chroot({str(root)!r})\n"
        f"os.chdir({cwd!r})\n"
        "print('\\n'.join(os.listdir('.')))\n"
    )
    script = 'mount --bind /proc "$1/proc" && exec "$2" -c "$3"'
    command = ["unshare", "--mount", "sh", "-c", script, "sh", str(root), sys.executable, code]
    return subprocess.run(command, capture_output=True, text=True).stdout


async def test_a_leaked_descriptor_leads_a_weak_runtime_to_the_host(tmp_path: Path) -> None:
    """CVE-2024-21626 as it was."""
    (tmp_path / "proc").mkdir()
    assert set(os.listdir("/")) <= set(weak_start(tmp_path, "/proc/self/fd/3").split("\n"))


@pytest.mark.parametrize("number", [0, 3, 7, 8, 1024])
async def test_a_working_directory_that_is_a_descriptor_is_refused(number: int, crisp: Attacked) -> None:
    """CVE-2024-21626: WORKDIR /proc/self/fd/N, of the request and of the image."""
    pod = await crisp.run_pod()
    for path in (f"/proc/self/fd/{number}", f"//proc//self/fd/{number}", f"/proc/1/fd/{number}"):
        await refused(crisp.create(pod, crisp.attacker("pwd", working_dir=path)), Code.INVALID_ARGUMENT, "working_dir")
    name = await crisp.image(settings={"WorkingDir": f"/proc/self/fd/{number}"})
    await refused(crisp.create(pod, crisp.attacker("pwd", image=name)), Code.FAILED_PRECONDITION, "WORKDIR")


async def test_a_link_to_any_descriptor_is_no_working_directory(crisp: Attacked) -> None:
    """CVE-2024-21626 by way of a link in the image, which no check of the text can see."""
    name = await crisp.image(FD_LINKS)
    pod = await crisp.run_pod()

    async def attempt(path: str) -> None:
        id = await crisp.create(pod, crisp.attacker("ls", image=name, working_dir=path))
        start = crisp.runtime.StartContainer(api.StartContainerRequest(container_id=id))
        await refused(start, Code.FAILED_PRECONDITION, "find the working directory")
        status = await crisp.status(id)
        assert (status.state, status.reason, status.exit_code) == (api.CONTAINER_EXITED, "StartError", 128)

    for member in FD_LINKS:
        await attempt(f"/{member.name}")
    await attempt("/fd7/../../..")


async def test_a_container_and_a_command_have_three_descriptors(crisp: Attacked) -> None:
    """CVE-2024-21626: nothing but the standard streams is inherited."""
    pod = await crisp.run_pod()
    assert await crisp.output(pod, crisp.attacker("probe", "fds")) == ["0", "1", "2"]
    id = await crisp.run(pod, crisp.attacker("sleep", "1000"))
    assert (await crisp.say(id, "probe", "fds")).split() == ["0", "1", "2"]
    assert sorted(os.listdir(f"/proc/{crisp.pid(id)}/fd")) == ["0", "1", "2"]


async def test_a_directory_that_becomes_a_link_does_not_lead_a_command_out(crisp: Attacked) -> None:
    """CVE-2024-21626, exec: the container replaces its own working directory by a link to a descriptor."""
    pod = await crisp.run_pod()
    id = await crisp.run(pod, crisp.attacker("sleep", "1000", working_dir="/work"))
    host = set(os.listdir("/")) - set(os.listdir(f"/proc/{crisp.pid(id)}/root"))
    assert host
    for number in range(30):
        await crisp.say(id, "sh", "-c", f"cd /; rm -rf /work; ln -s /proc/self/fd/{number} /work")
        try:
            said = await crisp.say(id, "sh", "-c", "pwd; ls -a . .. ../..")
        except grpc.aio.AioRpcError as error:
            assert "working directory" in str(error.details())
        else:
            assert not host & set(said.split())
        work = Path(f"/proc/{crisp.pid(id)}/root/work")  # by the host: no command gets there any more
        work.unlink()
        work.mkdir()


async def watch(crisp: Attacked, watcher: str, seconds: int) -> list[str]:
    return (await crisp.say(watcher, "probe", "watch", str(seconds))).splitlines()


async def shared_pod(crisp: Attacked) -> tuple[str, str]:
    """A pod in whose one PID namespace pause, a watcher with CAP_SYS_PTRACE and its victims live; the watcher."""
    config = crisp.pod()
    config.linux.security_context.namespace_options.pid = api.POD
    pod = await crisp.run_pod(config)
    watcher = crisp.attacker("sleep", "1000")
    watcher.linux.security_context.namespace_options.pid = api.POD
    watcher.linux.security_context.capabilities.add_capabilities.append("SYS_PTRACE")
    return pod, await crisp.run(pod, watcher)


async def test_a_process_that_joins_carelessly_shows_the_host(crisp: Attacked) -> None:
    """CVE-2016-9962 as it was: a joining process that is dumpable, with the host's root and descriptors."""
    _, watcher = await shared_pod(crisp)
    command = ["nsenter", f"--target={crisp.pid(watcher)}", "--pid", "setpriv", "--bounding-set=-all,+chown", "sleep"]
    held = os.open("/", os.O_RDONLY)
    careless = subprocess.Popen([*command, "1.5"], pass_fds=[held])
    os.close(held)
    seen = await watch(crisp, watcher, 1)
    careless.wait()
    host = os.stat("/etc/passwd")
    assert f"passwd {host.st_dev}:{host.st_ino}" in seen and "fd /" in seen


async def test_a_command_that_joins_cannot_be_looked_into(crisp: Attacked) -> None:
    """CVE-2016-9962: /proc/PID of joining processes is polled during 200 commands and 20 starts, in vain.

    The watcher has no CAP_SYS_PTRACE, which would be the right to look at everybody.
    """
    config = crisp.pod()
    config.linux.security_context.namespace_options.pid = api.POD
    pod = await crisp.run_pod(config)

    def member(*command: str) -> api.ContainerConfig:
        container = crisp.attacker(*command)
        container.linux.security_context.namespace_options.pid = api.POD
        return container

    watcher, victim = await crisp.run(pod, member("sleep", "1000")), await crisp.run(pod, member("sleep", "1000"))
    watching = asyncio.create_task(watch(crisp, watcher, 5))
    await asyncio.sleep(0.1)
    for _ in range(20):
        await asyncio.gather(*(crisp.exec(victim, "true") for _ in range(10)))
        await crisp.run(pod, member("true"))
        if watching.done():
            break
    seen = await watching
    looks = next(int(line.split()[1]) for line in seen if line.startswith("looks"))
    assert looks > 100
    host = os.stat("/etc/passwd")
    assert f"passwd {host.st_dev}:{host.st_ino}" not in seen
    harmless = ("fd pipe:", "fd /dev/null", "fd /proc", "fd /lib", "fd /etc/ld.so", "exe /bin/", "cwd /", "root /")
    strange = [line for line in seen if line.startswith(("fd", "exe", "cwd", "root")) and not line.startswith(harmless)]
    assert strange == []
    text = "\n".join(line for line in seen if not line.startswith("passwd"))
    for word in ("python", str(crisp.host.root), str(crisp.host.state), "socket:", "CRISP", "anon_inode", "memfd"):
        assert word not in text
    assert "exe /bin/sleep" in seen


async def test_pause_shows_nothing(crisp: Attacked) -> None:
    """CVE-2016-9962: with CAP_SYS_PTRACE, pause has an empty root, no environment and no descriptor of the host."""
    pod, watcher = await shared_pod(crisp)
    script = "ls -A /proc/1/root; tr '\\0' '\\n' < /proc/1/environ; readlink /proc/1/exe; readlink /proc/1/cwd"
    said = (await crisp.say(watcher, "sh", "-c", f"{script}; for f in /proc/1/fd/*; do readlink $f; done")).splitlines()
    assert said == ["/", "/"]
    wrote = await crisp.say(watcher, "sh", "-c", "touch /proc/1/root/x && echo made")
    assert "made" not in wrote
    status = Path(f"/proc/{crisp.host.store.sandboxes.get(pod).pause_pid}/status").read_text()
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert f"{name}:\t{0:016x}" in status
