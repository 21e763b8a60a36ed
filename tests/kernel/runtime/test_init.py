"""A container has the root, the namespaces and the identity of its document, and nothing of the host."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime import births
from runtime.errors import HostFault, StartRefused
from runtime.idmap import make_user_namespace
from runtime.linux import namespaces
from runtime.requests import StartRequest
from runtime.spec import Mount
from tests.kernel.runtime.containers import Image, bind, needs_busybox, read_until, run, started

pytestmark = needs_busybox

ALLOW = struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000)


@pytest.fixture
def image(tmp_path: Path) -> Image:
    for parent in (tmp_path, *tmp_path.parents):
        if str(parent).startswith("/tmp/"):
            parent.chmod(0o755)  # the layers are looked up by other users than root, as in a real store
    return Image(tmp_path)


def output(image: Image, script: str, **changes: object) -> list[str]:
    """The words that ``script`` prints in a container."""
    code, text = run(image.request("sh", "-c", script, **changes))
    assert code == 0, text
    return text.split()


def test_a_program_runs_as_the_first_process_and_its_exit_code_is_exact(image: Image) -> None:
    assert run(image.request("sh", "-c", "echo $$; exit 7")) == (7, "1\n")


def test_the_container_has_a_root_a_name_and_an_environment_of_its_own(image: Image) -> None:
    words = output(image, "cat /proc/sys/kernel/hostname; pwd; ls /; env", env=["PATH=/bin", "A=1"], cwd="/tmp")
    assert words[:2] == ["testbox", "/tmp"]
    assert set(words[2:]) >= {"bin", "dev", "etc", "proc", "sys", "tmp", "A=1"}
    assert "work" not in words


def test_nothing_is_seen_on_the_host(image: Image) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    with started(image.request("sleep", "60")) as container:
        assert Path("/proc/self/mountinfo").read_text() == before
        assert os.listdir(image.path / "staging") == []
        assert Path(f"/proc/{container.pid}/cwd").exists()


def test_the_only_descriptors_are_the_standard_streams(image: Image) -> None:
    """CVE-2024-21626: a directory of the host that the daemon had open is not there."""
    leaked = os.open("/etc", os.O_RDONLY)
    try:
        with started(image.request("sh", "-c", "ls /proc/self/fd"), leaked=leaked) as container:
            code, text = container.finish()
    finally:
        os.close(leaked)
    assert (code, text.split()) == (0, ["0", "1", "2", "3"])  # 3 is the listing's own


def test_it_is_a_session_leader_and_has_no_inheritable_capabilities(image: Image) -> None:
    words = output(image, "grep -E 'Cap(Inh|Amb|Bnd)|NoNewPrivs|Seccomp:' /proc/self/status")
    fields = dict(zip(words[::2], words[1::2], strict=True))
    assert int(fields["CapInh:"], 16) == int(fields["CapAmb:"], 16) == 0
    assert int(fields["CapBnd:"], 16) == 0x80000E3
    assert (fields["NoNewPrivs:"], fields["Seccomp:"]) == ("0", "0")


def test_another_user_has_its_groups_and_no_capabilities(image: Image) -> None:
    user = {"uid": 1000, "gid": 1001, "additionalGids": [1001, 5]}
    words = output(image, "id -u; id -G; grep -E 'Cap(Prm|Eff)' /proc/self/status; echo > /dev/stdout", user=user)
    assert words == ["1000", "1001", "5", "CapPrm:", "0" * 16, "CapEff:", "0" * 16]


def test_no_new_privs_and_seccomp_are_set(image: Image, tmp_path: Path) -> None:
    (tmp_path / "program").write_bytes(ALLOW)
    request = image.request("sh", "-c", "grep -E 'NoNewPrivs|Seccomp:' /proc/self/status", noNewPrivileges=True)
    request["seccomp"] = str(tmp_path / "program")
    assert run(request)[1].split() == ["NoNewPrivs:", "1", "Seccomp:", "2"]


def test_a_read_only_root_refuses_but_volumes_take(image: Image, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    script = "echo x > /etc/x || echo refused; echo x > /data/x && echo taken"
    words = output(image, script, readonly=True, mounts=[bind(tmp_path / "data", "/data")], cwd="/made")
    assert words[-2:] == ["refused", "taken"]


def test_limits_are_set(image: Image) -> None:
    limits = [{"type": "RLIMIT_NOFILE", "soft": 99, "hard": 100}]
    assert output(image, "ulimit -n; ulimit -Hn", rlimits=limits) == ["99", "100"]


def test_the_oom_score_is_set(image: Image) -> None:
    assert output(image, "cat /proc/self/oom_score_adj", oomScoreAdj=777) == ["777"]


def test_a_working_directory_is_made_and_entered(image: Image) -> None:
    assert output(image, "pwd; stat -c %a:%u .", cwd="/deep/er") == ["/deep/er", "755:0"]


def test_a_working_directory_below_a_symlink_is_made_inside(image: Image) -> None:
    """CVE-2019-10152: the link leads to a directory that the host has, too."""
    (image.layer / "link").symlink_to(image.path)
    words = output(image, "pwd", cwd="/link/new")
    assert words == [f"{image.path}/new"]
    assert not (image.path / "new").exists()


@pytest.mark.parametrize("cwd", [f"/proc/self/fd/{n}" for n in (0, 1, 2, 3, 5, 7, 9, 20)])
def test_a_working_directory_by_a_descriptor_is_refused(image: Image, cwd: str) -> None:
    leaked = os.open("/", os.O_RDONLY)
    try:
        with pytest.raises(StartRefused) as refused, started(image.request("pwd", cwd=cwd), leaked=leaked):
            pass
    finally:
        os.close(leaked)
    assert refused.value.object == cwd


def test_a_working_directory_that_is_a_file_is_refused(image: Image) -> None:
    with pytest.raises(StartRefused, match="not a directory") as refused:
        run(image.request("pwd", cwd="/etc/passwd"))
    assert refused.value.step == "find the working directory"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("/nope", 'exec: "/nope": no such file or directory'),
        ("nope", 'exec: "nope": executable file not found in $PATH'),
        ("/etc/passwd", 'exec: "/etc/passwd": permission denied'),
        ("/etc", 'exec: "/etc": is a directory'),
    ],
)
def test_an_entrypoint_that_cannot_run_is_refused(image: Image, command: str, said: str) -> None:
    with pytest.raises(StartRefused) as refused:
        run(image.request(command))
    assert refused.value.message == said


@pytest.mark.parametrize("name", ["proc", "dev", "sys"])
@pytest.mark.parametrize("target", ["/tmp", "host"])
def test_an_image_whose_kernel_directories_are_symlinks_is_refused(image: Image, name: str, target: str) -> None:
    outside = image.path / "outside"
    outside.mkdir()
    (outside / "ptmx").write_text("marker")
    (image.layer / name).symlink_to(outside if target == "host" else target)
    with pytest.raises(StartRefused) as refused:
        run(image.request("true"))
    assert refused.value.object == f"/{name}"
    assert (outside / "ptmx").read_text() == "marker" and os.listdir(outside) == ["ptmx"]


def test_a_volume_over_proc_is_refused(image: Image, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(StartRefused, match="part of /proc"):
        run(image.request("true", mounts=[bind(tmp_path / "data", "/proc")]))


def test_a_host_path_that_is_missing_is_made_when_listed(image: Image, tmp_path: Path) -> None:
    request = image.request("ls", "-d", "/data", mounts=[bind(tmp_path / "new/dir", "/data")])
    with pytest.raises(HostFault) as failed:
        run(request)
    assert failed.value.object == str(tmp_path / "new/dir")
    request["missing_sources"] = [str(tmp_path / "new/dir")]
    assert run(request) == (0, "/data\n")  # also: a start that failed can be repeated
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o755


def test_volumes_get_the_image_s_content(image: Image, tmp_path: Path) -> None:
    (image.layer / "data").mkdir(mode=0o750)
    (image.layer / "data/seed").write_text("seed")
    os.chown(image.layer / "data/seed", 1000, 1000)
    (tmp_path / "volumes/0").mkdir()
    request = image.request("sh", "-c", "stat -c %u /data/seed; echo more > /data/more")
    request["volumes"] = [{"destination": "/data", "source": str(tmp_path / "volumes/0")}]
    assert run(request) == (0, "1000\n")
    assert sorted(os.listdir(tmp_path / "volumes/0")) == ["more", "seed"]
    assert not (tmp_path / "upper/data/more").exists()


def test_a_host_s_later_mounts_are_not_seen_and_nothing_propagates_out(image: Image, tmp_path: Path) -> None:
    request = image.request("sh", "-c", "mount -t tmpfs x /tmp && echo mounted", propagation="rshared")
    for name in ("bounding", "effective", "permitted"):
        request["spec"]["process"]["capabilities"][name] += ["CAP_SYS_ADMIN"]
    before = Path("/proc/self/mountinfo").read_text()
    assert run(request) == (0, "mounted\n")
    assert Path("/proc/self/mountinfo").read_text() == before


def test_a_terminal_is_the_container_s_own(image: Image) -> None:
    script = "tty; [ -c /dev/console ] && echo console; read line; echo got $line; tty < /dev/tty"
    with started(image.request("sh", "-c", script, terminal=True)) as container:
        assert container.console is not None
        read_until(container.console, b"console\r\n")
        os.write(container.console, b"words\n")
        assert b"got words\r\n" in read_until(container.console, b"/dev/tty\r\n")
        assert container.finish()[0] == 0


def test_a_terminal_belongs_to_the_user(image: Image) -> None:
    user = {"uid": 1000, "gid": 1000, "additionalGids": []}
    with started(image.request("stat", "-Lc", "%u:%a", "/proc/self/fd/0", terminal=True, user=user)) as container:
        assert container.console is not None
        assert read_until(container.console, b"\n") == b"1000:620\r\n"


def namespace_of(pid: int | str, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def test_given_namespaces_are_joined_and_others_made(image: Image, tmp_path: Path) -> None:
    request = image.request("sleep", "60")
    kept = [entry for entry in request["spec"]["linux"]["namespaces"] if entry["type"] != "ipc"]
    request["spec"]["linux"]["namespaces"] = [
        {"type": "uts", "path": "/proc/self/ns/uts"} if entry["type"] == "uts" else entry for entry in kept
    ]
    made: list[int] = []

    def make() -> None:
        namespaces.unshare(namespaces.CLONE_NEWNET)

    joined = _namespace_fd(make, "net")
    made.append(joined)
    try:
        with started(request, joined={"network": joined}) as container:
            assert namespace_of(container.pid, "net") == os.readlink(f"/proc/self/fd/{joined}")
            assert namespace_of(container.pid, "uts") == namespace_of("self", "uts")
            assert namespace_of(container.pid, "ipc") == namespace_of("self", "ipc")
            for kind in ("mnt", "pid", "cgroup"):
                assert namespace_of(container.pid, kind) != namespace_of("self", kind)
    finally:
        for fd in made:
            os.close(fd)


def _namespace_fd(make: Callable[[], None], kind: str) -> int:
    """A descriptor of the namespace that a child which ran ``make`` is in."""
    ready, told = os.pipe()
    waits, go = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(go)
        make()
        os.write(told, b"1")
        os.read(waits, 1)
        os._exit(0)
    os.read(ready, 1)
    fd = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY)
    for each in (ready, told, waits, go):
        os.close(each)
    os.waitpid(pid, 0)
    return fd


@pytest.mark.parametrize("entry", [{"type": "user"}, {"type": "time"}, {"type": "mount", "path": "/proc/self/ns/mnt"}])
def test_a_namespace_that_is_not_supported_is_refused(image: Image, entry: dict[str, str]) -> None:
    request = image.request("true")
    request["spec"]["linux"]["namespaces"].append(entry)  # type: ignore[arg-type]
    with pytest.raises(StartRefused, match="not supported"):
        run(request)


def test_a_failure_of_the_host_names_its_step(image: Image) -> None:
    request = image.request("true")
    request["rootfs"]["lowerdirs"] = ["/nowhere"]
    with pytest.raises(HostFault) as failed:
        run(request)
    assert (failed.value.step, failed.value.object) == ("mount the root filesystem", "/nowhere")
    request = image.request("true")
    request["cgroup"] = {"v1": ["/sys/fs/cgroup/nowhere"], "v2": None}
    with pytest.raises(HostFault, match="join the control groups"):
        run(request)


def test_mounts_are_those_of_the_document(image: Image) -> None:
    extra: list[Mount] = [
        {"destination": "/scratch", "type": "tmpfs", "source": "tmpfs", "options": ["noexec", "size=1m", "mode=1777"]}
    ]
    words = output(image, "grep -c overlay /proc/self/mountinfo; stat -c %a /scratch", mounts=extra)
    assert words == ["1", "1777"]


def test_two_starts_share_nothing(image: Image, tmp_path: Path) -> None:
    """CVE-2021-21334: what one container got must not be in another of the same image."""
    first: StartRequest = image.request("env", env=["PATH=/bin", "SECRET=1"])
    second: StartRequest = image.request("env", env=["PATH=/bin"])
    assert "SECRET" in run(first)[1]
    assert "SECRET" not in run(second)[1]


HOST, SIZE = 600_000, 65_536


@pytest.fixture
def user() -> Iterator[int]:
    made = make_user_namespace({"host": HOST, "size": SIZE})
    yield made
    os.close(made)


def shifted(image: Image, *args: str, **changes: Any) -> StartRequest:
    """As ``Image.request``, of a pod with a user namespace."""
    request = image.request(*args, **changes)
    linux = request["spec"]["linux"]
    linux["namespaces"].append({"type": "user"})
    linux["uidMappings"] = linux["gidMappings"] = [{"containerID": 0, "hostID": HOST, "size": SIZE}]
    os.chown(image.path / "upper", HOST, HOST)
    return request


def test_in_a_user_namespace_everything_is_owned_by_its_root(image: Image, user: int) -> None:
    script = (
        "cat /proc/self/uid_map; id -u; id -g; stat -c %u / /bin/sh /dev /dev/null /dev/ptmx /dev/pts /dev/mqueue "
        "/proc/self/status; echo x > /made; stat -c %u /made; for n in pid net ipc uts mnt cgroup user; do "
        "readlink /proc/self/ns/$n; done; echo again > /dev/stdout; head -c 1 /dev/zero > /dev/null; ls /proc/self/fd"
    )
    with started(shifted(image, "sh", "-c", script), {"user": user}) as container:
        code, text = container.finish()
    assert code == 0, text
    words = text.split()
    assert words[:14] == ["0", str(HOST), str(SIZE), *["0"] * 11]
    assert len(set(words[14:21])) == 7
    assert words[21:] == ["again", "0", "1", "2", "3"]
    made = (image.path / "upper" / "made").stat()
    assert (made.st_uid, made.st_gid) == (HOST, HOST)


def test_its_namespaces_belong_to_the_user_namespace(image: Image, user: int) -> None:
    with started(shifted(image, "sleep", "60"), {"user": user}) as container:
        for kind in ("pid", "net", "ipc", "uts", "mnt", "cgroup"):
            with open(f"/proc/{container.pid}/ns/{kind}") as namespace:
                owner = fcntl.ioctl(namespace, 0xB701)  # NS_GET_USERNS
                assert os.fstat(owner).st_ino == os.fstat(user).st_ino, kind
                os.close(owner)
        status = Path(f"/proc/{container.pid}/status").read_text()
        assert status.split("NSpid:")[1].split("\n")[0].split() == [str(container.pid), "1"]
        assert os.listdir(image.path / "staging") == []


def test_another_user_of_it_has_its_groups_and_its_streams(image: Image, user: int) -> None:
    who = {"uid": 1000, "gid": 1001, "additionalGids": [1001, 5]}
    request = shifted(image, "sh", "-c", "id -u; id -G; echo reopened > /dev/stdout; sleep 60", user=who)
    with started(request, {"user": user}) as container:
        assert read_until(container.output, b"reopened").split() == [b"1000", b"1001", b"5", b"reopened"]
        uids = Path(f"/proc/{container.pid}/status").read_text().split("\nUid:")[1].split()[:4]
        assert uids == [str(HOST + 1000)] * 4


def test_a_terminal_in_a_user_namespace_is_its_users(image: Image, user: int) -> None:
    request = shifted(image, "sh", "-c", "tty; stat -Lc %u:%g /proc/self/fd/0", terminal=True)
    with started(request, {"user": user}) as container:
        assert container.console is not None
        assert read_until(container.console, b":5").split() == [b"/dev/pts/0", b"0:5"]


def test_the_root_of_a_user_namespace_makes_no_device_and_mounts_what_is_its_own(image: Image, user: int) -> None:
    sets = {key: ["CAP_MKNOD", "CAP_SYS_ADMIN"] for key in ("bounding", "effective", "permitted")}
    script = (
        "dd if=/dev/zero of=/x bs=1 count=1 2>/dev/null; mount -t proc proc /tmp && echo mounted; "
        "cat /dev/full >/dev/null 2>&1 & mknod /node c 1 3 2>/dev/null || echo refused"
    )
    (image.layer / "bin" / "mknod").symlink_to("busybox")
    node = {"path": "/opt/sub/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666, "uid": 0, "gid": 0}
    capabilities = {**sets, "inheritable": [], "ambient": []}
    request = shifted(
        image,
        "sh",
        "-c",
        f"{script}; stat -c %u:%t:%T /opt/sub/null; echo x > /opt/sub/null",
        capabilities=capabilities,
        devices=[node],
    )
    with started(request, {"user": user}) as container:
        assert container.finish() == (0, "mounted\nrefused\n0:1:3\n")


def test_a_volume_is_idmapped_and_what_is_written_there_has_the_disks_owners(
    image: Image, user: int, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    os.chown(source, 12, 12)
    os.chown(image.path / "volumes", 44, 0)
    request = shifted(
        image,
        "sh",
        "-c",
        "stat -c %u /data /vol; echo x > /data/new; stat -c %u /data/new",
        mounts=[bind(source, "/data", "ridmap")],
    )
    request["volumes"] = [{"destination": "/vol", "source": str(image.path / "volumes")}]
    with started(request, {"user": user}) as container:
        assert container.finish() == (0, "12\n44\n0\n")
    assert (source / "new").stat().st_uid == 0, "root's on the disk, as in the container"


def test_what_cannot_be_idmapped_is_named(image: Image, user: int) -> None:
    request = shifted(image, "true", mounts=[bind("/proc", "/data", "ridmap")])
    said = "open the mount sources: /proc: is on a file system that cannot be"
    with pytest.raises(StartRefused, match=said), started(request, {"user": user}):
        pass


def test_in_the_pids_of_its_pod_it_is_born_once(image: Image, user: int) -> None:
    """Then the namespace is there, and belongs to the user namespace already."""
    request = shifted(image, "true")
    again = births.container_script({**request, "pid_mode": "pod"}, None)
    assert len(again.bytes()) < len(births.container_script(request, None).bytes())
