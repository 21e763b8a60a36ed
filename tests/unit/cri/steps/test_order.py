"""The order in which a pod is made, where it matters to somebody else."""

from __future__ import annotations

import msgspec
import pytest

from cri.plan.sandbox import BRIDGE, CNI, HOST_NETWORK, SandboxPlan
from cri.steps.sandbox import plan_steps


@pytest.mark.parametrize("provider", [BRIDGE, CNI, HOST_NETWORK])
def test_plugins_find_the_namespace_as_the_pod_wants_it(pod: SandboxPlan, provider: str) -> None:
    names = [step.name for step in plan_steps(msgspec.structs.replace(pod, provider=provider))]
    assert names.count("wait_for_pause") == 1
    if provider == CNI:
        assert names.index("wait_for_pause") < names.index("attach_network")
    else:
        assert names[-1] == "wait_for_pause"
