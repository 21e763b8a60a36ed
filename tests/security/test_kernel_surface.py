"""What a container can reach of the kernel: system calls, masked paths, control groups, mounts, devices."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
from pathlib import Path

import pytest

from proto import api_pb2 as api
from tests.security.attacks import Attacked, Code, refused, status_of

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.leaks("module"),
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers of system calls are those of x86_64"),
]

SOCKET, UNSHARE, CLONE3, MOUNT, PTRACE, SETNS, SETHOSTNAME = 41, 272, 435, 165, 101, 308, 170
AF_ALG, AF_VSOCK, AF_INET = 38, 40, 2
NEWUSER, NEWNS = 0x10000000, 0x00020000

REFUSED: list[tuple[str, int, tuple[str | int, ...]]] = [
    ("AF_ALG, CVE-2026-31431", errno.EPERM, (SOCKET, AF_ALG, 5, 0)),
    ("AF_VSOCK", errno.EPERM, (SOCKET, AF_VSOCK, 1, 0)),
    ("unshare user, CVE-2022-0492", errno.EPERM, (UNSHARE, NEWUSER)),
    ("unshare mount", errno.EPERM, (UNSHARE, NEWNS)),
    ("clone3", errno.ENOSYS, (CLONE3, "%88", 88)),
    ("clone with a user namespace", errno.EPERM, (56, NEWUSER | 17, 0, 0, 0, 0)),
    ("mount", errno.EPERM, (MOUNT, "@none", "@/tmp", "@tmpfs", 0, 0)),
    ("fsopen", errno.EPERM, (430, "@tmpfs", 0)),
    ("open_tree", errno.EPERM, (428, -100, "@/", 1)),
    ("move_mount", errno.EPERM, (429, -100, "@/tmp", -100, "@/root", 0)),
    ("setns", errno.EPERM, (SETNS, 0, 0)),
    ("pivot_root", errno.EPERM, (155, "@/", "@/")),
    ("io_uring_setup", errno.EPERM, (425, 1, "%120")),
    ("bpf", errno.EPERM, (321, 0, "%128", 128)),
    ("perf_event_open", errno.EPERM, (298, "%128", 0, -1, -1, 0)),
    ("userfaultfd", errno.EPERM, (323, 0)),
    ("keyctl", errno.EPERM, (250, 0, 0)),
    ("add_key", errno.EPERM, (248, "@user", "@x", "@y", 1, -3)),
    ("kexec_load", errno.EPERM, (246, 0, 0, 0, 0)),
    ("init_module", errno.EPERM, (175, "%8", 8, "@")),
    ("open_by_handle_at", errno.EPERM, (304, 0, "%16", 0)),
    ("reboot", errno.EPERM, (169, 0, 0, 0, 0)),
    ("personality", errno.EPERM, (135, 0x40000)),
    ("swapon", errno.EPERM, (167, "@/tmp", 0)),
    ("settimeofday", errno.EPERM, (164, "%16", 0)),
    ("sethostname", errno.EPERM, (SETHOSTNAME, "@x", 1)),
    ("syslog", errno.EPERM, (103, 3, "%64", 64)),
    ("iopl", errno.EPERM, (172, 3)),
    ("acct", errno.EPERM, (163, "@/tmp/x")),
    ("quotactl", errno.EPERM, (179, 0x800001 << 8, 0, 0, 0)),
]


async def test_default_profile_refuses_what_leads_out(crisp: Attacked) -> None:
    """CVE-2026-31431, CVE-2022-0492 and the calls that most escapes began with; of commands as of the container.

    Against no profile at all, the weak variant, at least the sockets and a user namespace are there.
    """
    pod = await crisp.run_pod()
    id = await crisp.run(pod, crisp.attacker("sleep", "1000"))
    assert status_of(crisp.pid(id))["Seccomp"] == "2"
    for name, number, call in REFUSED:
        assert await crisp.call(id, *call) == -number, name
    assert await crisp.call(id, SOCKET, AF_INET, 1, 0) > 2

    weak = crisp.attacker("sleep", "1000")
    weak.linux.security_context.seccomp.profile_type = api.SecurityProfile.Unconfined
    weak_id = await crisp.run(pod, weak)
    assert status_of(crisp.pid(weak_id))["Seccomp"] == "0"
    assert await crisp.call(weak_id, UNSHARE, NEWUSER) == 0
    assert await crisp.call(weak_id, CLONE3, "%88", 8) == -errno.EINVAL


async def test_a_profile_is_never_left_out(crisp: Attacked) -> None:
    """CVE-2023-2431: RuntimeDefault is loaded with and without no_new_privs, for every user, for pause too."""
    pod = await crisp.run_pod()
    for uid in (0, 1000):
        for forbidden in (False, True):
            config = crisp.attacker("sleep", "1000")
            config.linux.security_context.run_as_user.value = uid
            config.linux.security_context.no_new_privs = forbidden
            status = status_of(crisp.pid(await crisp.run(pod, config)))
            assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", str(int(forbidden)))
    pause = crisp.host.store.sandboxes.get(pod).pause_pid
    assert status_of(pause)["Seccomp"] == "2"


async def test_without_its_program_a_profile_refuses_the_start(crisp: Attacked) -> None:
    """CVE-2023-2431: what cannot be loaded is not left out. Who takes nothing for no profile, the weak variant,
    starts it unconfined."""
    pod = await crisp.run_pod()
    await crisp.run(pod, crisp.attacker("sleep", "1000"))
    weak = crisp.attacker("sleep", "1000")
    weak.linux.security_context.seccomp.profile_type = api.SecurityProfile.Unconfined
    assert status_of(crisp.pid(await crisp.run(pod, weak)))["Seccomp"] == "0"
    programs = [path for path in (crisp.host.root / "cache" / "seccomp").rglob("*") if path.is_file()]
    assert programs
    kept = {path: path.read_bytes() for path in programs}
    try:
        for content in (b"", b"\xff" * 64):
            for path in programs:
                path.write_bytes(content)
            id = await crisp.create(pod, crisp.attacker("sleep", "1000"))
            start = crisp.runtime.StartContainer(api.StartContainerRequest(container_id=id))
            await refused(start, Code.INTERNAL, "become the user|seccomp")
            assert (await crisp.status(id)).state == api.CONTAINER_CREATED
    finally:
        for path, program in kept.items():
            path.write_bytes(program)
    await crisp.start(id)
    assert status_of(crisp.pid(id))["Seccomp"] == "2"


async def test_a_process_cannot_leave_by_tracing(crisp: Attacked) -> None:
    """CVE-2016-9962: in the node's PID namespace a container can trace neither the daemon, its monitor nor pause."""
    config = crisp.pod()
    config.linux.security_context.namespace_options.pid = api.NODE
    pod = await crisp.run_pod(config)
    attacker = crisp.attacker("sleep", "1000")
    attacker.linux.security_context.namespace_options.pid = api.NODE
    id = await crisp.run(pod, attacker)
    pause = crisp.host.store.sandboxes.get(pod).pause_pid
    others = (crisp.monitor_pid(pod), os.getpid(), crisp.host.supervisor.zygote_pid or 0, 1)
    for pid in others:
        assert await crisp.call(id, PTRACE, 16, pid, 0, 0) == -errno.EPERM  # PTRACE_ATTACH
        said = await crisp.say(id, "sh", "-c", f"ls /proc/{pid}/root/; cat /proc/{pid}/environ; cat /proc/{pid}/maps")
        assert said.count("ermission denied") == 3, said
        links = f"for f in /proc/{pid}/fd/* /proc/{pid}/exe /proc/{pid}/cwd; do readlink $f; done"
        assert await crisp.say(id, "sh", "-c", links) == ""  # their numbers can be seen, what they are cannot
    assert await crisp.say(id, "sh", "-c", f"ls /proc/{pause}/root/; cat /proc/{pause}/environ") == ""


MASKED = [
    "/proc/interrupts",
    "/proc/keys",
    "/proc/scsi",
    "/proc/acpi",
    "/sys/firmware",
    "/proc/sys/kernel/core_pattern",
]
READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]


async def test_hidden_paths_stay_hidden(crisp: Attacked) -> None:
    """CVE-2025-31133, CVE-2019-16884: masks and read-only paths hold, and nobody takes them away."""
    pattern = Path("/proc/sys/kernel/core_pattern").read_text()
    pod = await crisp.run_pod()
    weak = await crisp.run(pod, crisp.attacker("sleep", "1000"))  # nothing hidden: what the request asks for
    assert await crisp.say(weak, "cat", "/proc/interrupts") != ""
    config = crisp.attacker("sleep", "1000")
    config.linux.security_context.masked_paths.extend(MASKED)
    config.linux.security_context.readonly_paths.extend(READ_ONLY)
    id = await crisp.run(pod, config)
    for path in MASKED:
        if os.path.exists(path):
            said = await crisp.say(id, "sh", "-c", f"if [ -d {path} ]; then ls -A {path}; else cat {path}; fi")
            assert said == "", path
            assert await crisp.call(id, 166, f"@{path}", 2) == -errno.EPERM  # umount2
    for path in filter(os.path.exists, ("/proc/sys/kernel/domainname", "/proc/sysrq-trigger")):
        assert "Read-only file system" in await crisp.say(id, "sh", "-c", f"echo 0 > {path}")
    assert await crisp.call(id, MOUNT, "@", "@/proc/sys", "@", 0x20 | 0x1000, 0) == -errno.EPERM  # remount rw, bind
    assert await crisp.call(id, MOUNT, "@proc", "@/tmp", "@proc", 0, 0) == -errno.EPERM
    assert Path("/proc/sys/kernel/core_pattern").read_text() == pattern


async def test_read_only_mounts_are_read_only_as_deep_as_asked(crisp: Attacked, tmp_path: Path) -> None:
    """KEP-3857: `readonly` alone leaves mounts below writable, the weak variant; `recursive_read_only` does not."""
    (tmp_path / "below").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path / "below"], check=True)
    try:
        pod = await crisp.run_pod()
        for recursive, expected in ((False, ["made"]), (True, [])):
            config = crisp.attacker("sh", "-c", "touch /a/x; touch /a/below/x && echo made")
            mount = api.Mount(container_path="/a", host_path=str(tmp_path), readonly=True)
            mount.recursive_read_only = recursive
            config.mounts.append(mount)
            said = await crisp.output(pod, config)
            assert [line for line in said if line == "made"] == expected
            assert len([line for line in said if "Read-only" in line]) == 2 - len(expected)
        await crisp.remove_all()
    finally:
        subprocess.run(["umount", tmp_path / "below"], check=True)


async def test_shared_memory_is_small_and_plain(crisp: Attacked) -> None:
    """The pod's /dev/shm: 64 MiB, no programs, no devices, and no other pod's."""
    first, second = await crisp.run_pod(), await crisp.run_pod()
    a, b = [await crisp.run(pod, crisp.attacker("sleep", "1000")) for pod in (first, second)]
    said = await crisp.say(a, "sh", "-c", "dd if=/dev/zero of=/dev/shm/x bs=1M count=100; stat -c %s /dev/shm/x")
    assert "No space left" in said and said.count("67108864") >= 1, said
    mount = next(line for line in (await crisp.say(a, "cat", "/proc/mounts")).splitlines() if " /dev/shm " in line)
    assert {"nosuid", "nodev", "noexec"} <= set(mount.split()[3].split(","))
    assert await crisp.say(b, "ls", "/dev/shm") == ""
    assert not os.path.exists("/dev/shm/x")


async def test_devices_are_the_default_ones_and_no_others_open(crisp: Attacked) -> None:
    """CVE-2022-0492's neighbours: with CAP_MKNOD, a node can be made and not opened."""
    id = await crisp.run(await crisp.run_pod(), crisp.attacker("sleep", "1000"))
    nodes = set((await crisp.say(id, "ls", "/dev")).split())
    assert nodes == {"core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin",
                     "stdout", "tty", "urandom", "zero"}  # fmt: skip
    disk = os.stat("/").st_dev
    for kind, major, minor in (("c", 1, 1), ("c", 1, 11), ("c", 10, 229), ("b", os.major(disk), os.minor(disk))):
        said = await crisp.say(id, "sh", "-c", f"mknod /n {kind} {major} {minor} && cat /n; rm /n")
        assert "Operation not permitted" in said, (major, minor, said)
    os.close(os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK))  # on the host, where no device cgroup is in the way


HARMLESS = next(filter(os.path.exists, ("/dev/fuse", "/dev/loop-control")), "")
"""A device that no container has by default, and of which nothing comes when it is opened."""


@pytest.mark.skipif(not HARMLESS, reason="the host has neither /dev/fuse nor /dev/loop-control")
@pytest.mark.parametrize("permissions", ["r", "w", "rw", "m", "rwm"])
async def test_a_device_is_opened_as_its_permissions_say(permissions: str, crisp: Attacked, tmp_path: Path) -> None:
    """At a path of its own and as one of a folder, in the container and by a node that it makes itself; another
    device opens in no way. Privileged, the weak variant, it opens whatever it was asked for."""
    node = tmp_path / "folder" / "log"
    node.parent.mkdir()
    major, minor = divmod(os.stat(HARMLESS).st_rdev, 256)
    os.mknod(node, 0o020666, os.makedev(major, minor))
    node.chmod(0o664)
    tries = "(: <{0}) && echo {1}r; (: >>{0}) && echo {1}w"
    script = "; ".join(
        (
            "stat -c '%t:%T %a' /dev/one /dev/some/log",
            tries.format("/dev/one", "one "),
            tries.format("/dev/some/log", "some "),
            f"mknod /tmp/own c {major} {minor} && " + tries.format("/tmp/own", "own "),
            "mknod /tmp/mem c 1 1 && " + tries.format("/tmp/mem", "mem "),
        )
    )
    for privileged in (False, True):
        pod = crisp.pod()
        pod.linux.security_context.privileged = privileged
        config = crisp.attacker("sh", "-c", f"exec 2>/dev/null; {script}")
        config.linux.security_context.privileged = privileged
        for host, inside in ((node, "/dev/one"), (node.parent, "/dev/some")):
            config.devices.append(api.Device(host_path=str(host), container_path=inside, permissions=permissions))
        said = await crisp.output(await crisp.run_pod(pod), config)
        allowed = [each for each in "rw" if privileged or each in permissions]
        opened = [f"{name} {each}" for name in ("one", "some", "own") for each in allowed]
        assert said[:2] == [f"{major:x}:{minor:x} 664"] * 2
        assert [line for line in said[2:] if not line.startswith("mem")] == opened
        assert privileged or not any(line.startswith("mem") for line in said)


async def test_a_device_that_is_not_there_fails_the_creation(crisp: Attacked, tmp_path: Path) -> None:
    pod = await crisp.run_pod()
    for place in (tmp_path / "none", tmp_path):
        config = crisp.attacker("sleep", "1")
        config.devices.append(api.Device(host_path=str(place), container_path="/dev/x", permissions="r"))
        await refused(crisp.create(pod, config), Code.FAILED_PRECONDITION, f"{place}: no device there")


async def test_the_null_device_of_the_host_keeps_its_mode_and_owner(crisp: Attacked) -> None:
    """A container of root reaches no inode of the host's: not by the standard input of itself or a command, not by
    what masks a file. By a bind of it, the weak variant, the same calls do change one (here a node of the test's)."""
    before, weak = os.stat("/dev/null"), Path(crisp.host.root, "node")
    os.mknod(weak, 0o020666, os.makedev(1, 3))
    change = "chmod 600 {0} && chown 7:7 {0}"
    config = crisp.attacker("sh", "-c", f"{change.format('/dev/fd/0')}; {change.format('/proc/keys')}; exec sleep 1000")
    config.linux.security_context.masked_paths.append("/proc/keys")
    config.mounts.append(api.Mount(container_path="/weak", host_path=str(weak)))
    id = await crisp.run(await crisp.run_pod(), config)
    for place in ("/dev/fd/0", "/proc/1/fd/0", "/proc/keys", "/dev/null", "/weak"):
        await crisp.say(id, "sh", "-c", change.format(place))
    assert await crisp.say(id, "stat", "-c", "%a %u", "/dev/null") == "600 7", "its own it may change"
    assert (weak.stat().st_mode & 0o777, weak.stat().st_uid) == (0o600, 7)
    after = os.stat("/dev/null")
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert await crisp.say(id, "sh", "-c", "rm /dev/null; echo gone") == "gone"
    assert await crisp.say(id, "sh", "-c", "cat; echo over") == "over", "an empty input, whatever is there"


async def test_system_v_segments_of_the_host_are_not_there(crisp: Attacked) -> None:
    """An IPC namespace of its own; in a pod with the node's, the weak variant, the segment is seen."""
    libc = ctypes.CDLL(None, use_errno=True)
    number = libc.shmget(0x5EC0, 4096, 0o1600)
    assert number >= 0
    try:
        node = crisp.pod()
        node.linux.security_context.namespace_options.ipc = api.NODE
        for pod_config, seen in ((crisp.pod(), False), (node, True)):
            config = crisp.attacker("cat", "/proc/sysvipc/shm")
            config.linux.security_context.namespace_options.ipc = api.NODE if seen else api.POD
            said = await crisp.output(await crisp.run_pod(pod_config), config)
            assert (len(said) > 1) is seen
    finally:
        libc.shmctl(number, 0, None)
