from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.errors import Fault, HostFault, StartRefused
from runtime.idmap import make_user_namespace
from runtime.linux import mount, trees
from runtime.linux.libc import AT_FDCWD
from runtime.linux.namespaces import CLONE_NEWNS, setns
from runtime.linux.script import Script
from runtime.rootfs import mounts
from runtime.rootfs.options import parse_options
from runtime.spec import Mount
from tests.kernel.runtime.launched import carried_out
from tests.kernel.runtime.rootfs.held import come_between, left_open
from tests.kernel.runtime.rootfs.mountns import enter, in_mount_namespace, tmpfs_root


def entry(destination: str, kind: str = "bind", source: str = "", options: list[str] | None = None) -> Mount:
    return {"destination": destination, "type": kind, "source": source, "options": options or []}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("root", "source"):
        (tmp_path / name).mkdir()
    (tmp_path / "source/file").write_text("content")
    (tmp_path / "source/below").mkdir()
    return tmp_path


def test_a_bind_is_idmapped_where_there_is_a_user_namespace(place: Path) -> None:
    user = make_user_namespace({"host": 3000, "size": 10})
    options = parse_options(["rbind", "ridmap", "ro"])
    (tree,) = carried_out(
        lambda script: mounts.open_source(script, str(place / "source"), options, script.given["user"]), {"user": user}
    )
    assert os.fstat(tree).st_uid == 3000
    with pytest.raises(StartRefused, match="no user namespace to idmap by"):
        mounts.open_source(Script(), "/x", options)
    os.close(tree)
    os.close(user)


def test_volumes_of_a_container_with_a_user_namespace_are_idmapped() -> None:
    (plain,) = mounts.plan_mounts([], [{"destination": "/v", "source": "/s"}])
    (mapped,) = mounts.plan_mounts([], [{"destination": "/v", "source": "/s"}], idmap=True)
    assert mapped["options"] == [*plain["options"], "ridmap"]


def open_source(source: Path, *options: str) -> int:
    (tree,) = carried_out(lambda script: mounts.open_source(script, str(source), parse_options([*options])))
    return tree


def create_filesystem(fstype: str, source: str, *options: str) -> int:
    (tree,) = carried_out(lambda script: mounts.create_filesystem(script, fstype, source, parse_options([*options])))
    return tree


def attach(root: int, tree: int, at: Mount) -> None:
    given = {"root": root, "tree": tree}
    carried_out(lambda script: mounts.attach(script, script.given["root"], script.given["tree"], at), given)


def make_missing_sources(*paths: Path) -> None:
    carried_out(lambda script: mounts.make_missing_sources(script, [str(path) for path in paths]))


def bound(
    place: Path, *options: str, then: Callable[[Path], object] = lambda target: sorted(os.listdir(target))
) -> object:
    """What ``then`` says of the source bound at /mnt of a root, opened before the namespace was made."""

    def work() -> object:
        tree = open_source(place / "source", "rbind", *options)
        enter()
        root = tmpfs_root(place / "root")
        attach(root, tree, entry("/mnt"))
        return then(place / "root/mnt")

    def with_something_below() -> object:
        mount.mount("tmpfs", str(place / "source/below"), "tmpfs", 0, "size=64k")
        (place / "source/below/inner").touch()
        return work()

    return in_mount_namespace(with_something_below)


def flags(target: Path) -> int:
    return os.statvfs(target).f_flag


def test_a_bind_takes_what_is_mounted_below_along(place: Path) -> None:
    assert bound(place, then=lambda target: os.listdir(target / "below")) == ["inner"]


def test_a_read_only_bind_is_read_only_at_its_top(place: Path) -> None:
    def writable(target: Path) -> tuple[bool, bool]:
        return not flags(target) & os.ST_RDONLY, not flags(target / "below") & os.ST_RDONLY

    assert bound(place, "ro", then=writable) == (False, True)
    assert bound(place, "rro", then=writable) == (False, False)
    assert bound(place, then=writable) == (True, True)


def test_attributes_of_a_bind_are_set(place: Path) -> None:
    wanted = os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC
    assert bound(place, "nosuid", "nodev", "noexec", then=lambda target: flags(target) & wanted) == wanted


def propagation(target: Path) -> str:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    fields = next(line.split() for line in lines if line.split()[4] == str(target))
    return " ".join(field.partition(":")[0] for field in fields[6 : fields.index("-")])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), ""),
        (("rprivate",), ""),
        (("rslave",), "master"),
        (("rshared",), "shared"),
        (("private",), ""),
        (("slave",), "master"),
    ],
)
def test_propagation_is_as_asked_for_and_private_by_default(
    place: Path, options: tuple[str, ...], expected: str
) -> None:
    def work() -> str:
        mount.mount("tmpfs", str(place / "source"), "tmpfs", 0, "size=64k")
        mount.mount("", str(place / "source"), "", mount.MS_SHARED)
        tree = open_source(place / "source", "rbind", *options)
        host = os.open("/proc/self/ns/mnt", os.O_RDONLY)  # it must outlive the move out of it
        enter()
        attach(tmpfs_root(place / "root"), tree, entry("/mnt"))
        assert host
        return propagation(place / "root/mnt")

    assert in_mount_namespace(work) == expected


def test_a_mount_made_on_the_host_later_reaches_a_slave_only(place: Path) -> None:
    def work(option: str) -> list[str]:
        mount.mount("tmpfs", str(place / "source"), "tmpfs", 0, "size=64k")
        mount.mount("", str(place / "source"), "", mount.MS_SHARED)
        (place / "source/late").mkdir()
        tree = open_source(place / "source", "rbind", option)
        host = os.open("/proc/self/ns/mnt", os.O_RDONLY)
        enter()
        attach(tmpfs_root(place / "root"), tree, entry("/mnt"))
        inside = os.open("/proc/self/ns/mnt", os.O_RDONLY)
        setns(host, CLONE_NEWNS)
        mount.mount("tmpfs", str(place / "source/late"), "tmpfs", 0, "size=64k")
        (place / "source/late/seen").touch()
        setns(inside, CLONE_NEWNS)
        return os.listdir(place / "root/mnt/late")

    assert in_mount_namespace(lambda: work("rslave")) == ["seen"]
    assert in_mount_namespace(lambda: work("rprivate")) == []


def test_a_source_that_is_swapped_after_it_was_opened_changes_nothing(place: Path) -> None:
    """CVE-2017-1002101, CVE-2021-25741: the object that was opened is the one that is mounted."""

    def work() -> tuple[list[str], list[str]]:
        tree = open_source(place / "source", "rbind")
        (place / "source").rename(place / "moved")
        (place / "source").symlink_to("/etc")
        enter()
        root = tmpfs_root(place / "root")
        attach(root, tree, entry("/mnt"))
        weak = sorted(os.listdir(place / "source"))  # by its path it is the host's /etc now
        return sorted(os.listdir(place / "root/mnt")), weak

    mounted, weak = in_mount_namespace(work)
    assert mounted == ["below", "file"]
    assert "passwd" in weak


def test_a_file_is_bound_onto_a_file(place: Path) -> None:
    def work() -> str:
        tree = open_source(place / "source/file", "bind")
        attach(tmpfs_root(place / "root"), tree, entry("/etc/hosts"))
        return (place / "root/etc/hosts").read_text()

    assert in_mount_namespace(work) == "content"


def test_a_directory_is_not_bound_onto_a_file(place: Path) -> None:
    def work() -> None:
        root = tmpfs_root(place / "root")
        (place / "root/file").touch()
        tree = open_source(place / "source", "rbind")
        attach(root, tree, entry("/file"))

    with pytest.raises(StartRefused, match="not a directory"):
        in_mount_namespace(work)


def test_a_missing_source_is_named() -> None:
    with pytest.raises(OSError, match="/nowhere: open_tree"):
        open_source(Path("/nowhere"))


def test_a_bind_with_options_of_a_file_system_is_refused(place: Path) -> None:
    with pytest.raises(StartRefused, match="no option 'size=1k'"):
        open_source(place, "size=1k")


def test_missing_sources_are_made_with_their_parents_and_files_are_left(place: Path) -> None:
    mask = os.umask(0)
    try:
        make_missing_sources(place / "a/b", place / "source/file", place / "a/b")
    finally:
        os.umask(mask)
    assert (place / "a").stat().st_mode & 0o777 == (place / "a/b").stat().st_mode & 0o777 == 0o755
    assert (place / "source/file").read_text() == "content"


def test_file_systems_are_made_with_their_options(place: Path) -> None:
    def work() -> tuple[int, int]:
        root = tmpfs_root(place / "root")
        tree = create_filesystem("tmpfs", "tmpfs", "nosuid", "mode=711", "size=1m", "shared")
        attach(root, tree, entry("/t", "tmpfs"))
        found = place / "root/t"
        assert propagation(found) == "shared"
        return found.stat().st_mode & 0o777, flags(found) & os.ST_NOSUID

    assert in_mount_namespace(work) == (0o711, os.ST_NOSUID)


def test_an_option_that_the_file_system_does_not_know_is_refused() -> None:
    with pytest.raises(OSError, match=r"rubbish.*fsconfig"):
        create_filesystem("tmpfs", "tmpfs", "rubbish")


def attach_kernel(root: int, kind: str, destination: str) -> None:
    attach(root, create_filesystem(kind, kind, "nosuid", "noexec", "nodev"), entry(destination, kind))


@pytest.mark.parametrize(("kind", "destination"), [("proc", "/proc"), ("sysfs", "/sys")])
def test_kernel_file_systems_are_attached_and_verified(place: Path, kind: str, destination: str) -> None:
    def work() -> bool:
        attach_kernel(tmpfs_root(place / "root"), kind, destination)
        return len(os.listdir(place / "root" / destination.strip("/"))) > 5

    assert in_mount_namespace(work)


@pytest.mark.parametrize(
    ("kind", "destination"), [("proc", "/proc"), ("sysfs", "/sys"), ("tmpfs", "/dev"), ("proc", "/link/proc")]
)
def test_a_symlink_where_they_go_is_refused(place: Path, kind: str, destination: str) -> None:
    """CVE-2019-19921, CVE-2023-28642, CVE-2026-41579: an image whose /proc or /dev leads elsewhere."""

    def work() -> None:
        root = tmpfs_root(place / "root")
        (place / "root/elsewhere").mkdir()
        (place / "root" / destination.split("/")[1]).symlink_to("/elsewhere")
        attach_kernel(root, kind, destination)

    with pytest.raises(StartRefused, match="symbolic links"):
        in_mount_namespace(work)


def test_by_its_path_the_symlink_would_be_followed_to_the_host(place: Path) -> None:
    """The weak variant: mount(2) on the joined path mounts outside of the root."""

    def work() -> list[str]:
        tmpfs_root(place / "root")
        (place / "root/dev").symlink_to(place / "source")
        mount.mount("tmpfs", str(place / "root/dev"), "tmpfs", 0)
        return os.listdir(place / "source")

    assert in_mount_namespace(work) == []  # the host's directory is covered


def refused_in_proc(place: Path, destination: str, link: str = "") -> None:
    def work() -> None:
        root = tmpfs_root(place / "root")
        attach_kernel(root, "proc", "/proc")
        if link:
            (place / "root/link").symlink_to(link)
        tree = open_source(place / "source/file", "bind")
        attach(root, tree, entry(destination))

    in_mount_namespace(work)


@pytest.mark.parametrize(
    ("destination", "link"),
    [
        ("/proc/version", ""),
        ("/proc/sys/kernel/core_pattern", ""),
        ("/link", "/proc/version"),
        ("/proc/self/attr/exec", ""),
    ],
)
def test_nothing_is_mounted_inside_proc(place: Path, destination: str, link: str) -> None:
    with pytest.raises(Fault, match="part of /proc"):
        refused_in_proc(place, destination, link)


def test_a_volume_over_proc_is_refused(place: Path) -> None:
    def work() -> None:
        root = tmpfs_root(place / "root")
        attach_kernel(root, "proc", "/proc")
        tree = open_source(place / "source", "rbind")
        attach(root, tree, entry("/proc"))

    with pytest.raises(StartRefused, match="part of /proc"):
        in_mount_namespace(work)


@pytest.mark.parametrize("name", ["/proc/meminfo", "/proc//uptime"])
def test_what_lxcfs_gives_may_be_mounted(place: Path, name: str) -> None:
    refused_in_proc(place, name)


@pytest.mark.parametrize(("kind", "destination"), [("proc", "/proc"), ("sysfs", "/sys")])
def test_what_covers_a_kernel_file_system_is_noticed(place: Path, kind: str, destination: str) -> None:
    where = f"{place}/root{destination}"

    def attached(does: Callable[[Script], None]) -> None:
        def write(script: Script) -> None:
            come_between(script, "move_mount", lambda: does(script))
            tree = mounts.create_filesystem(script, kind, kind, parse_options([]))
            mounts.attach(script, script.given["root"], tree, entry(destination, kind))

        in_mount_namespace(lambda: carried_out(write, {"root": tmpfs_root(place / "root")}))

    def cover(script: Script) -> None:
        trees.mount_at(script, "tmpfs", where, "tmpfs", 0)

    def remove(script: Script) -> None:
        script.call("umount2", where, mount.MNT_DETACH)
        script.call("unlinkat", AT_FDCWD, where, 0x200)

    def replace(script: Script) -> None:
        remove(script)
        script.call("symlinkat", "/tmp", AT_FDCWD, where)

    with pytest.raises(HostFault, match="is not the file system"):
        attached(cover)
    for change in (remove, replace):
        with pytest.raises(StartRefused, match="changed while it was mounted on") as refused:
            attached(change)
        assert refused.value.object == destination


def test_no_descriptor_but_the_tree_is_left_open(place: Path) -> None:
    def write(script: Script) -> None:
        root, options = script.given["root"], parse_options(["rbind"])
        for source, destination in ((place / "source", "/mnt"), (place / "source/file", "/etc/hosts")):
            tree = mounts.open_source(script, str(source), options)
            mounts.attach(script, root, tree, entry(destination))
            script.close(tree)
        for kind, destination in (("proc", "/proc"), ("sysfs", "/sys"), ("tmpfs", "/dev")):
            tree = mounts.create_filesystem(script, kind, kind, parse_options([]))
            mounts.attach(script, root, tree, entry(destination, kind))
            script.close(tree)

    assert in_mount_namespace(lambda: left_open(write, {"root": tmpfs_root(place / "root")})) == {}


def test_volumes_come_before_what_lies_below_them() -> None:
    given = [entry("/proc", "proc"), entry("/data"), entry("/data/sub/deep"), entry("/other")]
    volumes = [{"destination": "/data/sub/", "source": "/v/1"}, {"destination": "/last", "source": "/v/2"}]
    planned = mounts.plan_mounts(given, volumes)  # type: ignore[arg-type]
    assert [each["destination"] for each in planned] == [
        "/proc",
        "/data",
        "/last",
        "/data/sub/",
        "/data/sub/deep",
        "/other",
    ]
    assert planned[3]["source"] == "/v/1" and planned[3]["type"] == "bind"


def test_volumes_come_before_what_a_link_may_lead_below_them() -> None:
    """/var/run is /run in many images: a volume there would cover what was mounted at /var/run/secrets."""
    given = [entry("/dev", "tmpfs"), entry("/dev/pts", "devpts"), entry("/data"), entry("/var/run/secrets")]
    volumes = [{"destination": "/run", "source": "/v/1"}, {"destination": "/dev/pts/x", "source": "/v/2"}]
    planned = mounts.plan_mounts(given, volumes)  # type: ignore[arg-type]
    assert [each["destination"] for each in planned] == [
        "/dev",
        "/dev/pts",
        "/data",
        "/run",
        "/var/run/secrets",
        "/dev/pts/x",
    ]
