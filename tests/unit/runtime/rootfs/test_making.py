"""How ``launch.c`` makes paths: at the limits of the kernel, against a model, and while others rename."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import errno
import os
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from runtime.errors import HostFault, StartRefused
from runtime.linux.libc import AT_FDCWD, SyscallError
from runtime.linux.script import Script, Slot
from runtime.rootfs import resolve
from tests.kernel.runtime.launched import carried_out, needs_launch
from tests.unit.runtime.rootfs import modelled
from tests.unit.runtime.rootfs.below import Tree, make_dirs_in_root, make_exact_directory, make_file_in_root

pytestmark = needs_launch


@pytest.mark.parametrize("links", [20, 40, 41])
@pytest.mark.parametrize("target", ["l{}", "/l{}", "./l{}", "../l{}"])
def test_as_many_links_are_followed_as_the_kernel_follows(tree: Tree, links: int, target: str) -> None:
    for n in range(links):
        tree.link(f"l{n}", target.format(n + 1))
    if links <= 40:
        assert tree.made(patiently(make_file_in_root, tree.fd, "/l0")) == f"l{links}"
        (tree.root / f"l{links}").unlink()
        assert tree.made(patiently(make_dirs_in_root, tree.fd, "/l0/new")) == f"l{links}/new"
        return
    for make in (make_dirs_in_root, make_file_in_root):
        for path in ("/l0/new", "/l0"):
            with pytest.raises(StartRefused, match="symbolic links"):
                make(tree.fd, path)
    assert sorted(os.listdir(tree.root)) == sorted(f"l{n}" for n in range(links))


def patiently(make: Callable[[int, str], int], root: int, path: str) -> int:
    """The kernel counts links twice where it has to begin a walk again, so that more than 20 may be too many."""
    for _ in range(50):
        try:
            return make(root, path)
        except StartRefused as refused:
            assert "symbolic links" in str(refused)
    return make(root, path)


@pytest.mark.parametrize("ring", [{"a": "a"}, {"a": "b", "b": "a"}, {"a": "/b/x", "b": "a"}, {"a": "../a/../a"}])
def test_a_ring_of_links_is_refused(tree: Tree, ring: dict[str, str]) -> None:
    for name, target in ring.items():
        tree.link(name, target)
    for make in (make_dirs_in_root, make_file_in_root):
        for path in ("/a", "/a/new"):
            with pytest.raises(StartRefused, match="symbolic links"):
                make(tree.fd, path)


LEAKED = 200


@pytest.fixture
def host() -> Iterator[dict[str, int]]:
    """The host's root, in which procfs is, and a directory that has been left open in the process."""
    found = {"root": os.open("/", os.O_PATH), "leaked": os.open("/etc", os.O_RDONLY | os.O_DIRECTORY)}
    yield found
    for fd in found.values():
        os.close(fd)


def test_a_magic_link_is_refused(host: dict[str, int]) -> None:
    """WORKDIR /proc/self/fd/N: an open directory of the host (CVE-2024-21626)."""
    target = f"/proc/self/fd/{LEAKED}"

    def by_its_path(script: Script) -> Slot:
        script.call("dup3", script.given["leaked"], LEAKED, 0)
        return script.opened("openat", AT_FDCWD, f"{target}/passwd", os.O_RDONLY, 0)

    (weak,) = carried_out(by_its_path, host)  # the weak variant reaches the directory
    assert os.read(weak, 1)
    os.close(weak)
    for make in (resolve.make_dirs_in_root, resolve.make_file_in_root, resolve.make_exact_directory):
        for path in (target, f"{target}/new", "/proc/self/root/tmp/new", "/proc/self/cwd"):
            with pytest.raises(StartRefused, match="symbolic links") as refused:
                carried_out(partial(written, make, path), host)
            assert refused.value.object == path
    with pytest.raises(HostFault) as failed:
        carried_out(partial(written, resolve.open_in, f"{target}/passwd"), host)
    assert failed.value.errno == errno.ELOOP
    with pytest.raises(SyscallError) as failed_here:
        resolve.open_in_root(host["root"], f"/proc/self/fd/{host['leaked']}/passwd")
    assert failed_here.value.errno == errno.ELOOP


def written(make: Callable[[Script, Slot, str], Slot], path: str, script: Script) -> Slot:
    script.call("dup3", script.given["leaked"], LEAKED, 0)
    return make(script, script.given["root"], path)


def test_the_text_of_a_magic_link_is_not_followed_either(host: dict[str, int]) -> None:
    """A free number becomes a link in the moment in which its directory is opened."""
    for number in (*range(2, 40), LEAKED, LEAKED + 1):
        for make in (resolve.make_dirs_in_root, resolve.make_file_in_root):
            with pytest.raises(StartRefused):
                carried_out(partial(written, make, f"/proc/self/fd/{number}"), host)


@pytest.mark.parametrize(
    "path", ["/proc/new", "/proc/self/new", "/proc/sys/new/x", "/proc/self/fd/new", "/proc/new/../x"]
)
def test_nothing_is_made_in_procfs(host: dict[str, int], path: str) -> None:
    for make in (resolve.make_dirs_in_root, resolve.make_file_in_root, resolve.make_exact_directory):
        with pytest.raises(StartRefused):
            carried_out(partial(written, make, path), host)


@pytest.mark.parametrize("length", [255, 256])
@pytest.mark.parametrize("before", ["", "missing/", "dangling/"])
def test_a_name_has_as_many_bytes_as_the_kernel_allows(tree: Tree, length: int, before: str) -> None:
    tree.link("dangling", "/missing")
    path = before + "x" * (length - 2) + "ä"
    for make in (make_dirs_in_root, make_file_in_root, make_exact_directory):
        if before == "dangling/" and make is make_exact_directory:
            continue
        if length == 255:
            made = tree.made(make(tree.fd, path))
            assert made == path.replace("dangling", "missing")
            (tree.root / made).unlink() if make is make_file_in_root else (tree.root / made).rmdir()
        else:
            with pytest.raises(StartRefused, match="too long"):
                make(tree.fd, path)


STEP = "x" * 250 + "/"


def test_a_link_may_be_as_long_as_the_kernel_allows(tree: Tree) -> None:
    target = STEP * 16 + "y" * 79
    assert len(target) == 4095
    tree.link("link", target)
    tree.made_at(make_dirs_in_root(tree.fd, "/link/"), "link")
    (tree.root / "link").unlink()
    tree.link("link", "/" + target[:-2] + "z")
    tree.made_at(make_file_in_root(tree.fd, "/link"), "link")


@pytest.mark.parametrize("length", [4095, 4096, 4097, 8189, 8190, 8191, 8192, 8193, 100_000])
def test_a_path_is_as_long_as_the_kernel_allows(tree: Tree, length: int) -> None:
    path = STEP * (length // len(STEP)) + "y" * (length % len(STEP))
    for make in (make_dirs_in_root, make_file_in_root):
        if length == 4095:
            made = path[:-1] + make.__name__[5]
            tree.made_at(make(tree.fd, made), made)
        else:
            with pytest.raises(StartRefused, match="too long"):
                make(tree.fd, path)
            assert make is make_file_in_root or os.listdir(tree.root) == []  # of a file the directories may be


@pytest.mark.parametrize("length", [4095, 4096, 8191, 8192, 8193, 100_000])
def test_an_exact_path_is_walked_name_by_name(tree: Tree, length: int) -> None:
    path = STEP * (length // len(STEP)) + "y" * (length % len(STEP))
    if length <= 8191:
        os.close(make_exact_directory(tree.fd, path))
        assert os.listdir(tree.root) == [STEP[:-1]]
    else:
        with pytest.raises(StartRefused, match="too long"):
            make_exact_directory(tree.fd, path)


def test_slashes_and_dots_do_not_count(tree: Tree) -> None:
    assert tree.made(make_dirs_in_root(tree.fd, "/" * 50_000 + "a" + "/./" * 50_000)) == "a"
    assert tree.made(make_file_in_root(tree.fd, "/" * 50_000 + "a" + "/./" * 50_000 + "file")) == "a/file"
    assert tree.made(make_exact_directory(tree.fd, "/./" * 50_000 + "a//.")) == "a"


def test_links_that_make_a_path_too_long_are_refused(tree: Tree) -> None:
    tree.link("long", "x/" * 2000 + "missing")
    for path in ("/long/" + "y/" * 100, "/long/" + "y/" * 2000, "long/../" * 500 + "long"):
        for make in (make_dirs_in_root, make_file_in_root):
            with pytest.raises(StartRefused, match=r"too long|leads back"):
                make(tree.fd, path + "/z")


def test_names_need_not_be_utf_8(tree: Tree) -> None:
    name = os.fsdecode(b"\xff\xfe")
    tree.link("link", f"/{name}/x")
    assert tree.made(make_dirs_in_root(tree.fd, f"/link/{name}")) == f"{name}/x/{name}"
    assert tree.made(make_file_in_root(tree.fd, f"/{name}/f{name}")) == f"{name}/f{name}"


@pytest.mark.parametrize("target", ["missing/", "missing/.", "missing//", "missing/./", "/missing/x/."])
def test_a_link_that_names_a_directory_gets_no_file(tree: Tree, target: str) -> None:
    tree.link("link", target)
    with pytest.raises(StartRefused, match="is a directory"):
        make_file_in_root(tree.fd, "/link")
    assert tree.made(make_dirs_in_root(tree.fd, "/link")) == target.strip("/.")


def test_what_is_no_directory_is_not_gone_through(tree: Tree) -> None:
    os.mkfifo(tree.root / "pipe")
    (tree.root / "file").touch()
    tree.link("link", "/file")
    for path in ("pipe/x", "file/x", "link/x", "file/../x", "link/../x", "file/x/y"):
        for make in (make_dirs_in_root, make_file_in_root):
            with pytest.raises(StartRefused, match="not a directory"):
                make(tree.fd, path)
    for path in ("pipe", "file", "link"):
        with pytest.raises(StartRefused, match="not a directory"):
            make_dirs_in_root(tree.fd, path)
        os.close(make_file_in_root(tree.fd, path))  # a pipe is not waited for


@pytest.mark.parametrize("seed", range(10))
def test_what_is_made_is_what_path_resolution_says(tree: Tree, seed: int) -> None:
    """In random roots, against a model of them; each with the reason why it is refused."""
    chance = random.Random(seed)
    for number in range(20):
        root = modelled.some_root(chance)
        path, kind = modelled.some_path(chance, 6), chance.choice("ddffe")
        before = copy.deepcopy(root)
        place = tree.root / str(number)
        place.mkdir()
        modelled.put(root, place)
        make = {"d": make_dirs_in_root, "f": make_file_in_root, "e": make_exact_directory}[kind]
        fd = os.open(place, os.O_PATH)
        told = f"{kind} {path!r} in {root}"
        try:
            expected = modelled.make(root, path, kind != "f", kind == "e")
        except modelled.Refused as refused:
            with pytest.raises(StartRefused, match=str(refused)):
                make(fd, path)
            assert modelled.keeps(before, modelled.read(place)), told
        else:
            assert tree.made(make(fd, path)) == os.path.normpath(f"{number}/{expected}"), told
            assert modelled.read(place) == root, told
        os.close(fd)


RENAME_EXCHANGE = 2


@pytest.mark.parametrize("path", ["/in/deep/../new{}/x", "/in/../in/new{}", "/in/deep/lost{}/x", "/in"])
def test_nothing_is_made_outside_whoever_renames_meanwhile(tree: Tree, path: str) -> None:
    """A directory of the path and a link that leads out take each other's place all the time."""
    (tree.root / "in/deep").mkdir(parents=True)
    tree.link("out", "../" * 10 + str(tree.canary))
    for number in range(40):
        tree.link(f"in/deep/lost{number}", f"../../../canary/lost{number}")
    exchange = partial(ctypes.CDLL(None).renameat2, tree.fd, b"in", tree.fd, b"out", RENAME_EXCHANGE)
    stop = threading.Event()

    def keep_on() -> None:
        while not stop.is_set():
            assert exchange() == 0

    thread = threading.Thread(target=keep_on)
    thread.start()
    places = []
    try:
        for number in range(40):
            for make in (make_dirs_in_root, make_file_in_root, make_exact_directory):
                with contextlib.suppress(StartRefused, HostFault):  # EAGAIN, after 128 tries
                    places.append(tree.made(make(tree.fd, path.format(number))))
    finally:
        stop.set()
        thread.join()
    assert places
    assert [place for place in places if place.startswith("..")] == []


def test_others_may_make_the_same_at_the_same_time(tree: Tree) -> None:
    with ThreadPoolExecutor(4) as pool:
        for number in range(25):
            for make in (make_dirs_in_root, make_file_in_root, make_exact_directory):
                path = f"/{number}{make.__name__}/a/b"
                made = [pool.submit(make, tree.fd, path) for _ in range(4)]
                assert {tree.made(each.result()) for each in made} == {path.lstrip("/")}
