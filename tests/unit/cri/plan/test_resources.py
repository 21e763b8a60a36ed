"""Limits as the cgroup code takes them."""

from __future__ import annotations

from google.protobuf import text_format

from cri.plan.resources import add_resources, merge_resources, plan_resources, plan_update, told_resources
from proto import api_pb2 as api
from runtime.cgroups.resources import Hugepage, Resources


def limits(text: str) -> api.LinuxContainerResources:
    return text_format.Parse(text, api.LinuxContainerResources())


ALL = """
cpu_period: 100000 cpu_quota: -1 cpu_shares: 2 memory_limit_in_bytes: 4096 oom_score_adj: -5
cpuset_cpus: "0-1" cpuset_mems: "0" hugepage_limits { page_size: "2MB" limit: 7 }
unified { key: "memory.high" value: "max" } memory_swap_limit_in_bytes: 8192
"""


def test_every_field_is_taken_over() -> None:
    rules = ({"allow": True, "access": "r"},)
    assert plan_resources(limits(ALL), rules, swap=False) == Resources(  # type: ignore[arg-type]
        cpu_shares=2,
        cpu_quota=-1,
        cpu_period=100000,
        cpuset_cpus="0-1",
        cpuset_mems="0",
        memory_limit=4096,
        memory_swap_limit=8192,
        hugepages=(Hugepage("2MB", 7),),
        unified={"memory.high": "max"},
        oom_score_adj=-5,
        devices=rules,  # type: ignore[arg-type]
    )


def test_a_memory_limit_alone_forbids_swap_where_there_is_any() -> None:
    asked = limits("memory_limit_in_bytes: 4096")
    assert plan_resources(asked, (), swap=True).memory_swap_limit == 4096
    assert plan_resources(asked, (), swap=False).memory_swap_limit == 0
    assert plan_resources(limits(""), (), swap=True).memory_swap_limit == 0


def test_an_update_changes_what_it_names() -> None:
    assert plan_update(limits("cpu_shares: 5")) == Resources(cpu_shares=5)
    assert plan_update(limits(ALL)).oom_score_adj == -5
    assert plan_update(limits(ALL)).devices is None


def test_an_update_is_merged_into_what_is_in_force() -> None:
    change = limits(
        "cpu_shares: 9 hugepage_limits { page_size: '2MB' limit: 1 } unified { key: 'memory.min' value: '1' }"
    )
    merged = merge_resources(limits(ALL), change)
    assert (merged.cpu_shares, merged.cpu_quota, merged.memory_limit_in_bytes) == (9, -1, 4096)
    assert [(page.page_size, page.limit) for page in merged.hugepage_limits] == [("2MB", 1)]
    assert dict(merged.unified) == {"memory.high": "max", "memory.min": "1"}
    assert merge_resources(limits(ALL), limits("")) == limits(ALL)


def test_overhead_is_added_where_the_containers_are_limited() -> None:
    resources = api.LinuxContainerResources(
        cpu_shares=100, cpu_quota=50_000, memory_limit_in_bytes=10, memory_swap_limit_in_bytes=20
    )
    overhead = api.LinuxContainerResources(cpu_shares=5, cpu_quota=10_000, cpu_period=50_000, memory_limit_in_bytes=3)
    total = add_resources(resources, overhead)
    assert (total.cpu_shares, total.cpu_quota, total.memory_limit_in_bytes) == (105, 70_000, 13)
    assert total.memory_swap_limit_in_bytes == 23
    assert add_resources(api.LinuxContainerResources(), overhead) == api.LinuxContainerResources()


def test_what_is_planned_is_told_in_the_fields_that_asked_for_it() -> None:
    assert told_resources(limits(ALL), plan_update(limits(ALL))) == limits(ALL)
    assert told_resources(limits(""), plan_update(limits(""))) == limits("")
    rounded = Resources(memory_limit=4096, cpu_shares=2)
    told = told_resources(limits("memory_limit_in_bytes: 5000 oom_score_adj: -5"), rounded)
    assert told == limits("memory_limit_in_bytes: 4096 cpu_shares: 2 oom_score_adj: -5")
