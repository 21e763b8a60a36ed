"""A host, a pod and an image to plan and validate against."""

from __future__ import annotations

import pytest

from cri.plan.facts import HostFacts
from cri.plan.sandbox import SandboxIds, SandboxPlan, plan_sandbox
from cri.settings import Settings
from proto import api_pb2 as api
from runtime.capability_names import NAMES
from runtime.cgroups.layout import Hierarchy, Kind, Layout
from runtime.images.config import ImageConfig
from runtime.images.platforms import Platform

CONTROLLERS = ("cpu", "cpuset", "memory", "pids", "hugetlb", "devices", "freezer")


def make_layout(kind: Kind, *, swap: bool = False) -> Layout:
    v1 = () if kind is Kind.V2 else tuple(Hierarchy(f"/sys/fs/cgroup/{each}", (each,), "/") for each in CONTROLLERS)
    return Layout(
        kind=kind,
        v1=v1,
        v2="/sys/fs/cgroup" if kind is Kind.V2 else None,
        v2_controllers=frozenset(CONTROLLERS[:5]) if kind is Kind.V2 else frozenset(),
        own_v2="/",
        swap=swap,
        page_sizes=frozenset({"2MB"}),
    )


@pytest.fixture
def host() -> HostFacts:
    """cgroup v2, no AppArmor, no SELinux; the daemon lacks CAP_SYS_RESOURCE."""
    held = tuple(name for name in NAMES if name != "CAP_SYS_RESOURCE")
    return HostFacts(hostname="node-1", layout=make_layout(Kind.V2), bounding=held, cpus="0-3", mems="0")


@pytest.fixture
def v1_host() -> HostFacts:
    return HostFacts(hostname="node-1", layout=make_layout(Kind.V1, swap=True), bounding=NAMES)


@pytest.fixture
def pod(host: HostFacts) -> SandboxPlan:
    """An ordinary pod that logs to /var/log/pods/x."""
    config = api.PodSandboxConfig(hostname="web", log_directory="/var/log/pods/x")
    config.linux.cgroup_parent = "/kubepods/pod1"
    config.linux.security_context.namespace_options.pid = api.CONTAINER
    return plan_sandbox(config, SandboxIds("s" * 64, "0a1b2c3d"), Settings(), host, parent_exists=True)


@pytest.fixture
def image() -> ImageConfig:
    return ImageConfig(
        platform=Platform("linux", "amd64", ""),
        env=("PATH=/bin", "A=image"),
        entrypoint=("/entry",),
        cmd=("serve",),
        user="",
        working_dir="/app",
        volumes=("/data",),
        labels={"org.systemd.property.X": "y"},
        stop_signal="SIGQUIT",
        diff_ids=(),
    )
