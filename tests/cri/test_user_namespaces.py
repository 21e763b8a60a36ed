"""Pods with a user namespace: whose everything is inside and outside, and what such a pod may do."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import msgspec
import pytest

from cri.fsck import fsck
from cri.rpc.sandbox_run import fits_blank
from cri.settings import Settings
from proto import api_pb2 as api
from runtime.linux import mount
from tests.cri.harness import PATIENCE, Crisp, as_file, demo_layer
from tests.cri.test_recovery import serving
from tests.security.images import Member, build_archive, pack_members

HOST, SIZE = 400_000, 65_536
OWNED = "crisp.local/owned:1"


def mapping(host: int = HOST, size: int = SIZE) -> list[api.IDMapping]:
    return [api.IDMapping(host_id=host, length=size)]


def options(host: int = HOST, **changes: Any) -> api.NamespaceOption:
    asked = api.NamespaceOption(**{"pid": api.CONTAINER, **changes})
    asked.userns_options.uids.extend(mapping(host))
    asked.userns_options.gids.extend(mapping(host))
    return asked


def pod(crisp: Crisp, host: int = HOST, **changes: Any) -> api.PodSandboxConfig:
    made = crisp.pod()
    made.linux.security_context.namespace_options.CopyFrom(options(host, **changes))
    return made


def container(crisp: Crisp, *command: str, host: int = HOST, name: str = "main", **changes: Any) -> api.ContainerConfig:
    """As kubelet sends it: with the namespaces of its pod. ``changes`` are fields of the security context."""
    made = crisp.container(*command, name=name)
    context = made.linux.security_context
    context.MergeFrom(api.LinuxContainerSecurityContext(**changes))
    context.namespace_options.CopyFrom(options(host))
    return made


async def say(crisp: Crisp, sandbox: str, script: str, **changes: Any) -> list[str]:
    """The words that a shell script says as a container of the pod."""
    mounts = changes.pop("mounts", [])
    name = f"say-{len(crisp.host.store.containers)}"
    made = container(crisp, "sh", "-c", script, name=name, **changes)
    made.mounts.extend(mounts)
    id = await crisp.run(sandbox, made)
    status = await crisp.wait_exit(id)
    assert status.exit_code == 0, crisp.log(id)
    return crisp.log(id).split()


def idmapped(source: Path | str, target: str, **changes: Any) -> api.Mount:
    """As kubelet gives volumes to a pod with a user namespace."""
    maps: dict[str, Any] = {"uidMappings": mapping(), "gidMappings": mapping()}
    return api.Mount(host_path=os.fspath(source), container_path=target, **maps, **changes)


def status_of(pid: int, *names: str) -> list[list[str]]:
    text = Path(f"/proc/{pid}/status").read_text()
    return [text.split(f"\n{name}:")[1].split("\n")[0].split() for name in names]


async def test_the_mapping_is_kubelets_and_the_root_is_the_pods(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod(pod(crisp))
    script = "cat /proc/self/uid_map /proc/self/gid_map; id -u; touch /made; stat -c %u:%g / /bin/sh /etc/passwd /made"
    said = await say(crisp, sandbox, script)
    assert said == ["0", str(HOST), str(SIZE)] * 2 + ["0"] + ["0:0"] * 4
    (id,) = [record.id for record in crisp.host.store.containers_of(sandbox)]
    upper = Path(crisp.host.container_directory(id), "upper")
    assert [(upper / name).stat().st_uid for name in ("", "made")] == [HOST, HOST]
    layers = crisp.host.store.containers.get(id).layers
    assert Path(crisp.host.images.lowerdirs(layers)[0], "bin").stat().st_uid == 0, "the layers are as they were"


async def test_what_the_pod_gets_is_its_roots(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod(pod(crisp))
    devices = ["null", "zero", "full", "random", "urandom", "tty", "ptmx", "stdout", "pts", "pts/ptmx", "mqueue", "shm"]
    places = [f"/dev/{name}" for name in ("", *devices)] + ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"]
    places += ["/sys/class/net/eth0/address", "/proc/self/status", "/proc/1/uid_map"]
    script = f"""
        stat -c %u:%g {" ".join(places)}
        stat -c %a /dev/shm /dev/mqueue /dev/null
        for file in /etc/hosts /dev/shm/x /dev/null; do echo one >>$file || echo $file; done
        touch /dev/mqueue/x; grep -c mqueue /proc/mounts; head -c 2 /dev/zero | wc -c; echo ok
    """
    said = await say(crisp, sandbox, script)
    assert said == ["0:0"] * len(places) + ["1777", "1777", "666", "1", "2", "ok"]
    folder = Path(crisp.host.pod_directory(sandbox))
    assert [(folder / name).stat().st_uid for name in ("files/hosts", "shm", "shm/x")] == [HOST] * 3
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700 and folder.stat().st_uid == 0


async def test_its_processes_are_in_its_cgroup_and_nobody_of_the_hosts(crisp: Crisp) -> None:
    """CVE-2025-47291: a pod with a user namespace was left outside of its cgroup."""
    sandbox = await crisp.run_pod(pod(crisp, pid=api.POD))
    config = container(crisp, run_as_user=api.Int64Value(value=1000))
    config.linux.security_context.namespace_options.pid = api.POD
    id = await crisp.run(sandbox, config)
    record = crisp.host.store.sandboxes.get(sandbox)
    assert (await crisp.exec(id, "true")).exit_code == 0
    pid = crisp.host.store.containers.get(id).pid
    for process, uid in ((record.pause_pid, HOST), (pid, HOST + 1000)):
        assert status_of(process, "Uid", "Gid") == [[str(uid)] * 4, [str(HOST)] * 4]
        lines = Path(f"/proc/{process}/cgroup").read_text().splitlines()
        assert [line for line in lines if sandbox in line.split(":", 2)[2]], lines
        assert os.readlink(f"/proc/{process}/ns/user") != os.readlink("/proc/self/ns/user")
    assert os.readlink(f"/proc/{pid}/ns/pid") == os.readlink(f"/proc/{record.pause_pid}/ns/pid")


async def test_containers_of_a_pod_share_its_user_namespace_and_pods_have_different_ones(crisp: Crisp) -> None:
    first, second = await crisp.run_pod(pod(crisp)), await crisp.run_pod(pod(crisp, 500_000))
    running = [
        await crisp.run(first, container(crisp, name="a")),
        await crisp.run(first, container(crisp, name="b")),
        await crisp.run(second, container(crisp, host=500_000)),
    ]
    pids = [crisp.host.store.containers.get(id).pid for id in running]
    links = [os.readlink(f"/proc/{pid}/ns/user") for pid in pids]
    assert links[0] == links[1] != links[2]
    maps = [Path(f"/proc/{pid}/uid_map").read_text().split()[1] for pid in pids]
    assert maps == [str(HOST), str(HOST), "500000"]
    listed = await crisp.exec(running[0], "sh", "-c", "kill -0 1 && echo mine")
    assert listed.stdout == b"mine\n"


async def test_pods_that_kubelet_gave_the_same_ids_have_namespaces_of_their_own(crisp: Crisp) -> None:
    sandboxes = [await crisp.run_pod(pod(crisp)) for _ in range(2)]
    pids = [crisp.host.store.sandboxes.get(sandbox).pause_pid for sandbox in sandboxes]
    assert len({os.readlink(f"/proc/{pid}/ns/user") for pid in pids}) == 2


async def test_a_container_that_starts_again_finds_its_pods_namespace(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod(pod(crisp))
    said = [await say(crisp, sandbox, "readlink /proc/self/ns/user; echo $$") for _ in range(2)]
    assert said[0] == said[1] and said[0][1] == "1"


@pytest.mark.parametrize(("host", "size"), [(1, 1), (2**32 - 2, 1), (1, 2**32 - 2)])
async def test_the_smallest_the_last_and_the_largest_mapping_work(crisp: Crisp, host: int, size: int) -> None:
    asked = api.NamespaceOption(pid=api.CONTAINER)
    for ids in (asked.userns_options.uids, asked.userns_options.gids):
        ids.extend(mapping(host, size))
    made, config = (
        crisp.pod(),
        crisp.container("sh", "-c", "cat /proc/self/uid_map; stat -c %u:%g / /dev/pts; ls /dev/pts"),
    )
    for context in (made.linux.security_context, config.linux.security_context):
        context.namespace_options.CopyFrom(asked)
    sandbox = await crisp.run_pod(made)
    id = await crisp.run(sandbox, config)
    assert (await crisp.wait_exit(id)).exit_code == 0, crisp.log(id)
    assert crisp.log(id).split() == ["0", str(host), str(size), "0:0", "0:0", "ptmx"]


async def test_a_program_that_is_not_there_is_told_and_leaves_nothing(crisp: Crisp) -> None:
    """By the process that was born last; the one before it, and the one outside, have ended by then."""
    sandbox = await crisp.run_pod(pod(crisp))
    id = await crisp.create(sandbox, container(crisp, "nonesuch"))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await crisp.start(id)
    assert 'exec: "nonesuch"' in str(refused.value.details())
    status = await crisp.status(id)
    assert (status.state, status.reason, status.exit_code) == (api.CONTAINER_EXITED, "StartError", 128)
    assert crisp.cgroup_file(id, "cgroup.procs").read_text() == ""


async def test_a_terminal_is_its_users(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod(pod(crisp))
    config = container(crisp, "sh", "-c", "tty; stat -Lc %u:%g /proc/self/fd/0 /dev/console; echo done")
    config.tty = True
    id = await crisp.run(sandbox, config)
    await crisp.wait_exit(id)
    assert crisp.log(id).replace("\r", "").split() == ["/dev/pts/0", "0:5", "0:5", "done"]


async def test_users_and_groups_are_those_of_the_request_inside(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod(pod(crisp))
    who: dict[str, Any] = {"run_as_user": api.Int64Value(value=1000), "run_as_group": api.Int64Value(value=2000)}
    config = container(crisp, "sleep", "1000", supplemental_groups=[3000], **who)
    id = await crisp.run(sandbox, config)
    pid = crisp.host.store.containers.get(id).pid
    assert status_of(pid, "Uid", "Gid", "Groups") == [
        [str(HOST + 1000)] * 4,
        [str(HOST + 2000)] * 4,
        [str(HOST + 2000), str(HOST + 3000)],
    ]
    told = (await crisp.status(id)).user.linux
    assert (told.uid, told.gid, list(told.supplemental_groups)) == (1000, 2000, [2000, 3000])
    done = await crisp.exec(id, "sh", "-c", "id -u; id -G; cat /proc/self/uid_map; echo x >/dev/stderr")
    assert (done.exit_code, done.stdout.split(), done.stderr) == (
        0,
        [b"1000", b"2000", b"3000", b"0", b"400000", b"65536"],
        b"x\n",
    )


async def import_owned(crisp: Crisp, **config: Any) -> None:
    """An image with files of the user 1000, one of nobody's in a user namespace, and a volume."""
    members = [
        Member("data", b"5", mode=0o700, uid=1000),
        Member("data/file", content=b"theirs", mode=0o600, uid=1000),
        Member("far", content=b"x", mode=0o600, uid=70_000),
        Member("vol", b"5", mode=0o750, uid=1000),
        Member("vol/seed", content=b"seed", mode=0o640, uid=1000),
    ]
    with as_file(build_archive(OWNED, [demo_layer(), pack_members(members)], {"Env": ["PATH=/bin"], **config})) as file:
        await crisp.host.images.import_archive(file, "")


async def test_files_of_an_image_keep_their_owners_inside(crisp: Crisp) -> None:
    await import_owned(crisp, Volumes={"/vol": {}})
    sandbox = await crisp.run_pod(pod(crisp))
    script = "stat -c %u /data /data/file /far /vol /vol/seed; cat /data/file; echo; echo new >/data/file; "
    config = container(
        crisp, "sh", "-c", script + "echo x >/vol/new; stat -c %u /vol/new; cat /far 2>/dev/null || echo no"
    )
    config.image.image = OWNED
    id = await crisp.run(sandbox, config)
    await crisp.wait_exit(id)
    assert crisp.log(id).split() == ["1000", "1000", "65534", "1000", "1000", "theirs", "0", "no"]
    folder = Path(crisp.host.container_directory(id))
    copied = (folder / "upper/data/file").stat()
    assert (copied.st_uid, (folder / "upper/data/file").read_text()) == (HOST + 1000, "new\n")
    assert {path.name: path.stat().st_uid for path in (folder / "volume-0").iterdir()} == {"seed": 1000, "new": 0}


async def test_the_user_of_an_image_is_looked_up_as_ever(crisp: Crisp) -> None:
    await import_owned(crisp, User="1000")
    sandbox = await crisp.run_pod(pod(crisp))
    config = container(crisp, "cat", "/data/file")
    config.image.image = OWNED
    id = await crisp.run(sandbox, config)
    assert ((await crisp.wait_exit(id)).exit_code, crisp.log(id)) == (0, "theirs")
    await import_owned(crisp, User="70000")
    late = container(crisp, "true", name="late")
    late.image.image = OWNED
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await crisp.create(sandbox, late)
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "user 70000 is not among the 65536 ids of the pod's user namespace" in str(refused.value.details())


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """A directory with a tmpfs mounted below it, as a volume of kubelet's may have one."""
    made = tmp_path / "volume"
    (made / "below").mkdir(parents=True)
    mount.mount("crisp-test", os.fspath(made / "below"), "tmpfs", 0, "size=1m")
    yield made
    mount.umount2(os.fspath(made / "below"), mount.MNT_DETACH)


async def test_a_volume_has_the_same_owners_inside_and_on_the_disk(crisp: Crisp, volume: Path) -> None:
    (volume / "theirs").write_text("x")
    os.chown(volume / "theirs", 1000, 1000)
    script = (
        "stat -c %u /data /data/theirs /data/below; echo x >/data/new; echo y >/data/below/new; stat -c %u /data/new"
    )
    said = await say(crisp, await crisp.run_pod(pod(crisp)), script, mounts=[idmapped(volume, "/data")])
    assert said == ["0", "1000", "0", "0"]
    assert [(volume / name).stat().st_uid for name in ("new", "below/new")] == [0, 0]


async def test_a_volume_is_read_only_and_of_another_user_as_ever(crisp: Crisp, volume: Path) -> None:
    (volume / "deep").mkdir()
    os.chown(volume / "deep", 7, 7)
    mounts = [idmapped(volume / "missing", "/made"), idmapped(volume / "deep", "/ro", readonly=True)]
    script = "touch /ro/x 2>/dev/null || echo refused; touch /made/x 2>/dev/null || echo refused; stat -c %u /ro /made"
    sandbox = await crisp.run_pod(pod(crisp))
    said = await say(crisp, sandbox, script, mounts=mounts, run_as_user=api.Int64Value(value=7))
    assert said == ["refused", "refused", "7", "0"]
    assert (volume / "missing").stat().st_uid == 0


async def test_what_is_mounted_later_follows_and_recursive_read_only_holds(crisp: Crisp, volume: Path) -> None:
    mount.mount("", os.fspath(volume / "below"), "", mount.MS_SHARED)
    (volume / "below" / "later").mkdir()
    config = container(crisp)
    follows = api.PROPAGATION_HOST_TO_CONTAINER
    config.mounts.append(idmapped(volume / "below", "/m", propagation=follows, mount_options=["noexec"]))
    config.mounts.append(idmapped(volume, "/ro", readonly=True, recursive_read_only=True))
    id = await crisp.run(await crisp.run_pod(pod(crisp)), config)
    mount.mount("crisp-later", os.fspath(volume / "below" / "later"), "tmpfs", 0, "size=1m")
    try:
        (volume / "below" / "later" / "seen").touch()
        assert (await crisp.exec(id, "test", "-e", "/m/later/seen")).exit_code == 0
        script = "stat -c %u /m /ro/below; touch /ro/below/x 2>/dev/null || echo refused; grep ' /m ' /proc/mounts"
        said = (await crisp.exec(id, "sh", "-c", script)).stdout.decode().split()
        assert said[:3] == ["0", "0", "refused"] and "noexec" in said[6].split(",")
    finally:
        mount.umount2(os.fspath(volume / "below" / "later"), mount.MNT_DETACH)


@pytest.mark.parametrize("part", ["", "data"])
async def test_an_image_as_a_volume_keeps_its_owners_inside(crisp: Crisp, part: str) -> None:
    await import_owned(crisp)
    shown = [
        api.Mount(container_path=f"/image-{n}", image=api.ImageSpec(image=OWNED), image_sub_path=part, readonly=True)
        for n in range(2)
    ]
    places = f"/image-0 /image-1/{'' if part else 'data/'}file"
    script = f"stat -c %u {places}; touch /image-1/x 2>/dev/null || echo refused; grep -c image- /proc/mounts"
    said = await say(crisp, await crisp.run_pod(pod(crisp)), script, mounts=shown)
    assert said == ["1000" if part else "0", "1000", "refused", "2"]


async def test_a_mount_without_a_mapping_shows_what_the_host_has(crisp: Crisp, volume: Path) -> None:
    volume.chmod(0o755)
    plain = api.Mount(host_path=os.fspath(volume), container_path="/data")
    script = "stat -c %u /data; touch /data/x 2>/dev/null || echo refused"
    assert await say(crisp, await crisp.run_pod(pod(crisp)), script, mounts=[plain]) == ["65534", "refused"]


@pytest.mark.parametrize("where", ["", "sub"])
async def test_a_file_system_that_cannot_be_idmapped_is_named_before_anything_is_done(
    crisp: Crisp, tmp_path: Path, where: str
) -> None:
    (tmp_path / where / "proc").mkdir(parents=True)
    place = tmp_path / where / "proc"
    mount.mount("proc", os.fspath(place), "proc", 0)
    try:
        sandbox = await crisp.run_pod(pod(crisp))
        config = container(crisp)
        config.mounts.append(idmapped(tmp_path if where else place, "/data"))
        config.mounts.append(idmapped(tmp_path / "made", "/made"))
        before = inventory(crisp)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await crisp.create(sandbox, config)
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        said = str(refused.value.details())
        assert f"config.mounts[0] {tmp_path if where else place}: cannot be idmapped: {place} is proc" in said
        assert inventory(crisp) == before and not (tmp_path / "made").exists()
    finally:
        mount.umount2(os.fspath(place), mount.MNT_DETACH)


def inventory(crisp: Crisp) -> tuple[Any, ...]:
    """What a container that was created would have added to."""
    folders = os.listdir(crisp.host.root / "containers")
    cgroups = [path for path, _, _ in os.walk("/sys/fs/cgroup") if crisp.host.instance in path]
    return len(crisp.host.store.containers), folders, cgroups


@pytest.mark.parametrize(
    "asked",
    [
        api.NamespaceOption(pid=api.CONTAINER, userns_options=api.UserNamespace(mode=api.NODE)),
        options(500_000),
    ],
)
async def test_a_container_cannot_have_another_namespace_than_its_pod(crisp: Crisp, asked: api.NamespaceOption) -> None:
    sandbox = await crisp.run_pod(pod(crisp))
    config = container(crisp)
    config.linux.security_context.namespace_options.CopyFrom(asked)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await crisp.create(sandbox, config)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "is not what the pod has" in str(refused.value.details())


async def test_with_the_nodes_network_everything_else_is_the_pods(crisp: Crisp) -> None:
    made = pod(crisp, network=api.NODE)
    sandbox = await crisp.run_pod(made)
    config = container(
        crisp,
        "sh",
        "-c",
        "cat /proc/self/uid_map; readlink /proc/self/ns/net; ls /sys/class/net; hostname; stat -c %u /dev/null",
    )
    config.linux.security_context.namespace_options.network = api.NODE
    id = await crisp.run(sandbox, config)
    status = await crisp.wait_exit(id)
    assert status.exit_code == 0, crisp.log(id)
    said = crisp.log(id).split()
    assert said[:4] == ["0", str(HOST), str(SIZE), os.readlink("/proc/self/ns/net")]
    assert said[4:] == [*sorted(os.listdir("/sys/class/net")), made.hostname, "0"]


async def test_it_is_in_the_pods_network_and_has_its_sysctls(crisp: Crisp) -> None:
    made = pod(crisp)
    made.linux.sysctls.update({"kernel.shm_rmid_forced": "1", "net.ipv4.ip_local_port_range": "4000 5000"})
    sandbox, other = await crisp.run_pod(made), await crisp.run_pod()
    await crisp.run(other, crisp.container("httpd", "-f", "-p", "80", "-h", "/etc"))
    address = crisp.host.store.sandboxes.get(other).addresses[0]
    script = f"""
        cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ip_local_port_range
        cat /proc/sys/net/ipv4/ip_unprivileged_port_start; hostname
        for i in $(seq 400); do wget -q -O - http://{address}/hostname 2>/dev/null && exit; sleep 0.05; done
    """
    name = crisp.host.store.sandboxes.get(other).name
    assert await say(crisp, sandbox, script) == ["1", "4000", "5000", "0", made.hostname, name]


async def test_ports_are_forwarded_into_it_and_its_network_is_counted(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod(pod(crisp))
    await crisp.run(sandbox, container(crisp, "httpd", "-f", "-p", "127.0.0.1:80", "-h", "/etc"))
    namespace = f"{crisp.host.pod_directory(sandbox)}/ns/network"
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(PATIENCE):
        while True:
            with await crisp.host.sockets.open(socket.AF_INET, namespace) as connection:
                try:
                    await loop.sock_connect(connection, ("127.0.0.1", 80))
                except ConnectionRefusedError:
                    await asyncio.sleep(0.02)
                    continue
                await loop.sock_sendall(connection, b"GET /hostname HTTP/1.0\r\n\r\n")
                assert b"200 OK" in await loop.sock_recv(connection, 4096)
                break
    stats = await crisp.runtime.PodSandboxStats(api.PodSandboxStatsRequest(pod_sandbox_id=sandbox))
    assert stats.stats.linux.network.default_interface.name == "eth0"


async def test_a_privileged_root_has_all_power_over_its_pod_and_none_over_the_host(crisp: Crisp) -> None:
    made = pod(crisp)
    made.linux.security_context.privileged = True
    sandbox = await crisp.run_pod(made)
    script = """
        mount -t tmpfs none /tmp && mount -t proc proc /home && hostname changed && echo mounted
        mknod /tmp/zero c 1 5 2>/dev/null || echo no-node
        echo 1 | tee /proc/sys/kernel/sysrq >/dev/null 2>&1 || echo no-sysctl
        for node in $(find /dev -type b | head -3); do head -c 1 $node >/dev/null 2>&1 && echo reads $node; done
        find /dev -xdev ! -user 0 \\( -type b -o -type c \\) | head -1 | wc -l
    """
    said = await say(crisp, sandbox, script, privileged=True)
    others = [path for path in Path("/dev").iterdir() if path.is_block_device() or path.is_char_device()]
    known = {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "console"}
    assert said == ["mounted", "no-node", "no-sysctl", str(int(any(path.name not in known for path in others)))]


async def test_a_device_that_is_asked_for_is_the_containers(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod(pod(crisp))
    config = container(crisp, "sh", "-c", "stat -c %u:%t:%T /dev/sub/null /opt/null; echo x >/opt/null && echo fine")
    for path in ("/dev/sub/null", "/opt/null"):
        config.devices.add(host_path="/dev/null", container_path=path, permissions="rw")
    id = await crisp.run(sandbox, config)
    await crisp.wait_exit(id)
    assert crisp.log(id).split() == ["0:1:3", "0:1:3", "fine"]


async def test_paths_are_masked_and_read_only_as_asked(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod(pod(crisp))
    context = {"masked_paths": ["/proc/timer_list", "/sys/firmware"], "readonly_paths": ["/proc/sys"]}
    script = """
        wc -c </proc/timer_list; ls -A /sys/firmware | wc -l; touch /x 2>/dev/null || echo read-only
        tee /proc/sys/kernel/domainname </etc/hostname >/dev/null 2>&1 || echo read-only
        echo x >/dev/shm/x && cat /dev/shm/x
    """
    said = await say(crisp, sandbox, script, readonly_rootfs=True, no_new_privs=True, **context)
    assert said == ["0", "0", "read-only", "read-only", "x"]


async def test_a_pid_namespace_of_a_target_is_joined(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod(pod(crisp))
    target = await crisp.run(sandbox, container(crisp))
    config = container(
        crisp, "sh", "-c", "cat /proc/1/comm; readlink /proc/1/ns/user; readlink /proc/self/ns/user", name="debug"
    )
    config.linux.security_context.namespace_options.pid = api.TARGET
    config.linux.security_context.namespace_options.target_id = target
    id = await crisp.run(sandbox, config)
    await crisp.wait_exit(id)
    comm, theirs, own = crisp.log(id).split()
    assert comm == "sleep" and theirs == own


async def test_a_host_that_has_none_announces_none_and_refuses_with_the_reason(crisp: Crisp) -> None:
    answer = await crisp.runtime.Status(api.StatusRequest(verbose=True))
    assert all(handler.features.user_namespaces for handler in answer.runtime_handlers)
    assert answer.features.user_namespaces_host_network
    assert os.path.dirname(re.findall('"stateDir": "([^"]*)"', answer.info["config"])[0]) == str(crisp.host.root)
    facts = crisp.host.facts
    crisp.host.facts = msgspec.structs.replace(facts, no_user_namespaces="/x: is on a file system that cannot be")
    try:
        answer = await crisp.runtime.Status(api.StatusRequest())
        assert not any(handler.features.user_namespaces for handler in answer.runtime_handlers)
        assert not answer.features.user_namespaces_host_network
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await crisp.run_pod(pod(crisp))
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "user namespaces: /x: is on a file system that cannot be" in str(refused.value.details())
    finally:
        crisp.host.facts = facts


def test_a_blank_pod_is_none_for_it() -> None:
    for asked, fits in ((options(), False), (api.NamespaceOption(pid=api.CONTAINER), True)):
        config = api.PodSandboxConfig()
        config.linux.security_context.namespace_options.CopyFrom(asked)
        assert fits_blank(config) == fits


async def test_a_pod_goes_on_under_the_next_daemon(new_settings: Callable[[], Settings]) -> None:
    settings = new_settings()
    async with serving(settings) as crisp:
        sandbox = await crisp.run_pod(pod(crisp))
        first = await crisp.run(sandbox, container(crisp, name="first"))
        created = await crisp.create(sandbox, container(crisp, name="created"))
    async with serving(settings) as crisp:
        assert (await crisp.exec(first, "cat", "/proc/self/uid_map")).stdout.split()[1] == b"400000"
        await crisp.start(created)
        assert (await crisp.exec(created, "id", "-u")).stdout == b"0\n"
        assert await say(crisp, sandbox, "stat -c %u /dev/null") == ["0"]
        await crisp.remove_all()
        await crisp.end_of_tasks()
        assert await fsck(crisp.host, repair=False) == []
