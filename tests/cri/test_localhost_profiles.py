"""Seccomp profiles of the node's: what was read at the creation holds for all that ever runs in the container."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from cri.plan.container import ContainerPlan
from cri.plan.document import decode
from cri.settings import Settings
from proto import api_pb2 as api
from tests.cri.harness import Crisp, start

MKDIR = "mkdir /tmp/made 2>/dev/null && echo made || echo refused; rmdir /tmp/made 2>/dev/null; :"

RECORDED = """
access arch_prctl brk capset clone close dup2 execve exit_group fcntl fstat futex getcwd getdents64 getegid geteuid
getgid getpgrp getpid getppid getrandom gettid getuid ioctl lseek mmap mprotect munmap newfstatat openat prctl pread64
prlimit64 read readlink rseq rt_sigaction rt_sigprocmask rt_sigreturn set_robust_list set_tid_address statx uname vfork
wait4 write writev
"""


def write(path: Path, *names: str, action: str = "SCMP_ACT_ERRNO", **more: Any) -> str:
    calls = [{"names": list(names), "action": action}]
    path.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": calls, **more}))
    return str(path)


def localhost(config: api.ContainerConfig | api.PodSandboxConfig, path: str) -> None:
    seccomp = config.linux.security_context.seccomp
    seccomp.profile_type, seccomp.localhost_ref = api.SecurityProfile.Localhost, path


def fields(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


async def pid_of(crisp: Crisp, container: str) -> int:
    return int(crisp.host.store.containers.get(container).pid or 0)


@pytest.mark.parametrize("deprecated", [False, True])
async def test_a_profile_of_the_nodes_decides(crisp: Crisp, tmp_path: Path, deprecated: bool) -> None:
    path = write(tmp_path / "p.json", "mkdir", "mkdirat", "no_such_call")
    config = crisp.container("sh", "-c", MKDIR)
    if deprecated:
        config.linux.security_context.ClearField("seccomp")
        config.linux.security_context.seccomp_profile_path = f"localhost/{path}"
    else:
        localhost(config, path)
    sandbox = await crisp.run_pod()
    id = await crisp.run(sandbox, config)
    await crisp.wait_exit(id)
    assert crisp.log(id) == "refused"
    free = await crisp.run(sandbox, crisp.container("sh", "-c", MKDIR, name="free"))
    await crisp.wait_exit(free)
    assert crisp.log(free) == "made"


async def test_the_file_is_read_once(crisp: Crisp, tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    config = crisp.container("sleep", "1000")
    localhost(config, write(path, "mkdir", "mkdirat"))
    id = await crisp.create(await crisp.run_pod(), config)
    write(path, "execve", action="SCMP_ACT_KILL_PROCESS")
    await crisp.start(id)
    path.unlink()
    said = await crisp.exec(id, "sh", "-c", MKDIR)
    assert said.stdout == b"refused\n"
    plan = decode(crisp.host.store.containers.get(id).plan, ContainerPlan)
    assert plan.spec["linux"]["seccomp"]["syscalls"][0]["names"] == ["mkdir", "mkdirat"]


async def test_commands_are_under_it_after_a_restart_and_without_a_cache(
    new_settings: Callable[[], Settings], tmp_path: Path
) -> None:
    settings = new_settings()
    async with contextlib.AsyncExitStack() as undo:
        first = await start(settings, undo)
        await first.import_demo_image()
        config = first.container("sleep", "1000")
        localhost(config, write(tmp_path / "p.json", "mkdir", "mkdirat", flags=[]))
        id = await first.run(await first.run_pod(), config)
        left = list(first.host.pods.values())
        first.host.pods.clear()
    for pod in left:
        pod.monitor.close()
    for program in Path(settings.root, "cache", "seccomp").glob("*"):
        program.unlink()
    (tmp_path / "p.json").unlink()
    async with contextlib.AsyncExitStack() as undo:
        second = await start(settings, undo)
        assert (await second.exec(id, "sh", "-c", MKDIR)).stdout == b"refused\n"
        await second.remove_all()
        await second.settle()


async def test_in_a_user_namespace_it_is_loaded_by_the_rights_there(crisp: Crisp, tmp_path: Path) -> None:
    ids = [api.IDMapping(host_id=500_000, length=65_536)]
    options = api.NamespaceOption(pid=api.CONTAINER, userns_options=api.UserNamespace(uids=ids, gids=ids))
    pod, path = crisp.pod(), write(tmp_path / "p.json", "mkdir", "mkdirat")
    pod.linux.security_context.namespace_options.CopyFrom(options)
    localhost(pod, path)
    sandbox = await crisp.run_pod(pod)
    for number, (uid, forbidden) in enumerate(((0, False), (0, True), (1000, False))):
        config = crisp.container("sleep", "1000", name=f"mapped-{number}")
        context = config.linux.security_context
        context.namespace_options.CopyFrom(options)
        context.run_as_user.value, context.no_new_privs = uid, forbidden
        localhost(config, path)
        id = await crisp.run(sandbox, config)
        assert (await crisp.exec(id, "sh", "-c", MKDIR)).stdout == b"refused\n"
        found = fields(await pid_of(crisp, id))
        assert (found["Seccomp"], found["NoNewPrivs"]) == ("2", str(int(forbidden)))


async def test_pause_is_under_the_pods(crisp: Crisp, tmp_path: Path) -> None:
    pod = crisp.pod()
    localhost(pod, write(tmp_path / "p.json", "mkdir"))
    sandbox = await crisp.run_pod(pod)
    pid = crisp.host.store.sandboxes.get(sandbox).pause_pid
    assert fields(pid)["Seccomp"] == "2"


async def test_a_privileged_container_has_none(crisp: Crisp, tmp_path: Path) -> None:
    pod, config = crisp.pod(), crisp.container("sleep", "1000")
    pod.linux.security_context.privileged = config.linux.security_context.privileged = True
    localhost(config, str(tmp_path / "absent.json"))
    id = await crisp.run(await crisp.run_pod(pod), config)
    assert fields(await pid_of(crisp, id))["Seccomp"] == "0"


async def test_flags_and_actions_reach_the_kernel(crisp: Crisp, tmp_path: Path) -> None:
    sandbox = await crisp.run_pod()
    flags = ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC"]
    for action, code in (("SCMP_ACT_KILL_PROCESS", 159), ("SCMP_ACT_TRAP", 159), ("SCMP_ACT_LOG", 0)):
        config = crisp.container("sh", "-c", "mkdir /tmp/x", name=action)
        localhost(config, write(tmp_path / "p.json", "mkdir", "mkdirat", action=action, flags=flags))
        config.command[:] = ["mkdir", "/tmp/x"]
        id = await crisp.run(sandbox, config)
        assert (await crisp.wait_exit(id)).exit_code == code, action


async def test_an_allow_list_need_not_know_what_crisp_does(crisp: Crisp, tmp_path: Path) -> None:
    """What a recorder saw of the program under another runtime, and of that one's end."""
    names = RECORDED.split()
    path = tmp_path / "p.json"
    path.write_text(
        json.dumps({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}]})
    )
    sandbox = await crisp.run_pod()
    for number, forbidden in enumerate((False, True)):
        config = crisp.container("sh", "-c", "echo fine", name=f"listed-{number}")
        config.linux.security_context.no_new_privs = forbidden
        config.linux.security_context.run_as_user.value = 1000
        localhost(config, str(path))
        id = await crisp.run(sandbox, config)
        await crisp.wait_exit(id)
        assert crisp.log(id) == "fine"


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (None, grpc.StatusCode.NOT_FOUND, "there is no such seccomp profile"),
        ("", grpc.StatusCode.FAILED_PRECONDITION, "is not valid"),
        ('{"defaultAction": "SCMP_ACT_NOTIFY"}', grpc.StatusCode.FAILED_PRECONDITION, "no listener"),
        ('{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{}]}', grpc.StatusCode.FAILED_PRECONDITION, "syscalls[0]"),
        (" " * (1 << 21), grpc.StatusCode.RESOURCE_EXHAUSTED, "larger than"),
    ],
)
async def test_what_is_no_profile_is_refused_before_anything_is_done(
    crisp: Crisp, tmp_path: Path, content: str | None, code: grpc.StatusCode, words: str
) -> None:
    path = tmp_path / "p.json"
    if content is not None:
        path.write_text(content)
    sandbox = await crisp.run_pod()
    pod, config = crisp.pod(), crisp.container()
    localhost(pod, str(path))
    localhost(config, str(path))
    before = sorted(os.listdir(crisp.host.root / "containers")), sorted(os.listdir(f"{crisp.host.settings.state}/pods"))
    for asked in (crisp.run_pod(pod), crisp.create(sandbox, config)):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await asked
        assert refused.value.code() == code and words in str(refused.value.details())
    assert before == (
        sorted(os.listdir(crisp.host.root / "containers")),
        sorted(os.listdir(f"{crisp.host.settings.state}/pods")),
    )
    config.linux.security_context.seccomp.profile_type = api.SecurityProfile.RuntimeDefault
    config.linux.security_context.seccomp.localhost_ref = ""
    assert await crisp.create(sandbox, config)
