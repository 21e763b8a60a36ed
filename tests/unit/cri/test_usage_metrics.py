"""Figures of pods and containers as Prometheus reads them: names, labels, and what is left out."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from cri.state.index import Index
from cri.state.records import ContainerRecord, ContainerState, SandboxRecord, SandboxState
from cri.usage_metrics import MAX_AGE, UsageMetrics
from network.interfaces import Interface
from runtime.cgroups.usage import Usage
from runtime.errors import HostFault
from tests.unit.cri.state import samples

USAGE = Usage(1, 1, cpu=1_500_000_000, memory_usage=9000, memory_working_set=4096, pids=3, oom_kills=0)


class Readings:
    """What a sweep has found, by id."""

    def __init__(self) -> None:
        self.usages: dict[str, Usage] = {}
        self.interfaces: tuple[Interface, ...] = ()
        self.fault: HostFault | None = None
        self.ages: set[int] = set()

    def recent(self, records: Iterable[SandboxRecord | ContainerRecord], age: int) -> dict[str, Usage]:
        self.ages.add(age)
        if self.fault is not None:
            raise self.fault
        return {record.id: self.usages[record.id] for record in records if record.id in self.usages}

    def recent_interfaces(self, _record: SandboxRecord, age: int) -> tuple[Interface, ...]:
        self.ages.add(age)
        return self.interfaces

    def last(self, records: Sequence[ContainerRecord]) -> dict[str, Usage]:
        return self.recent(records, MAX_AGE)


class Node:
    """Pods, containers and their readings."""

    def __init__(self) -> None:
        self.pods: Index[SandboxRecord] = Index("sandbox", lambda record: record.id)
        self.containers: Index[ContainerRecord] = Index("container", lambda record: record.id)
        self.readings = Readings()

    def pod(self, id: str, state: SandboxState = SandboxState.READY, name: str = "web") -> None:
        self.pods.put(msgspec.structs.replace(samples.sandbox(id, name), state=state))
        self.readings.usages[id] = USAGE

    def container(self, id: str, state: ContainerState, usage: Usage = USAGE, sandbox: str = "s1") -> None:
        self.containers.put(msgspec.structs.replace(samples.container(id, sandbox), state=state))
        self.readings.usages[id] = usage

    def text(self) -> str:
        return UsageMetrics(self.pods, self.containers, self.readings).render().decode()

    def values(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        families = text_string_to_metric_families(self.text())
        found = [(each.name, frozenset(each.labels.items()), each.value) for one in families for each in one.samples]
        assert len({(name, labels) for name, labels, _ in found}) == len(found)
        return {(name, labels): value for name, labels, value in found}


POD = frozenset({("sandbox", "s1"), ("namespace", "default"), ("pod", "web")})
CONTAINER = POD | {("container", "main"), ("id", "c1")}


@pytest.fixture
def node() -> Node:
    made = Node()
    made.pod("s1")
    return made


def test_a_pod_and_its_running_container_have_figures_in_the_units_that_their_names_say(node: Node) -> None:
    node.container("c1", ContainerState.RUNNING)
    node.readings.interfaces = tuple(Interface(name, 10, 0, 0, 0, 20, 0, 0, 0) for name in ("eth0", "tun0"))
    assert node.values() == {
        ("crisp_pod_cpu_usage_seconds_total", POD): 1.5,
        ("crisp_pod_memory_working_set_bytes", POD): 4096,
        ("crisp_pod_processes", POD): 3,
        ("crisp_pod_network_receive_bytes_total", POD): 10,
        ("crisp_pod_network_transmit_bytes_total", POD): 20,
        ("crisp_container_cpu_usage_seconds_total", CONTAINER): 1.5,
        ("crisp_container_memory_working_set_bytes", CONTAINER): 4096,
        ("crisp_container_processes", CONTAINER): 3,
        ("crisp_container_oom_kills_total", CONTAINER): 0,
    }
    assert node.readings.ages == {MAX_AGE}


def test_counters_are_counters_and_gauges_gauges(node: Node) -> None:
    kinds = {each.name: each.type for each in text_string_to_metric_families(node.text())}
    assert {name for name, kind in kinds.items() if kind == "gauge"} == {
        "crisp_pod_memory_working_set_bytes",
        "crisp_pod_processes",
        "crisp_container_memory_working_set_bytes",
        "crisp_container_processes",
    }
    assert len(kinds) == 9 and set(kinds.values()) == {"counter", "gauge"}


def test_of_what_has_ended_there_is_only_how_often_memory_was_wanting(node: Node) -> None:
    node.container("c1", ContainerState.EXITED, USAGE._replace(oom_kills=2))
    node.container("c2", ContainerState.EXITED)
    node.container("c3", ContainerState.CREATED)
    node.pod("s2", SandboxState.NOTREADY)
    found = node.values()
    assert found[("crisp_container_oom_kills_total", CONTAINER)] == 2
    assert {labels for _, labels in found} == {POD, CONTAINER}
    assert [name for name, labels in found if labels == CONTAINER] == ["crisp_container_oom_kills_total"]


def test_what_is_gone_or_not_told_by_the_kernel_is_left_out(node: Node) -> None:
    node.readings.usages["s1"] = Usage(1, 1, cpu=7)
    node.container("c1", ContainerState.RUNNING)
    del node.readings.usages["c1"]
    node.container("c2", ContainerState.RUNNING, sandbox="removed")
    assert node.values() == {("crisp_pod_cpu_usage_seconds_total", POD): 7e-9}


def test_a_name_cannot_leave_its_label(node: Node) -> None:
    name = 'a"} 1\ncrisp_pods{state="\\'
    node.pod("s1", name=name)
    found = node.values()
    assert {name for name, _ in found} == {
        "crisp_pod_cpu_usage_seconds_total", "crisp_pod_memory_working_set_bytes", "crisp_pod_processes"
    }  # fmt: skip
    assert {dict(labels)["pod"] for _, labels in found} == {name}


def test_a_cgroup_that_cannot_be_read_is_no_reason_to_serve_nothing(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    node.readings.fault = HostFault(step="read the cgroup's usage", object="/pod/c1", call="pread", errno=5)
    with caplog.at_level(logging.WARNING, "crisp.metrics"):
        assert node.text() == ""
    assert "no figures of pods: read the cgroup's usage: /pod/c1" in caplog.text
