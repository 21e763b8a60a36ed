"""Where the cgroups of a pod are under either driver."""

from __future__ import annotations

import pytest

from cri.plan.cgroups import leaf_cgroup, pod_cgroup


@pytest.mark.parametrize(
    ("given", "systemd", "path"),
    [
        ("", False, "/crisp-0a1b/f00"),
        ("kubepods//pod1/", False, "/kubepods/pod1"),
        ("", True, "/system.slice/system-crisp_0a1b_f00.slice"),
        ("kubepods-pod1.slice", True, "/kubepods.slice/kubepods-pod1.slice"),
        ("/kubepods.slice/kubepods-pod1.slice/", True, "/kubepods.slice/kubepods-pod1.slice"),
    ],
)
def test_a_pod_is_where_kubelet_says_or_in_a_place_of_the_daemons(given: str, systemd: bool, path: str) -> None:
    assert pod_cgroup(given, "0a1b", "f00", systemd=systemd) == path


def test_a_container_is_a_child_of_its_pod_or_in_a_scope_of_its_slice() -> None:
    assert leaf_cgroup("/kubepods/pod1", "c1", "") == "/kubepods/pod1/c1"
    assert leaf_cgroup("/", "c1", "") == "/c1"
    assert leaf_cgroup("/a.slice", "c1", "0a1b") == "/a.slice/crisp-0a1b-c1.scope/container"
