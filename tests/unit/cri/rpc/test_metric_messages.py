"""Metrics, encoded: protobuf reads what was put together by hand, and nothing stale is shown."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import pytest

from cri.layers import LayerUsage
from cri.rpc.metric_messages import MetricMessages, descriptors, device_name, encode_labels, metric
from cri.rpc.metric_table import BASE_LABELS, Definition
from cri.sweep import ContainerReading, PodReading
from network.interfaces import Interface
from proto import api_pb2 as api
from runtime.cgroups.detail import Detail
from runtime.cgroups.processes import Processes
from runtime.cgroups.sampler import Sample
from runtime.cgroups.usage import Usage
from tests.unit.cri.rpc.conftest import MakeContainer, MakeSandbox

NS = 1_000_000_000


def sample(cpu: int, memory: int) -> Sample:
    usage = Usage(100 * NS, 1, cpu, memory_usage=memory, pids=3)
    return Sample(usage, None, usage)


@pytest.fixture
def reading(make_sandbox: MakeSandbox, make_container: MakeContainer) -> PodReading:
    record = make_container("c1", started_at=50 * NS)
    layer, processes = LayerUsage(7, 4096, 2), Processes(8, 1, 2, 3, 1024)
    container = ContainerReading(record, "/pod/c1", sample(2 * NS, 300), Detail(), layer, processes)
    interfaces = (Interface("eth0", 1, 2, 3, 4, 5, 6, 7, 8),)
    return PodReading(make_sandbox("s1"), "/pod", sample(3 * NS, 0), interfaces, 1, (container,))


def decode(encoded: list[bytes]) -> api.PodSandboxMetrics:
    (one,) = encoded
    return api.PodSandboxMetrics.FromString(one)


def find(metrics: list[api.Metric], name: str) -> api.Metric:
    (found,) = [each for each in metrics if each.name == f"container_{name}"]
    return found


def test_protobuf_reads_what_was_put_together(reading: PodReading, tmp_path: Path) -> None:
    message = decode(MetricMessages(str(tmp_path)).pods([reading]))
    (container,) = message.container_metrics
    assert (message.pod_sandbox_id, container.container_id) == ("s1", "c1")
    received = find(list(message.metrics), "network_receive_bytes_total")
    assert list(received.label_values) == ["", "/pod", "", "s1", "default", "web", "eth0"]
    assert (received.value.value, received.metric_type, received.timestamp) == (1, api.COUNTER, 0)
    cpu = find(list(container.metrics), "cpu_usage_seconds_total")
    assert list(cpu.label_values) == ["c1", "/pod/c1", "busybox", "c1", "default", "web", "total"]
    assert cpu.value.value == 2 and find(list(container.metrics), "memory_usage_bytes").metric_type == api.GAUGE
    used = find(list(container.metrics), "fs_usage_bytes")
    assert (used.value.value, used.timestamp) == (4096, 7)
    zero = find(list(message.metrics), "memory_usage_bytes")
    assert zero.HasField("value") and zero.value.value == 0


def test_changed_figures_show_and_unchanged_ones_are_not_encoded_again(reading: PodReading, tmp_path: Path) -> None:
    messages = MetricMessages(str(tmp_path))
    messages.pods([reading])
    before = messages._kept["c1"].groups[0]
    messages.pods([reading])
    assert messages._kept["c1"].groups[0] is before
    (container,) = reading.containers
    changed = dataclasses.replace(reading, containers=(dataclasses.replace(container, sample=sample(9 * NS, 1)),))
    metrics = list(decode(messages.pods([changed])).container_metrics[0].metrics)
    assert find(metrics, "cpu_usage_seconds_total").value.value == 9


def test_new_limits_of_a_record_show(reading: PodReading, tmp_path: Path) -> None:
    messages = MetricMessages(str(tmp_path))
    messages.pods([reading])
    (container,) = reading.containers
    resources = api.LinuxContainerResources(memory_limit_in_bytes=77).SerializeToString()
    record = msgspec.structs.replace(container.record, resources=resources)
    changed = dataclasses.replace(reading, containers=(dataclasses.replace(container, record=record),))
    metrics = list(decode(messages.pods([changed])).container_metrics[0].metrics)
    assert find(metrics, "spec_memory_limit_bytes").value.value == 77
    messages.forget("c1")
    messages.forget("s1")
    assert not messages._kept


def test_what_has_no_cgroup_any_more_has_no_metrics(reading: PodReading, tmp_path: Path) -> None:
    containers = (dataclasses.replace(reading.containers[0], sample=None),)
    gone = dataclasses.replace(reading, sample=None, containers=containers)
    message = decode(MetricMessages(str(tmp_path)).pods([gone]))
    assert not message.metrics and not message.container_metrics[0].metrics


def test_a_metric_is_put_together_of_its_fields() -> None:
    definition = Definition("m", api.GAUGE, "help", lambda subject: 1)
    for value, at in ((0, 0), (1, 0), (300, 7), (2**63, 2**62)):
        whole = api.ContainerMetrics.FromString(metric(definition, encode_labels(("a", "")), value, at))
        message = api.Metric(name="m", metric_type=api.GAUGE, label_values=("a", ""), timestamp=at)
        message.value.value = value
        assert list(whole.metrics) == [message]


def test_a_device_has_the_name_of_its_node_or_its_numbers(tmp_path: Path) -> None:
    (tmp_path / "dev/block/8:0").mkdir(parents=True)
    (tmp_path / "dev/block/8:0/uevent").write_text("MAJOR=8\nDEVNAME=sda\n")
    assert device_name(8, 0, str(tmp_path)) == "/dev/sda"
    assert device_name(9, 9, str(tmp_path)) == "9:9"


def test_every_metric_is_described() -> None:
    assert all(each.help and list(each.label_keys)[:6] == list(BASE_LABELS) for each in descriptors())
