"""Limits."""

from __future__ import annotations

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st

from cri.plan.facts import HostFacts
from cri.validate.resources import check_resources, check_update, numbers
from proto import api_pb2 as api
from runtime.errors import FailedPrecondition, Fault, InvalidArgument


def limits(text: str) -> api.LinuxContainerResources:
    return text_format.Parse(text, api.LinuxContainerResources())


GOOD = [
    "",
    "cpu_shares: 2 cpu_period: 1000 cpu_quota: 1000",
    "cpu_quota: -1",
    "memory_limit_in_bytes: 4096 memory_swap_limit_in_bytes: 4096",
    "memory_limit_in_bytes: 1 memory_swap_limit_in_bytes: -1",
    "oom_score_adj: -1000",
    "cpuset_cpus: '0,2-3' cpuset_mems: '0'",
    "hugepage_limits { page_size: '2MB' limit: 0 }",
    "unified { key: 'memory.min' value: '1' }",
]

BAD: list[tuple[str, type[Fault], str]] = [
    ("cpu_shares: -1", InvalidArgument, "r.cpu_shares"),
    ("cpu_period: 999", InvalidArgument, "r.cpu_period"),
    ("cpu_period: 1000001", InvalidArgument, "r.cpu_period"),
    ("cpu_period: -1", InvalidArgument, "r.cpu_period"),
    ("cpu_quota: 5", InvalidArgument, "r.cpu_quota"),
    ("memory_limit_in_bytes: -1", InvalidArgument, "r.memory_limit_in_bytes"),
    ("memory_swap_limit_in_bytes: -2", InvalidArgument, "r.memory_swap_limit_in_bytes"),
    ("memory_limit_in_bytes: 9 memory_swap_limit_in_bytes: 8", InvalidArgument, "cannot be below 9"),
    ("oom_score_adj: -1001", InvalidArgument, "r.oom_score_adj"),
    ("cpuset_cpus: '0,,1'", InvalidArgument, "is no list"),
    ("cpuset_cpus: '0-9000'", InvalidArgument, "above 8191"),
    ("cpuset_cpus: '1-99'", FailedPrecondition, "has 4, the host has 0-3"),
    ("cpuset_mems: '1'", FailedPrecondition, "the host has 0"),
    ("hugepage_limits { page_size: '0MB' }", InvalidArgument, "is no page size"),
    ("hugepage_limits { page_size: '2MB' limit: 18446744073709551615 }", InvalidArgument, "must be between"),
    ("unified { key: 'memory' value: '1' }", InvalidArgument, "controller's file"),
    ("unified { key: 'memory.max/x' value: '1' }", InvalidArgument, "controller's file"),
    ("unified { key: 'cgroup.kill' value: '1' }", InvalidArgument, "controller's file"),
    ("unified { key: 'memory.max' value: ' ' }", InvalidArgument, "is empty"),
    ("unified { key: 'memory.max' value: 'a\\0' }", InvalidArgument, "control character"),
]


@pytest.mark.parametrize("text", GOOD)
def test_good_limits_pass(host: HostFacts, text: str) -> None:
    check_resources(limits(text), host, "r")


@pytest.mark.parametrize(("text", "fault", "words"), BAD)
def test_bad_limits_are_refused(host: HostFacts, text: str, fault: type[Fault], words: str) -> None:
    for check in (check_update, check_resources):
        with pytest.raises(Fault) as raised:
            check(limits(text), host, "r")
        assert type(raised.value) is fault and words in str(raised.value)


@pytest.mark.parametrize(
    "text", ["unified { key: 'memory.max' value: '1' }", "hugepage_limits { page_size: '1GB' limit: 1 }"]
)
def test_what_the_host_has_no_controller_for_is_refused(v1_host: HostFacts, text: str) -> None:
    with pytest.raises(FailedPrecondition):
        check_resources(limits(text), v1_host, "r")


def test_a_swap_limit_alone_is_an_update(host: HostFacts) -> None:
    check_update(limits("memory_swap_limit_in_bytes: 5"), host, "r")
    with pytest.raises(InvalidArgument, match="needs memory_limit_in_bytes"):
        check_resources(limits("memory_swap_limit_in_bytes: 5"), host, "r")


def test_an_unknown_set_of_cpus_bounds_nothing(v1_host: HostFacts) -> None:
    check_update(limits("cpuset_cpus: '100'"), v1_host, "r")


@given(st.sets(st.integers(0, 8191), min_size=1, max_size=20))
def test_a_list_is_read_as_the_kernel_reads_it(chosen: set[int]) -> None:
    assert numbers(",".join(map(str, sorted(chosen))), "r") == chosen
    assert numbers(f"{min(chosen)}-{max(chosen)}", "r") == set(range(min(chosen), max(chosen) + 1))
