"""Records as the RPCs find them."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from cri.plan.container import ContainerIds, ContainerPlan, plan_container
from cri.plan.facts import DeviceFacts, HostFacts
from cri.plan.sandbox import SandboxPlan
from cri.state.records import ContainerRecord, SandboxRecord
from proto import api_pb2 as api
from runtime.images.config import ImageConfig
from runtime.requests import ResolvedUser
from tests.unit.cri.state import samples

MakeSandbox = Callable[..., SandboxRecord]
MakeContainer = Callable[..., ContainerRecord]


@pytest.fixture
def make_sandbox() -> MakeSandbox:
    def make(id: str, labels: dict[str, str] | None = None, **changes: object) -> SandboxRecord:
        config = api.PodSandboxConfig(
            metadata=api.PodSandboxMetadata(name=id, namespace="default", uid="u", attempt=3),
            labels=labels or {},
            annotations={"note": "\u00fcber"},
        )
        record = msgspec.structs.replace(samples.sandbox(id), config=config.SerializeToString())
        return msgspec.structs.replace(record, **changes)

    return make


@pytest.fixture
def make_container() -> MakeContainer:
    def make(
        id: str, sandbox_id: str = "s1", labels: dict[str, str] | None = None, **changes: object
    ) -> ContainerRecord:
        config = api.ContainerConfig(
            metadata=api.ContainerMetadata(name=id, attempt=1),
            image=api.ImageSpec(image="busybox", user_specified_image="busybox"),
            labels=labels or {},
            mounts=[api.Mount(host_path="/srv", container_path="/data", readonly=True)],
            stop_signal=api.SIGNAL_SIGUSR1,
        )
        record = msgspec.structs.replace(samples.container(id, sandbox_id), config=config.SerializeToString())
        return msgspec.structs.replace(record, **changes)

    return make


@pytest.fixture
def plan(pod: SandboxPlan, image: ImageConfig, host: HostFacts) -> ContainerPlan:
    """The plan of a container that runs as 1000:1000 and logs."""
    user = ResolvedUser(uid=1000, gid=1001, additionalGids=[5, 6], home="/home/app")
    config = api.ContainerConfig(metadata=api.ContainerMetadata(name="main"), log_path="main/0.log")
    return plan_container(config, pod, image, user, ContainerIds("c1", "/lib/c1"), host, DeviceFacts())
