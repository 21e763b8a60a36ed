from __future__ import annotations

from pathlib import Path

from proto import api_pb2 as api
from tests.bench.workload import Workload


def test_a_configuration_depends_on_its_name_alone(tmp_path: Path) -> None:
    work = Workload("image", tmp_path)
    assert work.pod("a").SerializeToString() == work.pod("a").SerializeToString()
    assert work.container("/bin/true").SerializeToString() == work.container("/bin/true").SerializeToString()
    assert work.pod("a") != work.pod("b")


def test_all_pods_and_containers_are_confined_by_seccomp(tmp_path: Path) -> None:
    work = Workload("image", tmp_path)
    for context in (
        work.pod("a").linux.security_context,
        work.pod("a", host_network=True).linux.security_context,
        work.container("/bin/true").linux.security_context,
    ):
        assert context.seccomp.profile_type == api.SecurityProfile.RuntimeDefault


def test_the_host_sides_of_the_binds_are_there(tmp_path: Path) -> None:
    mounts = Workload("image", tmp_path).container("/bin/true").mounts
    assert len(mounts) == 3
    assert all(Path(mount.host_path).exists() for mount in mounts)
