"""Mounts and devices by their text."""

from __future__ import annotations

import msgspec
import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st

from cri.plan.facts import HostFacts
from cri.plan.paths import clean, is_below
from cri.validate.mounts import LXCFS, check_destination, check_devices, check_mounts
from proto import api_pb2 as api
from runtime.errors import FailedPrecondition, Fault, InvalidArgument
from runtime.spec import IdMapping


def mount(text: str) -> api.Mount:
    return text_format.Parse(text, api.Mount(container_path="/c", host_path="/h"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "readonly: true recursive_read_only: true",
        "propagation: PROPAGATION_BIDIRECTIONAL",
        "mount_options: 'nosuid' mount_options: 'noexec' mount_options: 'nodev'",
    ],
)
def test_a_good_mount_passes(host: HostFacts, text: str) -> None:
    check_mounts([mount(text)], host, None, "m")


@pytest.mark.parametrize(
    ("text", "fault", "words"),
    [
        ("recursive_read_only: true", InvalidArgument, "m[0].recursive_read_only: needs readonly"),
        (
            "readonly: true recursive_read_only: true propagation: PROPAGATION_BIDIRECTIONAL",
            InvalidArgument,
            "needs private propagation",
        ),
        ("propagation: 3", InvalidArgument, "no such mode: 3"),
        ("mount_options: 'remount'", InvalidArgument, "not 'remount'"),
        ("image_sub_path: 'x'", InvalidArgument, "with an image only"),
        ("image { image: 'i' }", InvalidArgument, "must be empty with an image"),
        ("image {}", InvalidArgument, "names no image"),
        ("gidMappings {}", InvalidArgument, "m[0].gidMappings: is for a pod with a user namespace"),
    ],
)
def test_a_bad_mount_is_refused(host: HostFacts, text: str, fault: type[Fault], words: str) -> None:
    with pytest.raises(Fault) as raised:
        check_mounts([mount(text)], host, None, "m")
    assert type(raised.value) is fault and words in str(raised.value)


def image(**changes: object) -> api.Mount:
    return api.Mount(container_path="/c", image=api.ImageSpec(image="i"), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ["", "etc", "./etc", "a/b/", "..a"])
def test_a_good_image_mount_passes(host: HostFacts, path: str) -> None:
    slave = api.PROPAGATION_HOST_TO_CONTAINER
    check_mounts(
        [image(readonly=True, image_sub_path=path, mount_options=["noexec"], propagation=slave)], host, None, "m"
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "m[0].readonly: must be set with an image"),
        ({"readonly": True, "propagation": api.PROPAGATION_BIDIRECTIONAL}, "must not be bidirectional"),
        ({"readonly": True, "image_sub_path": "a/../b"}, "m[0].image_sub_path: must not have '..'"),
        ({"readonly": True, "image_sub_path": "a\0"}, "m[0].image_sub_path"),
        ({"readonly": True, "image_sub_path": "/etc"}, "m[0].image_sub_path: must be a relative path"),
        ({"readonly": True, "mount_options": ["remount"]}, "not 'remount'"),
    ],
)
def test_a_bad_image_mount_is_refused(host: HostFacts, changes: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        check_mounts([image(**changes)], host, None, "m")
    assert words in str(raised.value)


IDS: IdMapping = {"host": 1000, "size": 10}
ALIKE = "uidMappings { host_id: 1000 length: 10 } gidMappings { host_id: 1000 length: 10 }"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ""),
        (ALIKE, ""),
        ("uidMappings { host_id: 1000 length: 10 }", "gidMappings: is not what the pod has"),
        (f"{ALIKE} uidMappings {{ host_id: 2000 length: 10 }}", "uidMappings: is not what the pod has"),
        (ALIKE.replace("length: 10", "length: 11"), "is not what the pod has"),
        (ALIKE.replace("host_id", "container_id: 1 host_id"), "is not what the pod has"),
    ],
)
def test_a_mount_is_idmapped_as_the_pod_is(host: HostFacts, text: str, words: str) -> None:
    if not words:
        check_mounts([mount(text)], host, IDS, "m")
        return
    with pytest.raises(InvalidArgument, match=words):
        check_mounts([mount(text)], host, IDS, "m")


@pytest.mark.parametrize("source", ["", "h", "/a/../b", "/a\0"])
def test_a_bad_source_is_refused(host: HostFacts, source: str) -> None:
    with pytest.raises(InvalidArgument, match=r"m\[0\].host_path"):
        check_mounts([api.Mount(container_path="/c", host_path=source)], host, None, "m")


def test_an_old_kernel_has_no_recursive_read_only_mounts(host: HostFacts) -> None:
    old = msgspec.structs.replace(host, recursive_read_only=False)
    check_mounts([mount("readonly: true")], old, None, "m")
    with pytest.raises(FailedPrecondition, match="mount_setattr"):
        check_mounts([mount("readonly: true recursive_read_only: true")], old, None, "m")


def test_volumes_may_be_labelled_on_every_host(host: HostFacts) -> None:
    for enforcing in (False, True):
        check_mounts([mount("selinux_relabel: true")], msgspec.structs.replace(host, selinux=enforcing), None, "m")


@pytest.mark.parametrize("path", sorted(LXCFS))
def test_the_files_of_lxcfs_may_be_replaced(path: str) -> None:
    check_destination(path, "m")
    with pytest.raises(InvalidArgument):
        check_destination(path + "/x", "m")


@pytest.mark.parametrize("path", ["/", "/.", "//", "/proc", "/proc/", "/proc/sys", "/./proc/1", "proc", "/a/../proc"])
def test_the_root_and_proc_may_not(path: str) -> None:
    with pytest.raises(InvalidArgument):
        check_destination(path, "m")


@given(st.text(alphabet="/.procsy", max_size=12))
def test_a_destination_that_passes_hides_nothing_of_proc(path: str) -> None:
    try:
        check_destination("/" + path, "m")
    except InvalidArgument:
        return
    place = clean("/" + path)
    assert place not in ("/", "/proc") and not is_below(place, "/proc")


@pytest.mark.parametrize(
    ("text", "fault", "words"),
    [
        ("devices { container_path: '/dev/x' host_path: '/dev/x' permissions: 'rw ' }", InvalidArgument, "permissions"),
        ("devices { container_path: '/dev/x' host_path: '/dev/x' }", InvalidArgument, "permissions"),
        ("devices { container_path: '/' host_path: '/dev/x' permissions: 'r' }", InvalidArgument, "the root"),
        ("devices { container_path: '/dev/x' host_path: 'x' permissions: 'r' }", InvalidArgument, "host_path"),
        ("CDI_devices { name: 'a' }", FailedPrecondition, "CDI devices"),
    ],
)
def test_a_bad_device_is_refused(text: str, fault: type[Fault], words: str) -> None:
    with pytest.raises(Fault) as raised:
        check_devices(text_format.Parse(text, api.ContainerConfig()), "c")
    assert type(raised.value) is fault and words in str(raised.value)


def test_a_good_device_passes() -> None:
    device = api.Device(container_path="/dev/x", host_path="/dev/snd", permissions="mrw")
    check_devices(api.ContainerConfig(devices=[device]), "c")
