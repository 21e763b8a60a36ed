"""What of a container's mounts has a place in its image, and when two containers have the same."""

from __future__ import annotations

from typing import Any

from cri.plan.image_volumes import ImageVolume
from cri.plan.mountpoints import chain_of, key_of, plan_mountpoints
from runtime.requests import Mountpoint
from runtime.spec import Mount

LAYERS = ("a" * 64, "b" * 64)


class Plan:
    """As much of a plan as is read."""

    def __init__(self, *mounts: Mount, cwd: str = "/", volumes: tuple[object, ...] = ()) -> None:
        self.spec: Any = {"mounts": list(mounts), "process": {"cwd": cwd}}
        self.volumes = volumes
        self.image_volumes = (ImageVolume("/image", "i", LAYERS), ImageVolume("/of/it", "i", LAYERS, "x", False))


def fs(destination: str, kind: str) -> Mount:
    return Mount(destination=destination, type=kind, source=kind, options=[])


def bind(destination: str, source: str = "/directory") -> Mount:
    return Mount(destination=destination, type="bind", source=source, options=["rbind"])


def planned(plan: Any) -> list[tuple[str, str]] | None:
    known = {"/directory": True, "/file": False}
    found = plan_mountpoints(plan, known.get)
    return None if found is None else [(each["path"], each["kind"]) for each in found]


def test_mounts_are_listed_in_order_with_what_they_are() -> None:
    plan = Plan(fs("/proc", "proc"), fs("/dev", "tmpfs"), fs("/sys", "sysfs"), bind("/etc/hosts", "/file"), bind("/d"))
    assert planned(plan) == [
        ("/proc", "exact"),
        ("/dev", "exact"),
        ("/sys", "exact"),
        ("/etc/hosts", "file"),
        ("/d", "directory"),
    ]


def test_an_image_is_what_its_sub_path_is() -> None:
    assert planned(Plan(fs("/image", "image"), fs("/of/it", "image"))) == [("/image", "directory"), ("/of/it", "file")]


def test_what_is_below_another_mount_is_not_in_the_image() -> None:
    plan = Plan(fs("/dev", "tmpfs"), fs("/dev/pts", "devpts"), bind("/data"), bind("/data/below"), bind("/database"))
    assert planned(plan) == [("/dev", "exact"), ("/data", "directory"), ("/database", "directory")]
    assert planned(Plan(bind("/data"), cwd="/data/below")) == [("/data", "directory")]


def test_a_working_directory_is_the_last() -> None:
    assert planned(Plan(bind("/data"), cwd="/app")) == [("/data", "directory"), ("/app", "plain")]


def test_where_it_cannot_be_said_there_is_no_list() -> None:
    assert planned(Plan(bind("/data", "/not known"))) is None
    assert planned(Plan(bind("/"))) is None
    assert planned(Plan(cwd="/link/../x")) is None
    assert planned(Plan(bind("/data"), volumes=({},))) is None


def listed(*places: tuple[str, str]) -> list[Mountpoint]:
    return [Mountpoint(path=path, kind=kind) for path, kind in places]


def test_a_key_changes_with_the_image_the_places_their_order_and_what_they_are() -> None:
    one, two = ("/a", "file"), ("/b", "directory")
    keys = {
        key_of(LAYERS, listed(one, two)),
        key_of(LAYERS[:1], listed(one, two)),
        key_of(LAYERS, listed(two, one)),
        key_of(LAYERS, listed(one)),
        key_of(LAYERS, listed(("/a", "directory"), two)),
        key_of(LAYERS, listed(("/a", "file"), ("/b", "plain"))),
    }
    assert len(keys) == 6
    assert key_of(LAYERS, listed(one, two)) == key_of(list(LAYERS), listed(one, two))


def test_a_key_says_the_image_by_its_topmost_layer() -> None:
    key = key_of(LAYERS, listed(("/a", "file")))
    assert chain_of(key) == LAYERS[-1] and "/" not in key and not key.startswith(".")
