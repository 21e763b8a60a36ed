from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

import pytest

from runtime.errors import HostFault, StartRefused
from runtime.linux.libc import SyscallError
from runtime.linux.script import Script, Slot
from runtime.rootfs import resolve
from tests.descriptors import open_descriptors
from tests.kernel.runtime.launched import needs_launch
from tests.kernel.runtime.rootfs.held import left_open
from tests.unit.runtime.rootfs.below import Tree, made_by, make_dirs_in_root, make_exact_directory, make_file_in_root

pytestmark = needs_launch


def test_missing_directories_are_made_with_their_mode(tree: Tree) -> None:
    assert tree.made(make_dirs_in_root(tree.fd, "/a/b/c")) == "a/b/c"
    assert stat.S_IMODE((tree.root / "a/b/c").stat().st_mode) == 0o755


def test_what_exists_is_opened_as_it_is(tree: Tree) -> None:
    (tree.root / "a").mkdir(mode=0o700)
    assert tree.made(make_dirs_in_root(tree.fd, "a")) == "a"
    assert stat.S_IMODE((tree.root / "a").stat().st_mode) == 0o700


def test_the_root_itself_is_a_directory_of_it(tree: Tree) -> None:
    assert tree.made(make_dirs_in_root(tree.fd, "/")) == "."


@pytest.mark.parametrize("target", ["{host}", "../../..", "/", "../canary"])
def test_a_directory_below_a_symlink_is_made_inside_the_root(tree: Tree, target: str) -> None:
    tree.link("link", target.format(host=tree.canary))
    fd = make_dirs_in_root(tree.fd, "/link/new")
    assert not tree.made(fd).startswith("..")


def test_the_same_by_path_strings_would_reach_the_host(tree: Tree) -> None:
    """The weak variant: what joining strings does with the link of the test above."""
    tree.link("link", str(tree.canary))
    os.mkdir(os.path.join(tree.root, "link/new"))
    assert (tree.canary / "new").is_dir()
    (tree.canary / "new").rmdir()


def test_dots_do_not_lead_out(tree: Tree) -> None:
    assert tree.made(make_dirs_in_root(tree.fd, "/../../canary")) == "canary"
    assert (tree.root / "canary").is_dir()


def test_a_dangling_symlink_has_its_target_made(tree: Tree) -> None:
    (tree.root / "var").mkdir()
    tree.link("var/run", "/run")
    assert tree.made(make_dirs_in_root(tree.fd, "/var/run/secrets")) == "run/secrets"


def test_a_relative_dangling_symlink_has_its_target_made(tree: Tree) -> None:
    (tree.root / "var").mkdir()
    tree.link("var/run", "../run/x")
    assert tree.made(make_dirs_in_root(tree.fd, "/var/run/secrets")) == "run/x/secrets"


def test_dots_below_something_missing_are_refused(tree: Tree) -> None:
    with pytest.raises(StartRefused, match="leads back"):
        make_dirs_in_root(tree.fd, "/missing/../../x")


def test_a_loop_is_refused(tree: Tree) -> None:
    tree.link("loop", "loop/x")
    with pytest.raises(StartRefused, match="symbolic links"):
        make_dirs_in_root(tree.fd, "/loop/new")


def test_a_file_in_the_way_is_refused(tree: Tree) -> None:
    (tree.root / "file").write_text("")
    with pytest.raises(StartRefused, match="not a directory") as refused:
        make_dirs_in_root(tree.fd, "/file/new")
    assert refused.value.object == "/file/new"


def test_a_missing_file_is_made_with_its_directories(tree: Tree) -> None:
    assert tree.made(make_file_in_root(tree.fd, "/etc/x/hosts")) == "etc/x/hosts"
    assert (tree.root / "etc/x/hosts").read_bytes() == b""


def test_a_file_that_exists_keeps_its_content(tree: Tree) -> None:
    (tree.root / "hosts").write_text("here")
    assert tree.made(make_file_in_root(tree.fd, "hosts")) == "hosts"
    assert (tree.root / "hosts").read_text() == "here"


def test_a_file_behind_a_dangling_symlink_is_made_inside_the_root(tree: Tree) -> None:
    (tree.root / "etc").mkdir()
    tree.link("etc/resolv.conf", "/run/resolv.conf")
    tree.link("etc/mtab", "../new")
    assert tree.made(make_file_in_root(tree.fd, "/etc/resolv.conf")) == "run/resolv.conf"
    assert tree.made(make_file_in_root(tree.fd, "/etc/mtab")) == "new"


def test_a_symlink_to_a_file_of_the_host_stays_inside(tree: Tree) -> None:
    tree.link("hosts", str(tree.canary / "secret"))
    assert not tree.made(make_file_in_root(tree.fd, "/hosts")).startswith("..")
    assert (tree.canary / "secret").read_text() == "host"


@pytest.mark.parametrize("path", ["/", "/dir", "/dir/.."])
def test_a_directory_is_no_file(tree: Tree, path: str) -> None:
    (tree.root / "dir").mkdir()
    with pytest.raises(StartRefused, match="is a directory"):
        make_file_in_root(tree.fd, path)


def test_an_exact_directory_is_made_or_found(tree: Tree) -> None:
    assert tree.made(make_exact_directory(tree.fd, "/sys/fs/cgroup")) == "sys/fs/cgroup"
    assert tree.made(make_exact_directory(tree.fd, "/sys/fs/cgroup")) == "sys/fs/cgroup"


@pytest.mark.parametrize("target", ["/tmp", "elsewhere", "/proc/self"])
def test_a_symlink_is_no_exact_directory(tree: Tree, target: str) -> None:
    (tree.root / "elsewhere").mkdir()
    tree.link("proc", target)
    with pytest.raises(StartRefused, match="symbolic links"):
        make_exact_directory(tree.fd, "/proc")


@pytest.mark.parametrize("path", ["/", "", "/a/../b"])
def test_the_root_and_dots_are_no_exact_directory(tree: Tree, path: str) -> None:
    with pytest.raises(StartRefused, match="no place"):
        make_exact_directory(tree.fd, path)


def test_a_path_that_is_opened_exactly_has_no_symlink_and_no_dots(tree: Tree) -> None:
    tree.link("link", ".")
    for path, expected in (("link", errno.ELOOP), ("..", errno.EXDEV)):
        with pytest.raises(SyscallError) as failed:
            resolve.open_exact(tree.fd, path)
        assert failed.value.errno == expected


def test_no_descriptor_is_left_open(tree: Tree) -> None:
    (tree.root / "file").write_text("")
    tree.link("link", "/missing/x")
    before = open_descriptors()
    for path in ("/file/x", "/missing/../x", "/a/b"):
        for make in (make_dirs_in_root, make_file_in_root, make_exact_directory):
            try:
                os.close(make(tree.fd, path))
            except StartRefused:
                continue
    assert open_descriptors() == before

    def write(script: Script) -> None:
        root = script.given["root"]
        for _ in range(2):  # what is missing, and what is there
            for name in ("/link/y", "/p/q"):
                script.close(resolve.make_dirs_in_root(script, root, name))
                script.close(resolve.make_file_in_root(script, root, f"{name}/file"))
            script.close(resolve.make_exact_directory(script, root, "/s/t"))
        script.close(resolve.open_in(script, root, "/link"), resolve.open_exactly(script, root, "/s/t"))

    assert left_open(write, {"root": tree.fd}) == {}


@pytest.mark.parametrize("opens", [resolve.open_in, resolve.open_exactly])
def test_what_is_opened_stays_below_the_root(tree: Tree, opens: Callable[..., Slot]) -> None:
    (tree.root / "dir").mkdir()
    tree.link("out", str(tree.canary))
    assert tree.made(made_by(opens, tree.fd, "/dir")) == "dir"
    assert tree.made(made_by(opens, tree.fd, "")) == "."
    for path in ("/out", "/../../canary/secret", "/proc/self"):
        with pytest.raises(HostFault) as failed:
            made_by(opens, tree.fd, path)
        assert (failed.value.object, failed.value.call) == (path, "openat2")
