from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import InvalidArgument
from runtime.linux import mount
from runtime.rootfs.options import parse_options

EVERYTHING = [
    "ro",
    "rw",
    "rro",
    "nosuid",
    "suid",
    "noexec",
    "exec",
    "rnodev",
    "noatime",
    "relatime",
    "size=1k",
    "rbind",
]


def test_attributes_become_bits() -> None:
    parsed = parse_options(["nosuid", "nodev", "noexec", "ro"])
    assert parsed.set == (
        mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NODEV | mount.MOUNT_ATTR_NOEXEC | mount.MOUNT_ATTR_RDONLY
    )
    assert (parsed.clear, parsed.set_below, parsed.data) == (0, 0, [])


def test_the_later_of_two_counts() -> None:
    assert parse_options(["ro", "rw"]).set == 0
    assert parse_options(["rw", "ro"]).set == mount.MOUNT_ATTR_RDONLY


def test_rw_clears_nothing_that_the_source_has() -> None:
    assert parse_options(["rw", "suid", "dev", "exec"]).clear == 0


def test_a_time_of_access_replaces_the_whole_field() -> None:
    parsed = parse_options(["noatime", "strictatime"])
    assert (parsed.set, parsed.clear) == (mount.MOUNT_ATTR_STRICTATIME, mount.MOUNT_ATTR__ATIME)


def test_rro_is_for_the_mounts_below_too() -> None:
    parsed = parse_options(["rbind", "rro", "rprivate"])
    assert parsed.recursive and parsed.bind
    assert (parsed.set, parsed.set_below) == (0, mount.MOUNT_ATTR_RDONLY)


def test_rro_and_rrw_cancel_each_other() -> None:
    assert parse_options(["rro", "rrw"]).set_below == 0


@pytest.mark.parametrize(
    ("option", "flag", "below"),
    [
        ("private", mount.MS_PRIVATE, False),
        ("rprivate", mount.MS_PRIVATE, True),
        ("slave", mount.MS_SLAVE, False),
        ("rslave", mount.MS_SLAVE, True),
        ("shared", mount.MS_SHARED, False),
        ("rshared", mount.MS_SHARED, True),
        ("runbindable", mount.MS_UNBINDABLE, True),
    ],
)
def test_propagation_is_known_with_and_without_r(option: str, flag: int, below: bool) -> None:
    parsed = parse_options([option])
    assert (parsed.propagation, parsed.propagation_below, parsed.data) == (flag, below, [])


def test_a_plain_bind_is_not_recursive() -> None:
    parsed = parse_options(["bind"])
    assert parsed.bind and not parsed.recursive


def test_what_is_unknown_is_data_and_never_dropped() -> None:
    assert parse_options(["mode=755", "newinstance", "rubbish", "defaults"]).data == [
        "mode=755",
        "newinstance",
        "rubbish",
    ]


def test_remount_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="remount"):
        parse_options(["ro", "remount"])


@given(st.lists(st.sampled_from(EVERYTHING)))
def test_no_bit_is_set_that_was_not_asked_for_last(options: list[str]) -> None:
    parsed = parse_options(options)
    last = {"ro": False, "rw": False}
    readonly = next((option == "ro" for option in reversed(options) if option in last), False)
    assert bool(parsed.set & mount.MOUNT_ATTR_RDONLY) == readonly
    assert parsed.data == [option for option in options if option == "size=1k"]


@pytest.mark.parametrize(
    ("options", "idmap", "below"), [([], False, False), (["rbind", "idmap"], True, False), (["ridmap"], True, True)]
)
def test_a_bind_is_idmapped_alone_or_with_what_is_below(options: list[str], idmap: bool, below: bool) -> None:
    parsed = parse_options(options)
    assert (parsed.idmap, parsed.idmap_below, parsed.data) == (idmap, below, [])
