"""Every failpoint of every operation, read from the steps that the operations are made of.

``test_every_step`` has a case for each, and refuses a list that differs from what a
daemon passed: in either direction.

Invariant: nothing is written down here but which RPC applies or undoes which plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cri.intent import ANSWER, STORE
from cri.plan.container import ContainerIds, plan_container
from cri.plan.facts import DeviceFacts, HostFacts
from cri.plan.sandbox import SandboxIds, plan_sandbox
from cri.pool import OPERATION as POOL
from cri.settings import Settings
from cri.steps.codec import AnyStep
from cri.steps.container import StartInit, plan_create_steps
from cri.steps.limits import Change, SetContainerLimits, SetOomScore, SetPodLimits
from cri.steps.sandbox import BLANK_DONE, ENDS_AT_STOP, plan_blank_steps, plan_steps
from network.bandwidth import EGRESS, INGRESS
from proto import api_pb2 as api
from runtime.cgroups.layout import Kind, Layout
from runtime.cgroups.resources import LimitPlan
from runtime.images.config import ImageConfig
from runtime.images.platforms import Platform
from runtime.steps import APPLY_PLACES, UNDO_PLACE, apply_points, undo_points
from tests.rates import LACKING

RUN, CREATE, START = "RunPodSandbox", "CreateContainer", "StartContainer"
UPDATE, UPDATE_POD = "UpdateContainerResources", "UpdatePodSandboxResources"
STOP, REMOVE_POD, REMOVE = "StopPodSandbox", "RemovePodSandbox", "RemoveContainer"

NO_CHANGE = Change("/c", LimitPlan(()), ())
START_STEPS = (StartInit("s", "c", "/c"),)
UPDATE_STEPS = (SetOomScore("c", "/c", 0), SetContainerLimits("s", "c", NO_CHANGE, b""))
UPDATE_POD_STEPS = (SetPodLimits("s", NO_CHANGE, b""),)

RATES = {} if LACKING else {INGRESS: "20M", EGRESS: "10M"}
"""Annotations of every pod here: none where the kernel could not limit one."""


@dataclass(frozen=True, slots=True)
class Point:
    """``name`` as the executor spells it. ``trigger`` is what has to fail for it to be passed, if anything."""

    operation: str
    name: str
    trigger: str = ""

    def __str__(self) -> str:
        return self.name


def sample_steps() -> tuple[Sequence[AnyStep], Sequence[AnyStep]]:
    """What an ordinary pod and an ordinary container are made of."""
    layout = Layout(
        kind=Kind.V2, v1=(), v2="/c", v2_controllers=frozenset(), own_v2="/", swap=False, page_sizes=frozenset()
    )
    facts = HostFacts(hostname="node", layout=layout, bounding=())
    config = api.PodSandboxConfig(annotations=RATES)
    pod = plan_sandbox(config, SandboxIds("s" * 64, "0" * 8), Settings(), facts, parent_exists=False)
    image = ImageConfig(Platform("linux", "amd64", ""), (), ("/entry",), (), "", "", (), {}, "", ())
    container = plan_container(
        api.ContainerConfig(),
        pod,
        image,
        {"uid": 0, "gid": 0, "additionalGids": [], "home": "/"},
        ContainerIds("c" * 64, "/c", None),
        facts,
        DeviceFacts(),
    )
    return plan_steps(pod), plan_create_steps(container)


def creation(operation: str, steps: Sequence[AnyStep]) -> list[Point]:
    """Way forward, way back, and the two points around the moment in which it counts as done."""
    store = f"{operation}:{STORE}"
    return [
        *(Point(operation, name) for name in apply_points(operation, steps)),
        *(Point(operation, name, trigger=store) for name in undo_points(operation, steps)),
        Point(operation, store),
        Point(operation, f"{operation}:{ANSWER}"),
    ]


def ending(operation: str, steps: Sequence[AnyStep]) -> list[Point]:
    return [Point(operation, name) for name in undo_points(operation, steps)]


def all_points() -> list[Point]:
    pod, container = sample_steps()
    return [
        *creation(RUN, pod),
        *creation(CREATE, container),
        *creation(START, START_STEPS),
        *creation(UPDATE, UPDATE_STEPS),
        *creation(UPDATE_POD, UPDATE_POD_STEPS),
        *ending(STOP, [step for step in pod if isinstance(step, ENDS_AT_STOP)]),
        *ending(REMOVE_POD, pod),
        *ending(REMOVE, container),
    ]


def blank_points() -> list[Point]:
    """Those that a pod from the pool passes: what a blank one has behind it is not applied again."""
    done = {f"{RUN}/{name}:{place}" for name in BLANK_DONE for place in APPLY_PLACES[1:]}
    return [point for point in creation(RUN, sample_steps()[0]) if point.name not in done]


def pool_points() -> list[Point]:
    """Those of making a blank pod; it is undone when its last step fails."""
    steps = plan_blank_steps("s", "/s")
    last = apply_points(POOL, steps)[-1]
    return [
        *(Point(POOL, name) for name in apply_points(POOL, steps)),
        *(Point(POOL, name, trigger=last) for name in undo_points(POOL, steps)),
    ]


def all_steps() -> set[type]:
    """The classes of the steps that the points above stand for."""
    pod, container = sample_steps()
    later = (*START_STEPS, *UPDATE_STEPS, *UPDATE_POD_STEPS)
    return {type(step) for step in (*pod, *container, *later, *plan_blank_steps("s", "/s"))}


__all__ = ["LACKING", "RATES", "UNDO_PLACE", "Point", "all_points", "all_steps", "blank_points", "pool_points"]
