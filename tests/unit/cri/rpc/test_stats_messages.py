"""Statistics, encoded: attributes and figures together are the message that protobuf reads."""

from __future__ import annotations

import pytest

from cri.layers import LayerUsage
from cri.rpc.stats_messages import StatsMessages, container_figures, pod_figures, set_pressure
from cri.sweep import ContainerReading, PodReading
from network.interfaces import Interface
from proto import api_pb2 as api
from runtime.cgroups.detail import Detail
from runtime.cgroups.sampler import Sample
from runtime.cgroups.usage import Pressure, Stall, Usage
from tests.unit.cri.rpc.conftest import MakeContainer, MakeSandbox

NS = 1_000_000_000
USAGE = Usage(100 * NS, 1, 40 * NS, 5000, 4000, 3000, 9000, 7, 2, 10, 30, 4)


@pytest.fixture
def container(make_container: MakeContainer) -> ContainerReading:
    record = make_container("c1", labels={"a": "b"}, started_at=60 * NS)
    return ContainerReading(record, "/pod/c1", Sample(USAGE, None, USAGE), Detail(), LayerUsage(9, 4096, 2))


def test_a_containers_message_has_attributes_and_figures(container: ContainerReading) -> None:
    messages = StatsMessages()
    for _ in range(2):
        stats = api.ContainerStats.FromString(messages.container(container, "/lib"))
        assert stats.attributes.id == "c1" and dict(stats.attributes.labels) == {"a": "b"}
        assert (stats.memory.usage_bytes.value, stats.memory.available_bytes.value) == (5000, 5000)
        assert (stats.swap.swap_usage_bytes.value, stats.swap.swap_available_bytes.value) == (10, 20)
        layer = stats.writable_layer
        assert (layer.fs_id.mountpoint, layer.used_bytes.value, layer.timestamp) == ("/lib", 4096, 9)
    messages.forget("c1")


def test_the_first_rate_is_that_of_the_life_so_far(container: ContainerReading) -> None:
    assert container_figures(container, "/").cpu.usage_nano_cores.value == NS
    second = ContainerReading(
        container.record, "/pod/c1", Sample(USAGE, 7, USAGE), Detail(), LayerUsage(1), processes=None
    )
    assert container_figures(second, "/").cpu.usage_nano_cores.value == 7


def test_what_has_no_cgroup_any_more_uses_nothing_now(container: ContainerReading) -> None:
    gone = ContainerReading(container.record, "/pod/c1", None, Detail(), LayerUsage(1))
    stats = container_figures(gone, "/")
    assert stats.cpu.timestamp > 0 and stats.cpu.usage_core_nano_seconds.value == 0
    assert not stats.cpu.HasField("usage_nano_cores") and not stats.memory.HasField("available_bytes")


def test_a_pods_message_has_its_interfaces_and_containers(
    container: ContainerReading, make_sandbox: MakeSandbox
) -> None:
    interfaces = tuple(Interface(name, 1, 2, 3, 4, 5, 6, 7, 8) for name in ("eth0", "net1"))
    sample = Sample(USAGE, 5, USAGE)
    reading = PodReading(make_sandbox("s1", {"app": "web"}), "/pod", sample, interfaces, 77, (container,))
    stats = api.PodSandboxStats.FromString(StatsMessages().pod(reading, "/lib"))
    assert stats.attributes.metadata.name == "s1" and dict(stats.attributes.labels) == {"app": "web"}
    network = stats.linux.network
    assert (network.timestamp, network.default_interface.name) == (77, "eth0")
    assert [each.name for each in network.interfaces] == ["net1"]
    assert (network.default_interface.rx_bytes.value, network.default_interface.tx_errors.value) == (1, 7)
    assert stats.linux.process.process_count.value == 4 and stats.linux.cpu.usage_nano_cores.value == 5
    assert [each.attributes.id for each in stats.linux.containers] == ["c1"]
    assert not pod_figures(PodReading(reading.record, "/pod", None, (), 1, ())).network.HasField("default_interface")


def test_pressure_is_left_out_where_the_kernel_has_none_and_in_nanoseconds_where_it_has() -> None:
    message = api.PsiStats()
    set_pressure(message, None)
    assert not message.HasField("Some")
    set_pressure(message, Pressure(some=Stall(1.0, 2.0, 3.0, 4), full=None))
    assert (message.Some.Total, message.Some.Avg10) == (4000, 1.0) and not message.HasField("Full")
