"""Mounts that are to be idmapped are refused where they cannot be, with the file system's name."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri.idmapped import check_idmapped, check_sources
from cri.plan.sandbox import SandboxPlan
from proto import api_pb2 as api
from runtime.errors import FailedPrecondition, HostFault
from runtime.idmap import make_user_namespace
from tests.kernel.runtime.launched import needs_launch

pytestmark = needs_launch

MAPPING = [api.IDMapping(host_id=5000, length=10)]


@pytest.fixture
def namespace() -> Iterator[str]:
    user = make_user_namespace({"host": 5000, "size": 10})
    yield f"/proc/self/fd/{user}"
    os.close(user)


def test_a_file_system_that_cannot_be_idmapped_is_named_with_the_mount(namespace: str, tmp_path: Path) -> None:
    check_sources({0: os.fspath(tmp_path), 3: os.fspath(tmp_path / "missing")}, namespace)
    with pytest.raises(FailedPrecondition, match=r"config.mounts\[2\] /proc/sys: cannot be idmapped: /proc is proc"):
        check_sources({0: os.fspath(tmp_path), 2: "/proc/sys"}, namespace)


def test_a_pod_that_has_lost_its_namespace_is_a_fault_of_the_host() -> None:
    with pytest.raises(HostFault, match="look whether mounts can be idmapped"):
        check_sources({0: "/tmp"}, "/nowhere/ns/user")


def test_only_mounts_that_ask_for_it_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr("cri.idmapped.check_sources", lambda *given: asked.append(given))
    mounts = [
        api.Mount(container_path="/a", host_path="/proc"),
        api.Mount(container_path="/b", host_path="/srv", uidMappings=MAPPING, gidMappings=MAPPING),
    ]
    asyncio.run(check_idmapped(api.ContainerConfig(mounts=mounts[:1]), Pod()))  # type: ignore[arg-type]
    assert asked == []
    asyncio.run(check_idmapped(api.ContainerConfig(mounts=mounts), Pod()))  # type: ignore[arg-type]
    assert asked == [({1: "/srv"}, "/pod/ns/user")]


class Pod:
    """As much of a ``SandboxPlan`` as is asked for."""

    namespace_path = SandboxPlan.namespace_path
    directory = "/pod"
