"""Statistics, encoded: attributes and figures together are the message that protobuf reads."""

from __future__ import annotations

import dataclasses
import time

import msgspec
import pytest

from cri.layers import LayerUsage
from cri.rpc import stats_messages
from cri.rpc.stats_messages import StatsMessages, around, cpu_usage, set_pressure
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


def decode(reading: ContainerReading, messages: StatsMessages | None = None) -> api.ContainerStats:
    return api.ContainerStats.FromString((messages or StatsMessages()).container(reading, "/lib"))


def with_sample(reading: ContainerReading, sample: Sample | None) -> ContainerReading:
    return dataclasses.replace(reading, sample=sample)


def test_the_first_rate_is_that_of_the_life_so_far(container: ContainerReading) -> None:
    assert decode(container).cpu.usage_nano_cores.value == NS
    assert decode(with_sample(container, Sample(USAGE, 7, USAGE))).cpu.usage_nano_cores.value == 7


def test_what_has_no_cgroup_any_more_uses_nothing_now(container: ContainerReading) -> None:
    stats = decode(with_sample(container, None))
    assert stats.cpu.timestamp > time.time_ns() - 60 * NS and stats.cpu.usage_core_nano_seconds.value == 0
    assert not stats.cpu.HasField("usage_nano_cores") and not stats.memory.HasField("available_bytes")


def test_a_reading_that_differs_in_its_time_alone_is_not_encoded_again(
    container: ContainerReading, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[Usage] = []

    def counted(usage: Usage, rate: int | None) -> api.CpuUsage:
        encoded.append(usage)
        return cpu_usage(usage, rate)

    monkeypatch.setattr(stats_messages, "cpu_usage", counted)
    messages = StatsMessages()
    for moment in (100 * NS, 101 * NS, 1_790_000_000 * NS, 1_790_000_015 * NS):
        later = USAGE._replace(time=moment, clock=moment)
        stats = decode(with_sample(container, Sample(later, 7, later)), messages)
        assert {each.timestamp for each in (stats.cpu, stats.memory, stats.swap, stats.io)} == {moment}
        assert stats.cpu.usage_core_nano_seconds.value == 40 * NS and stats.swap.swap_usage_bytes.value == 10
    assert len(encoded) == 2  # a time of as many bytes goes where the one before was
    messages.forget("c1")
    decode(container, messages)
    assert len(encoded) == 3


def test_any_other_figure_that_differs_shows(container: ContainerReading) -> None:
    messages = StatsMessages()
    first = decode(container, messages)
    for number, name in list(enumerate(Usage._fields))[2:13]:
        usage = Usage._make((*USAGE[:number], 12_345, *USAGE[number + 1 :]))
        for figures in (USAGE, usage, USAGE):
            stats = decode(with_sample(container, Sample(figures, None, figures)), messages)
            hidden = name in ("pids", "oom_kills")
            assert (stats == first) is (figures is USAGE or hidden), (number, name)
    layer = dataclasses.replace(container, layer=LayerUsage(10, 8192, 3))
    assert decode(layer, messages).writable_layer.used_bytes.value == 8192
    started = msgspec.structs.replace(container.record, started_at=20 * NS)
    assert decode(dataclasses.replace(container, record=started), messages).cpu.usage_nano_cores.value == NS // 2


def test_a_time_goes_between_the_pieces_of_an_encoding() -> None:
    messages = ((2, api.CpuUsage()), (16, api.IoUsage(psi=api.PsiStats())))
    usage = cpu_usage(USAGE, None)
    pieces = around(((2, usage), *messages[1:]), 1)
    assert len(pieces) == 3
    stats = api.ContainerStats.FromString(b"\x05".join(pieces))
    usage.timestamp = 5
    assert stats.cpu == usage


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
    assert {each.timestamp for each in (stats.linux.cpu, stats.linux.memory, stats.linux.io)} == {100 * NS}
    bare = StatsMessages().pod(PodReading(reading.record, "/pod", None, (), 1, ()), "/lib")
    assert not api.PodSandboxStats.FromString(bare).linux.network.HasField("default_interface")


def test_pressure_is_left_out_where_the_kernel_has_none_and_in_nanoseconds_where_it_has() -> None:
    message = api.PsiStats()
    set_pressure(message, None)
    assert not message.HasField("Some")
    set_pressure(message, Pressure(some=Stall(1.0, 2.0, 3.0, 4), full=None))
    assert (message.Some.Total, message.Some.Avg10) == (4000, 1.0) and not message.HasField("Full")
