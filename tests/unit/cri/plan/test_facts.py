"""What is derived from the facts of the host."""

from __future__ import annotations

from cri.plan.facts import HostFacts


def test_only_a_pure_v2_host_is_unified(host: HostFacts, v1_host: HostFacts) -> None:
    assert host.unified
    assert not v1_host.unified
