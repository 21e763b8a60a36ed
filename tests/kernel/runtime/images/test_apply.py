"""The applier: what a layer may do, and what it must not get to do.

The escape tests first show the attack to work against a naive applier.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.errors import FailedPrecondition, Fault, HostFault, ResourceExhausted
from runtime.images.apply import Applied, Applier, Budget
from runtime.images.tar import DIRECTORY, HARDLINK, REGULAR, SYMLINK, TarReader
from tests.descriptors import open_descriptors
from tests.unit.runtime.images import tars

GENEROUS = Budget(1 << 30, 100_000)
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")


@pytest.fixture(autouse=True)
def clean_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)  # the applier changes both
    mask = os.umask(0)
    yield
    os.umask(mask)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "a" / "root"
    path.mkdir(parents=True)
    return path


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A tree beside the root that nothing may touch."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "canary").write_text("alive")
    os.chmod(outside / "canary", 0o640)
    os.utime(outside / "canary", (1, 1))
    yield outside
    assert _picture(outside) == [("canary", 0o100640, 1, 1, "alive")]
    assert sorted(os.listdir(tmp_path)) == ["a", "outside"]
    assert os.listdir(tmp_path / "a") == ["root"]


def _picture(outside: Path) -> list[tuple[str, int, int, float, str]]:
    found = []
    for path in sorted(outside.iterdir()):
        status = path.lstat()
        found.append((path.name, status.st_mode, status.st_nlink, status.st_mtime, path.read_text()))
    return found


def apply(root: Path, data: bytes, budget: Budget = GENEROUS) -> Applied:
    pieces = iter([data[at : at + 5000] for at in range(0, len(data), 5000)])
    reader = TarReader(lambda: next(pieces, b""), 4 * budget.entries)
    fd = os.open(root, os.O_RDONLY)
    try:
        return Applier(fd, budget).apply(reader)
    finally:
        os.close(fd)


def weak_apply(root: Path, data: bytes) -> None:
    """How not to do it: names joined to the root as strings."""
    pieces = iter([data])
    reader = TarReader(lambda: next(pieces, b""), 1000)
    while (entry := reader.next_entry()) is not None:
        path = os.path.join(os.fsencode(root), entry.name)
        if entry.kind == REGULAR:
            with open(path, "wb") as file:
                file.write(b"".join(iter(lambda: bytes(reader.read_data()), b"")))
        elif entry.kind == DIRECTORY:
            os.makedirs(path, exist_ok=True)
            os.chmod(path, entry.mode)
        elif entry.kind == SYMLINK:
            os.symlink(entry.link, path)
        elif entry.kind == HARDLINK:
            os.link(os.path.join(os.fsencode(root), entry.link), path)


def attacks(outside: Path) -> dict[str, bytes]:
    """Rows 1 to 3: archives that reach ``outside`` when they are applied naively."""
    out = os.fsencode(outside)
    return {
        "dotdot": tars.entry(b"../../outside/canary", b"dead"),
        "absolute": tars.long_name(out + b"/canary") + tars.entry(b"x", b"dead"),
        "link-parent": tars.symlink(b"l", b"../../outside") + tars.entry(b"l/canary", b"dead"),
        "absolute-link-parent": tars.long_name(out, b"K") + tars.symlink(b"l", b"") + tars.entry(b"l/canary", b"dead"),
        "link-chain": tars.symlink(b"l", b"m")
        + tars.symlink(b"m", b"../../outside")
        + tars.entry(b"l/canary", b"dead"),
        "nested-link": tars.directory(b"d")
        + tars.symlink(b"d/up", b"..")
        + tars.symlink(b"d/out", b"up/../../outside")
        + tars.entry(b"d/out/canary", b"dead"),
        "link-itself": tars.symlink(b"f", b"../../outside/canary") + tars.entry(b"f", b"dead"),
        "directory-mode": tars.symlink(b"l", b"../../outside") + tars.directory(b"l/new", 0o777),
        "hardlink": tars.hardlink(b"h", b"../../outside/canary") + tars.entry(b"h", b"dead"),
        "hardlink-through-link": tars.symlink(b"l", b"../../outside")
        + tars.hardlink(b"h", b"l/canary")
        + tars.entry(b"h", b"dead"),
        "hardlink-absolute": tars.long_name(out + b"/canary", b"K")
        + tars.hardlink(b"h", b"")
        + tars.entry(b"h", b"dead"),
    }


NAMES = list(attacks(Path("/x")))


@pytest.mark.parametrize("name", NAMES)
def test_the_attack_works_against_a_naive_applier(name: str, root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "canary").write_text("alive")
    weak_apply(root, attacks(outside)[name] + tars.END)
    assert (outside / "canary").read_text() == "dead" or (outside / "new").exists()


@pytest.mark.parametrize("name", NAMES)
def test_nothing_outside_is_touched(name: str, root: Path, canary: Path) -> None:
    data = attacks(canary)[name] + tars.END
    if name.startswith("hardlink"):
        with pytest.raises(FailedPrecondition):
            apply(root, data)
    else:
        apply(root, data)
        assert [path for path in root.rglob("*") if path.name in ("canary", "new", "f") and not path.is_symlink()]


def test_a_link_parent_is_resolved_inside(root: Path, canary: Path) -> None:
    """Row 2: as in the image itself, where / is the root."""
    apply(root, tars.archive(tars.directory(b"usr/lib"), tars.symlink(b"lib", b"/usr/lib"), tars.entry(b"lib/x", b"y")))
    assert (root / "usr/lib/x").read_text() == "y"


@pytest.mark.parametrize(
    "data",
    [
        tars.entry(b".wh."),
        tars.entry(b".wh.."),
        tars.entry(b".wh..."),
        tars.entry(b"d/.wh..."),
        tars.entry(b".wh.x/y"),
        tars.entry(b"d/.wh.x/y"),
        tars.entry(b"n", kind=b"3", device=(0, 0)),
        tars.entry(b"n", kind=b"3", device=(4096, 1)),
        tars.entry(b"n", kind=b"4", device=(1, 1 << 20)),
        tars.entry(b".", b"x"),
        tars.symlink(b"/", b"x"),
        tars.symlink(b"l", b""),
        tars.hardlink(b"h", b"missing"),
        tars.hardlink(b"h", b""),
        tars.directory(b"d") + tars.hardlink(b"h", b"d"),
        tars.entry(b".wh.w") + tars.hardlink(b"h", b"w"),
        tars.entry(b"f") + tars.entry(b"f/x"),
        tars.symlink(b"l", b"l") + tars.entry(b"l/x"),
        tars.long_name(b"n" * 256) + tars.entry(b"x"),
        tars.long_name(b"d/" * 2100 + b"x") + tars.entry(b"x"),
    ],
)
def test_what_means_something_else_is_refused(data: bytes, root: Path, canary: Path) -> None:
    """Rows 3 to 6."""
    with pytest.raises(FailedPrecondition):
        apply(root, data + tars.END)


def test_whiteouts_are_overlayfs_own(root: Path) -> None:
    applied = apply(
        root,
        tars.archive(
            tars.entry(b"d/.wh.gone"),
            tars.entry(b"d/.wh..wh..opq"),
            tars.entry(b".wh..wh.plnk", b"ignored"),
            tars.entry(b".wh..wh.plnk/12.34", b"ignored"),
            tars.entry(b"both"),
            tars.entry(b".wh.both"),
            tars.entry(b"dir/x"),
            tars.entry(b".wh.dir"),
            tars.entry(b".wh.later"),
            tars.directory(b"later"),
            tars.entry(b".wh.file"),
            tars.entry(b"file", b"new"),
        ),
    )
    gone = os.lstat(root / "d/gone")
    assert stat.S_ISCHR(gone.st_mode) and gone.st_rdev == 0
    assert os.getxattr(root / "d", "trusted.overlay.opaque") == b"y"
    assert not (root / ".wh..wh.plnk").exists()
    assert (root / "both").is_file()  # a whiteout speaks of the layers below
    assert os.getxattr(root / "dir", "trusted.overlay.opaque") == b"y"
    assert os.getxattr(root / "later", "trusted.overlay.opaque") == b"y"
    assert (root / "file").read_text() == "new"
    assert applied.implied == [b"d", b"dir"]


def test_attributes_are_kept(root: Path) -> None:
    """Rows 7 and 8."""
    pax = {b"SCHILY.xattr.security.capability": CAPABILITY, b"mtime": b"1.000000005"}
    pax[b"SCHILY.xattr.trusted.overlay.opaque"] = b"y"
    applied = apply(
        root,
        tars.archive(
            tars.directory(b".", 0o1777, uid=3, mtime=7),
            tars.directory(b"d", 0o2750, uid=1, gid=2, mtime=5),
            tars.pax(pax) + tars.entry(b"d/tool", b"x", mode=0o6755, uid=1000, gid=1001),
            tars.symlink(b"d/link", b"../../../etc/passwd", uid=8, mtime=9),
            tars.entry(b"d/null", kind=b"3", device=(1, 3), mode=0o666),
            tars.entry(b"d/disk", kind=b"4", device=(8, 1), mode=0o600),
            tars.pax({b"SCHILY.xattr.user.x": b"y"}) + tars.entry(b"d/fifo", kind=b"6", mode=0o622),
            tars.pax({b"SCHILY.xattr.user.x": b"y"}) + tars.directory(b"e"),
            tars.entry(b"\xff\xfe", b"not text"),
        ),
    )
    tool = os.stat(root / "d/tool")
    assert (stat.S_IMODE(tool.st_mode), tool.st_uid, tool.st_gid, tool.st_mtime_ns) == (
        0o6755,
        1000,
        1001,
        1_000_000_005,
    )
    assert os.getxattr(root / "d/tool", "security.capability") == CAPABILITY
    assert "trusted.overlay.opaque" not in os.listxattr(root / "d/tool")
    assert applied.dropped_xattrs == 2  # a pipe has no user attributes
    directory = os.stat(root / "d")
    assert (stat.S_IMODE(directory.st_mode), directory.st_uid, directory.st_gid) == (0o2750, 1, 2)
    assert directory.st_mtime == 5
    assert (stat.S_IMODE(os.stat(root).st_mode), os.stat(root).st_uid, os.stat(root).st_mtime) == (0o1777, 3, 7)
    link = os.lstat(root / "d/link")
    assert (os.readlink(root / "d/link"), link.st_uid, link.st_mtime) == ("../../../etc/passwd", 8, 9)
    assert os.lstat(root / "d/null").st_rdev == os.makedev(1, 3)
    assert stat.S_IMODE(os.lstat(root / "d/null").st_mode) == 0o666
    assert stat.S_ISBLK(os.lstat(root / "d/disk").st_mode)
    assert stat.S_ISFIFO(os.lstat(root / "d/fifo").st_mode)
    assert os.getxattr(root / "e", "user.x") == b"y"
    assert (Path(os.fsdecode(os.fsencode(root) + b"/\xff\xfe"))).read_text() == "not text"


def test_a_hard_link_does_not_change_its_target(root: Path) -> None:
    apply(
        root,
        tars.archive(
            tars.entry(b"f", b"x", mode=0o4755, uid=5),
            tars.hardlink(b"h", b"./f", mode=0o600, uid=9),
            tars.hardlink(b"h", b"f"),
            tars.entry(b"other", b"z"),
            tars.hardlink(b"other", b"/f"),
            tars.symlink(b"s", b"nowhere"),
            tars.hardlink(b"hs", b"s"),
        ),
    )
    status = os.stat(root / "f")
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_nlink) == (0o4755, 5, 3)
    assert os.path.samefile(root / "f", root / "other")
    assert os.readlink(root / "hs") == "nowhere"


def test_a_later_entry_replaces_an_earlier_one(root: Path) -> None:
    apply(
        root,
        tars.archive(
            tars.entry(b"x", b"1"),
            tars.directory(b"x"),
            tars.entry(b"x/y/z", b"2"),
            tars.symlink(b"x", b"w"),
            tars.symlink(b"x", b"w2"),
            tars.entry(b"x", b"3"),
            tars.entry(b"x", kind=b"6"),
            tars.entry(b"x", kind=b"6"),
            tars.entry(b"x", b"4"),
            tars.directory(b"d", 0o700, mtime=3),
            tars.entry(b"d/f", b"5"),
            tars.directory(b"d", 0o711, mtime=4),
            tars.directory(b"t/u", mtime=3),
            tars.symlink(b"t", b"d"),
            tars.entry(b"t/g", b"6"),
        ),
    )
    assert (root / "x").read_text() == "4"
    assert (root / "d/f").read_text() == "5"
    assert (root / "d/g").read_text() == "6"
    assert stat.S_IMODE(os.stat(root / "d").st_mode) == 0o711
    assert os.stat(root / "d").st_mtime == 4


@pytest.mark.parametrize(
    ("data", "budget"),
    [
        (tars.entry(b"a", bytes(5000)), Budget(4096, 10)),
        (tars.entry(b"a") + tars.entry(b"b") + tars.entry(b"c"), Budget(1 << 20, 2)),
        (tars.long_name(b"d/" * 50 + b"f") + tars.entry(b"x"), Budget(1 << 20, 20)),
        (tars.header(b"a", size=b"\x80" + (1 << 50).to_bytes(11, "big")), Budget(1 << 30, 10)),
    ],
)
def test_budgets_end_what_is_too_large(data: bytes, budget: Budget, root: Path) -> None:
    """Row 10: before a byte of it is written."""
    with pytest.raises(ResourceExhausted):
        apply(root, data + tars.END, budget)


def test_a_truncated_layer_is_refused(root: Path) -> None:
    """Row 11."""
    for data in (tars.entry(b"a", b"x" * 900)[:-600], b"garbage" * 100, tars.entry(b"a")[:300]):
        with pytest.raises(FailedPrecondition):
            apply(root, data)


def test_a_refusal_of_the_host_is_told_as_such(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "no")

    monkeypatch.setattr(os, "fchown", refuse)
    with pytest.raises(HostFault, match="apply layer: 'a'"):
        apply(root, tars.archive(tars.entry(b"a")))


def test_no_descriptor_is_left_open(root: Path) -> None:
    before = open_descriptors()
    apply(root, tars.archive(*[tars.entry(b"d%d/f" % number, b"x") for number in range(300)]))
    with pytest.raises(FailedPrecondition):
        apply(root, tars.archive(tars.entry(b"e/f"), tars.entry(b".wh..")))
    assert open_descriptors() == before


_part = st.sampled_from([b"a", b"b", b"c", b"..", b".", b"", b".wh.a", b".wh..wh..opq", b"/"])
_path = st.lists(_part, min_size=1, max_size=4).map(b"/".join)
_entry: st.SearchStrategy[bytes] = st.one_of(
    st.builds(lambda name: tars.entry(name.rstrip(b"/"), b"dead"), _path),
    st.builds(tars.directory, _path),
    st.builds(tars.symlink, _path, _path | st.just(b"../../outside")),
    st.builds(tars.hardlink, _path, _path | st.just(b"../../outside/canary")),
)


@given(st.lists(_entry, max_size=8))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_sequence_of_entries_leaves_the_root(tmp_path: Path, entries: list[bytes]) -> None:
    outside, root = tmp_path / "outside", tmp_path / "a" / os.urandom(8).hex()
    outside.mkdir(exist_ok=True)
    (outside / "canary").write_text("alive")
    root.mkdir(parents=True)
    with contextlib.suppress(Fault):
        apply(root, tars.archive(*entries))
    assert (outside / "canary").read_text() == "alive"
    assert os.listdir(outside) == ["canary"]
    assert os.stat(outside / "canary").st_nlink == 1
    assert sorted(os.listdir(tmp_path)) == ["a", "outside"]
