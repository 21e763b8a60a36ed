"""Names of units and the cgroup paths that they have."""

from __future__ import annotations

import pytest

from runtime.errors import InvalidArgument
from runtime.systemd.names import (
    id_of,
    inner,
    is_slice,
    outer,
    patterns,
    scope_name,
    slice_name,
    slice_of,
    slice_path,
    unit_of,
)

POD = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice"


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("kubepods.slice", "/kubepods.slice"),
        ("kubepods-burstable-pod1_2.slice", POD),
        (r"a\x2db.slice", r"/a\x2db.slice"),
        ("system-crisp_1_2.slice", "/system.slice/system-crisp_1_2.slice"),
    ],
)
def test_a_slices_name_has_those_of_all_above_it(name: str, path: str) -> None:
    assert slice_path(name) == path
    assert is_slice(path) and unit_of(path) == name and outer(path) == path


@pytest.mark.parametrize(
    "name",
    ["", "kubepods", ".slice", "-.slice", "a--b.slice", "-a.slice", "a-.slice", "a/b.slice", "a b.slice", "é.slice"],
)
def test_what_systemd_would_not_take_for_a_slice_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="no name of a slice"):
        slice_path(name)


def test_a_name_is_at_most_as_long_as_a_file_name() -> None:
    assert slice_path("a" * 249 + ".slice")
    with pytest.raises(InvalidArgument):
        slice_path("a" * 250 + ".slice")


def test_a_scopes_processes_are_in_a_cgroup_below_it_whose_path_names_it() -> None:
    path = inner(POD, scope_name("0a1b2c3d", "f00"))
    assert path == f"{POD}/crisp-0a1b2c3d-f00.scope/container"
    assert unit_of(path) == "crisp-0a1b2c3d-f00.scope" and not is_slice(path)
    assert outer(path) == f"{POD}/crisp-0a1b2c3d-f00.scope"
    assert slice_of(path) == "kubepods-burstable-pod1_2.slice"


@pytest.mark.parametrize("path", ["/crisp-1/pod/container", "/kubepods/pod1/id", "/a.slice/x.scope/exec-1", "/a"])
def test_other_cgroups_are_of_no_unit(path: str) -> None:
    assert unit_of(path) == ""


def test_what_a_daemon_makes_carries_its_name_and_that_of_its_object() -> None:
    assert [id_of(scope_name("0a1b", "f00")), id_of(slice_name("0a1b", "f00"))] == ["f00", "f00"]
    assert patterns("0a1b") == ("crisp-0a1b-*.scope", "system-crisp_0a1b_*.slice")
