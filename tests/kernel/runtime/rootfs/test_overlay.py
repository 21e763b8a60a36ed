from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

from runtime.errors import HostFault, StartRefused
from runtime.idmap import make_user_namespace
from runtime.linux import files, namespaces, trees
from runtime.linux.script import Script, Slot
from runtime.requests import Rootfs
from runtime.rootfs import overlay
from runtime.spec import IdMapping
from tests.kernel.runtime.launched import carried_out
from tests.kernel.runtime.rootfs.held import come_between, left_open
from tests.kernel.runtime.rootfs.mountns import in_mount_namespace


def mount_root(rootfs: Rootfs) -> int:
    (root,) = carried_out(lambda script: overlay.mount_root(script, rootfs))
    return root


@pytest.fixture
def rootfs(tmp_path: Path) -> Rootfs:
    layers = []
    for name in ("top", "bottom"):
        layer = tmp_path / f"layer,{name}:\\"  # characters that are syntax in mount options
        layer.mkdir()
        (layer / "who").write_text(name)
        (layer / name).touch()
        layers.append(str(layer))
    for name in ("upper", "work", "staging"):
        (tmp_path / name).mkdir()
    (tmp_path / "upper").chmod(0o700)
    return {
        "lowerdirs": layers,
        "upperdir": str(tmp_path / "upper"),
        "workdir": str(tmp_path / "work"),
        "staging": str(tmp_path / "staging"),
    }


def test_layers_are_stacked_topmost_first(rootfs: Rootfs) -> None:
    def work() -> tuple[list[str], str, int]:
        fd = mount_root(rootfs)
        root = Path(f"/proc/self/fd/{fd}")
        return sorted(os.listdir(root)), (root / "who").read_text(), files.magic(fd)

    assert in_mount_namespace(work) == (["bottom", "top", "who"], "top", files.OVERLAYFS_SUPER_MAGIC)
    assert os.listdir(rootfs["staging"]) == []  # not seen outside


def test_what_is_written_goes_to_the_upper_directory(rootfs: Rootfs) -> None:
    def work() -> None:
        fd = mount_root(rootfs)
        Path(f"/proc/self/fd/{fd}/new").write_text("x")

    in_mount_namespace(work)
    assert Path(rootfs["upperdir"], "new").read_text() == "x"
    assert not Path(rootfs["lowerdirs"][0], "new").exists()


def test_the_mount_is_volatile_and_ignores_redirects(rootfs: Rootfs) -> None:
    def work() -> str:
        mount_root(rootfs)
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        return next(line for line in lines if rootfs["staging"] in line)

    options = in_mount_namespace(work)
    assert "volatile" in options and "redirect_dir=nofollow" in options


def test_a_label_is_the_context_of_the_whole_root(rootfs: Rootfs) -> None:
    """In quotes, for its level has commas. Only a kernel with SELinux takes it."""
    script = Script()
    overlay.mount_root(script, Rootfs(**{**rootfs, "label": "u:object_r:t:s0:c1,c2"}))
    assert b',volatile,context="u:object_r:t:s0:c1,c2",' in script.bytes()
    plain = Script()
    overlay.mount_root(plain, rootfs)
    assert b"context=" not in plain.bytes()


def test_a_second_try_after_a_failed_start_can_mount_again(rootfs: Rootfs) -> None:
    for _ in range(2):
        in_mount_namespace(lambda: os.close(mount_root(rootfs)))
        assert Path(rootfs["workdir"], "work/incompat/volatile").is_dir()


def test_without_removing_the_mark_it_cannot(rootfs: Rootfs, monkeypatch: pytest.MonkeyPatch) -> None:
    in_mount_namespace(lambda: os.close(mount_root(rootfs)))
    monkeypatch.setattr(overlay, "_remove_volatile_mark", lambda script, work: None)
    with pytest.raises(HostFault) as failed:
        in_mount_namespace(lambda: os.close(mount_root(rootfs)))
    assert failed.value.call == "mount"


def test_a_mark_of_another_kind_is_left_for_the_kernel_to_judge(rootfs: Rootfs) -> None:
    incompat = Path(rootfs["workdir"], "work/incompat")
    (incompat / "future").mkdir(parents=True)
    with pytest.raises(HostFault):
        in_mount_namespace(lambda: os.close(mount_root(rootfs)))
    assert (incompat / "future").is_dir()


def test_the_root_gets_owner_and_mode_of_the_topmost_layer(rootfs: Rootfs) -> None:
    os.chmod(rootfs["lowerdirs"][0], 0o1751)
    os.chown(rootfs["lowerdirs"][0], 5, 6)

    overlay.take_over_attributes(rootfs["lowerdirs"][0], rootfs["upperdir"])

    def work() -> tuple[int, int, int]:
        found = os.fstat(mount_root(rootfs))
        return found.st_mode & 0o7777, found.st_uid, found.st_gid

    assert in_mount_namespace(work) == (0o1751, 5, 6)


def test_many_layers_are_mounted(rootfs: Rootfs, tmp_path: Path) -> None:
    for n in range(120):
        (tmp_path / f"l{n}").mkdir()
        (tmp_path / f"l{n}" / f"f{n}").touch()
    rootfs["lowerdirs"] = [str(tmp_path / f"l{n}") for n in range(120)]
    assert len(in_mount_namespace(lambda: os.listdir(mount_root(rootfs) and rootfs["staging"]))) == 120


def test_more_layers_than_fit_are_refused_in_words(rootfs: Rootfs) -> None:
    rootfs["lowerdirs"] = [rootfs["lowerdirs"][0]] * 400
    with pytest.raises(StartRefused, match="the image has 400 layers"):
        in_mount_namespace(lambda: mount_root(rootfs))
    rootfs["lowerdirs"] = [rootfs["lowerdirs"][0]] * 501
    with pytest.raises(StartRefused, match="an overlay takes 500"):
        in_mount_namespace(lambda: mount_root(rootfs))


@pytest.mark.parametrize("layers", [1, 2])
def test_layers_alone_are_mounted_read_only(rootfs: Rootfs, layers: int) -> None:
    rootfs["lowerdirs"] = rootfs["lowerdirs"][:layers]

    def work() -> tuple[str, bool]:
        root = Path(f"/proc/self/fd/{overlay.mount_layers(rootfs)}")
        try:
            (root / "new").touch()
        except OSError as error:
            return (root / "who").read_text(), "Read-only" in str(error)
        return "", False

    assert in_mount_namespace(work) == ("top", True)
    assert os.listdir(rootfs["upperdir"]) == os.listdir(rootfs["workdir"]) == []


@pytest.mark.parametrize("layers", [1, 2])
def test_a_script_mounts_layers_alone_read_only(rootfs: Rootfs, layers: int) -> None:
    lower = rootfs["lowerdirs"][:layers]

    def work() -> tuple[str, int, list[str]]:
        (fd,) = carried_out(lambda script: overlay.mount_readonly(script, lower, rootfs))
        root = Path(f"/proc/self/fd/{fd}")
        return (root / "who").read_text(), os.statvfs(root).f_flag & os.ST_RDONLY, sorted(os.listdir(root))

    assert in_mount_namespace(work) == ("top", os.ST_RDONLY, ["bottom", "top", "who"][2 - layers :])


def test_more_layers_alone_than_fit_are_counted_without_the_empty_one(rootfs: Rootfs) -> None:
    rootfs["lowerdirs"] = [rootfs["lowerdirs"][0]] * 400
    for mounted in (
        lambda: carried_out(lambda script: overlay.mount_readonly(script, rootfs["lowerdirs"], rootfs)),
        lambda: overlay.mount_layers(rootfs),
    ):
        with pytest.raises(StartRefused, match="the image has 400 layers"):
            in_mount_namespace(mounted)


def test_a_missing_layer_is_a_fault_of_the_host_that_names_it(rootfs: Rootfs) -> None:
    rootfs["lowerdirs"].append("/nowhere")
    with pytest.raises(HostFault) as failed:
        in_mount_namespace(lambda: mount_root(rootfs))
    assert failed.value.object == "/nowhere"


def test_no_descriptor_but_the_root_is_left_open(rootfs: Rootfs) -> None:
    def write(script: Script) -> None:
        overlay.mount_root(script, rootfs)

    assert in_mount_namespace(lambda: left_open(write)) == {rootfs["staging"]: True}


def test_another_file_system_at_staging_is_noticed(rootfs: Rootfs) -> None:
    def write(script: Script) -> None:
        mount_another = partial(trees.mount_at, script, "tmpfs", rootfs["staging"], "tmpfs", 0)
        come_between(script, "mount", mount_another)
        overlay.mount_root(script, rootfs)

    with pytest.raises(HostFault, match="is not the overlay") as failed:
        in_mount_namespace(lambda: carried_out(write))
    assert failed.value.object == rootfs["staging"]
    with pytest.raises(HostFault, match="is not the overlay"):
        overlay._verified(rootfs["staging"], files.OVERLAYFS_SUPER_MAGIC)


IDS: IdMapping = {"host": 5000, "size": 2000}


def detached(rootfs: Rootfs, user: int) -> int:
    def write(script: Script) -> Slot:
        with trees.in_mount_namespace_aside(script):
            return overlay.make_detached(script, rootfs, script.given["user"])

    (tree,) = carried_out(write, {"user": user})
    return tree


def test_with_a_user_namespace_the_layers_are_idmapped_and_the_upper_directory_is_not(rootfs: Rootfs) -> None:
    os.chown(Path(rootfs["lowerdirs"][0], "who"), 7, 1999)
    os.chown(Path(rootfs["lowerdirs"][1], "bottom"), 2000, 0)
    overlay.take_over_attributes(rootfs["lowerdirs"][0], rootfs["upperdir"], IDS)
    before = Path("/proc/self/mountinfo").read_text()
    user = make_user_namespace(IDS)
    tree = detached(rootfs, user)
    assert Path("/proc/self/mountinfo").read_text() == before and os.listdir(rootfs["staging"]) == []
    root = Path(f"/proc/self/fd/{tree}")
    found = [(root / name).stat() for name in ("who", "bottom", "")]
    assert [(each.st_uid, each.st_gid) for each in found] == [(5007, 6999), (65534, 5000), (5000, 5000)]
    os.chmod(root / "who", 0o600)
    (root / "new").touch()
    copied = Path(rootfs["upperdir"], "who").stat()
    assert (copied.st_uid, copied.st_gid) == (5007, 6999), "in it stands who somebody is on the host"
    assert Path(rootfs["upperdir"], "new").stat().st_uid == 0
    os.close(tree)
    os.close(user)


def test_what_was_made_detached_is_attached_where_the_root_of_a_user_namespace_may(rootfs: Rootfs) -> None:
    overlay.take_over_attributes(rootfs["lowerdirs"][0], rootfs["upperdir"], IDS)
    user = make_user_namespace(IDS)
    tree = detached(rootfs, user)

    def write(script: Script) -> None:
        script.call("setns", script.given["user"], namespaces.CLONE_NEWUSER)
        script.call("setresuid", 0, 0, 0)
        trees.own_mount_namespace(script, namespaces.CLONE_NEWNS)
        overlay.attach_root(script, script.given["tree"])
        script.call("mkdirat", script.given["tree"], "made", 0o755)
        script.call("openat", script.given["tree"], "made/..", os.O_RDONLY, 0)

    before = Path("/proc/self/mountinfo").read_text()
    carried_out(write, {"tree": tree, "user": user})
    assert Path("/proc/self/mountinfo").read_text() == before
    assert Path(rootfs["upperdir"], "made").stat().st_uid == IDS["host"]
    os.close(tree)
    os.close(user)


def test_an_owner_whom_the_user_namespace_has_not_stays_nobody(rootfs: Rootfs) -> None:
    os.chown(rootfs["lowerdirs"][0], 3000, 5)
    overlay.take_over_attributes(rootfs["lowerdirs"][0], rootfs["upperdir"], IDS)
    found = os.stat(rootfs["upperdir"])
    assert (found.st_uid, found.st_gid) == (0, 5005)
