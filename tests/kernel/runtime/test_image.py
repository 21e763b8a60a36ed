from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from runtime import channel, image, users
from runtime.errors import FailedPrecondition, HostFault, StartRefused
from runtime.linux import process
from runtime.looks import FillRequest, ResolveUserRequest
from runtime.requests import Rootfs
from tests.descriptors import open_descriptors
from tests.kernel.runtime.forked import in_child


@pytest.fixture
def rootfs(tmp_path: Path) -> Rootfs:
    """Of two layers; the upper one has the users, the lower one what is in the volume."""
    for name in ("top/etc", "bottom/data/sub", "upper", "work", "staging", "volume"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "top/etc/passwd").write_text("root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n")
    (tmp_path / "top/etc/group").write_text("root:x:0:\napp:x:1000:\nextra:x:7:app\n")
    (tmp_path / "bottom/data/sub/file").write_text("content")
    (tmp_path / "bottom/data/sub").chmod(0o2777)
    return {
        "lowerdirs": [str(tmp_path / "top"), str(tmp_path / "bottom")],
        "upperdir": str(tmp_path / "upper"),
        "workdir": str(tmp_path / "work"),
        "staging": str(tmp_path / "staging"),
    }


def asked(rootfs: Rootfs, user: str) -> ResolveUserRequest:
    return {"rootfs": rootfs, "user": user, "gid": None, "groups": [], "policy": "Merge"}


def probe(rootfs: Rootfs, user: str) -> object:
    return in_child(lambda: image.probe_rootfs(rootfs, lambda root: users.resolve(root, asked(rootfs, user))))


def told(run: Callable[[int], NoReturn]) -> dict[str, Any]:
    """What a forked child that runs ``run`` has told before it ended by itself."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            run(theirs.fileno())
        finally:
            os._exit(9)
    theirs.close()
    with ours:
        ours.settimeout(20)
        message = ours.recv(65536)
        rest = ours.recv(65536)
    _, status = os.waitpid(pid, 0)
    assert (rest, status) == (b"", 0)
    return dict(channel.decode(message))


def test_an_image_is_probed_without_touching_its_upper_directory(rootfs: Rootfs) -> None:
    expected = {"uid": 1000, "gid": 1000, "additionalGids": [1000, 7], "home": "/home/app"}
    assert probe(rootfs, "app") == expected
    assert os.listdir(rootfs["upperdir"]) == os.listdir(rootfs["workdir"]) == []


def test_what_a_probe_refuses_is_passed_on(rootfs: Rootfs) -> None:
    with pytest.raises(FailedPrecondition, match="neither a number nor a name"):
        probe(rootfs, "１")


def test_a_layer_that_is_missing_is_named(rootfs: Rootfs) -> None:
    rootfs["lowerdirs"].append("/nowhere")
    with pytest.raises(HostFault) as failed:
        probe(rootfs, "app")
    assert failed.value.object == "/nowhere"


def test_what_a_path_of_the_image_is(rootfs: Rootfs) -> None:
    (Path(rootfs["lowerdirs"][0]) / "away").symlink_to("/data/../../data/sub/file")
    os.mkfifo(Path(rootfs["lowerdirs"][0]) / "fifo")

    def find(path: str) -> object:
        return in_child(lambda: image.probe_rootfs(rootfs, lambda root: image.find_in_root(root, path)))

    assert find("data/sub") == {"directory": True}
    assert find("data/sub/file") == find("away") == {"directory": False}
    for path in ("nothing", "data/sub/file/x", "x" * 300):
        with pytest.raises(FailedPrecondition, match="is not in the image"):
            find(path)
    with pytest.raises(FailedPrecondition, match="neither a directory nor a file"):
        find("fifo")
    assert told(lambda report: image.find({"rootfs": rootfs, "path": "data"}, report)) == {"directory": True}


def test_a_probe_is_not_seen_on_the_host_nor_to_be_traced(rootfs: Rootfs) -> None:
    before = Path("/proc/self/mountinfo").read_text()

    def use(root: int) -> tuple[list[str], bool, int, bool]:
        readonly = bool(os.statvfs(f"/proc/self/fd/{root}").f_flag & os.ST_RDONLY)
        dumpable = process.prctl(3)  # PR_GET_DUMPABLE
        return sorted(os.listdir(f"/proc/self/fd/{root}")), readonly, dumpable, Path(rootfs["staging"]).is_mount()

    def work() -> tuple[object, set[int]]:
        before = open_descriptors()
        found = image.probe_rootfs(rootfs, use)
        return found, open_descriptors() - before

    assert in_child(work) == ((["data", "etc"], True, 0, True), set())
    assert Path("/proc/self/mountinfo").read_text() == before
    assert not Path(rootfs["staging"]).is_mount()


def test_the_root_is_closed_when_its_use_is_refused(rootfs: Rootfs) -> None:
    def refuse(root: int) -> None:
        raise StartRefused("refused")

    def work() -> set[int]:
        before = open_descriptors()
        with pytest.raises(StartRefused, match="refused"):
            image.probe_rootfs(rootfs, refuse)
        return open_descriptors() - before

    assert in_child(work) == set()


def test_a_user_is_told_and_the_process_ends(rootfs: Rootfs) -> None:
    answer = told(lambda report: image.resolve_user(asked(rootfs, "1000"), report))
    assert (answer["uid"], answer["gid"], answer["home"]) == (1000, 1000, "/home/app")


def filling(rootfs: Rootfs, destination: str, source: str | Path) -> FillRequest:
    volumes: Any = [{"destination": destination, "source": str(source)}]
    return {"rootfs": rootfs, "volumes": volumes, "cgroup": {"v1": [], "v2": None}}


def test_volumes_are_filled_with_exact_modes_and_the_process_ends(rootfs: Rootfs, tmp_path: Path) -> None:
    mask = os.umask(0o077)
    try:
        request = filling(rootfs, "/data", tmp_path / "volume")
        assert told(lambda report: image.fill_volumes(request, report)) == {}
    finally:
        os.umask(mask)
    assert (tmp_path / "volume/sub/file").read_text() == "content"
    assert (tmp_path / "volume/sub").stat().st_mode & 0o7777 == 0o2777
    assert os.listdir(rootfs["upperdir"]) == os.listdir(rootfs["workdir"]) == []


def test_a_volume_that_cannot_be_filled_says_in_which_step(rootfs: Rootfs, tmp_path: Path) -> None:
    request = filling(rootfs, "/etc/passwd", tmp_path / "volume")
    with pytest.raises(StartRefused, match="not a directory") as refused:
        in_child(lambda: image.fill_volumes(request, -1))
    assert (refused.value.step, refused.value.object) == ("fill the volumes", "/etc/passwd")


def test_volumes_are_filled_at_the_container_s_expense(rootfs: Rootfs, tmp_path: Path) -> None:
    """It has joined the container's cgroups before it looks into the image."""
    request = filling(rootfs, "/data", tmp_path / "volume")
    request["cgroup"] = {"v1": ["/nowhere"], "v2": None}
    rootfs["lowerdirs"] = ["/nowhere either"]
    with pytest.raises(HostFault, match="/nowhere/tasks"):
        in_child(lambda: image.fill_volumes(request, -1))
