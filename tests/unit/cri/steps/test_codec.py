"""Steps as bytes: what the journal keeps can be undone by another process."""

from __future__ import annotations

import inspect
from typing import Any, get_args

import msgspec
import pytest

from cri.plan.container import ContainerIds, plan_container
from cri.plan.facts import DeviceFacts, HostFacts
from cri.plan.sandbox import SandboxPlan
from cri.steps.bandwidth import LimitBandwidth
from cri.steps.codec import AnyStep, decode, encode
from cri.steps.container import StartInit, plan_create_steps
from cri.steps.limits import Change, SetContainerLimits, SetOomScore, SetPodLimits
from cri.steps.relabel import RelabelVolumes
from cri.steps.sandbox import plan_steps
from network.bandwidth import Bandwidth
from proto import api_pb2 as api
from runtime.cgroups.resources import LimitPlan, Write
from runtime.images.config import ImageConfig
from runtime.requests import ResolvedUser


def test_a_pods_birth_survives_the_journal(pod: SandboxPlan) -> None:
    steps = plan_steps(pod)
    assert decode(encode(steps)) == steps and len(steps) == 9


def test_a_limited_pods_birth_survives_the_journal_with_its_rates(pod: SandboxPlan) -> None:
    steps = plan_steps(msgspec.structs.replace(pod, bandwidth=Bandwidth(10**15, 0)))
    assert decode(encode(steps)) == steps and len(steps) == 10
    assert steps[7] == LimitBandwidth(pod.id, Bandwidth(ingress=10**15))


def test_a_containers_birth_survives_the_journal(pod: SandboxPlan, image: ImageConfig, host: HostFacts) -> None:
    user = ResolvedUser(uid=0, gid=0, additionalGids=[], home="/root")
    config = api.ContainerConfig(command=["\u00fc", "\x7f"])
    plan = plan_container(config, pod, image, user, ContainerIds("c1", "/lib/c1"), host, DeviceFacts())
    steps = (*plan_create_steps(plan), StartInit(pod.id, plan.id, plan.cgroup))
    assert decode(encode(steps)) == steps


def test_labels_of_volumes_survive_the_journal() -> None:
    steps = (RelabelVolumes("c1", ("/a", "/b"), "u:object_r:t:s0:c1,c2"),)
    assert decode(encode(steps)) == steps


def test_an_update_survives_the_journal_with_what_was_there_before() -> None:
    limits = LimitPlan((Write("cpu", "cpu.shares", "2"), Write("memory", "memory.swap.max", "0", optional=True)))
    change = Change("/c", limits, (Write("cpuset", "cpuset.cpus", ""), Write("io", "io.max", "8:0 rbps=1\n8:1 wbps=2")))
    resources = api.LinuxContainerResources(unified={"a.b": "\u00fc"}, oom_score_adj=-1).SerializeToString()
    steps = (
        SetOomScore("c1", "/c", -5),
        SetContainerLimits("s1", "c1", change, resources),
        SetPodLimits("s1", change, resources),
    )
    assert decode(encode(steps)) == steps


@pytest.mark.parametrize("text", [b"", b"{}", b'[{"type":"unknown"}]', b'[{"type":"start_init"}]'])
def test_an_unknown_step_is_an_error_and_never_skipped(text: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode(text)


def test_every_step_has_the_name_of_its_tag() -> None:
    kinds: list[Any] = [kind for kind in get_args(AnyStep) if inspect.isclass(kind)]
    assert len(kinds) >= 10
    assert [kind.name for kind in kinds] == [kind.__struct_config__.tag for kind in kinds]
