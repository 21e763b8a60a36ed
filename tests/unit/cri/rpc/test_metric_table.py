"""How single metrics are read of a subject; the whole table is in ``test_metric_definitions``."""

from __future__ import annotations

import pytest

from cri.rpc.metric_definitions import DEFINITIONS
from cri.rpc.metric_table import Subject, Value, cfs, device_io, reservation, seconds, spec, stalled
from proto import api_pb2 as api
from runtime.cgroups.detail import Detail, DeviceIo
from runtime.cgroups.usage import Pressure, Stall, Usage

IDLE = Subject(Usage(1, 1), Detail(), 0, 0)


def test_seconds_are_whole_ones() -> None:
    assert (seconds(1_999_999_999), seconds(0), seconds(None)) == (1, 0, None)


def test_periods_are_those_of_a_container_with_a_quota() -> None:
    read = cfs(lambda detail: detail.periods)
    assert read(IDLE._replace(detail=Detail(periods=3))) is None
    container = IDLE._replace(resources=api.LinuxContainerResources(), detail=Detail(periods=0))
    assert read(container) is None
    assert read(container._replace(resources=api.LinuxContainerResources(cpu_quota=1))) == 0


def test_a_pod_has_no_limits_to_show() -> None:
    assert spec(lambda resources: 1)(IDLE) is None


@pytest.mark.parametrize(("asked", "shown"), [("4096", 4096), ("max", 0), ("", 0), ("\u0662", 0)])
def test_memory_that_is_kept_for_it(asked: str, shown: int) -> None:
    assert reservation(api.LinuxContainerResources(unified={"memory.low": asked} if asked else {})) == shown


def test_pressure_is_counted_in_whole_seconds_where_there_is_any() -> None:
    pressure = Pressure(Stall(0, 0, 0, 2_999_999), None)
    busy = IDLE._replace(usage=Usage(1, 1, cpu_pressure=pressure))
    assert stalled(lambda usage: usage.cpu_pressure, "some")(busy) == 2
    assert stalled(lambda usage: usage.cpu_pressure, "full")(busy) is None
    assert stalled(lambda usage: usage.cpu_pressure, "some")(IDLE) is None


def test_io_is_told_apart_by_device() -> None:
    io = (DeviceIo(8, 0, {"Read": 7}, {"Read": 1}), DeviceIo(9, 0, {"Write": 1}, {}))
    busy = IDLE._replace(detail=Detail(io=io), device=lambda major, minor: f"/dev/{major}")
    assert device_io("bytes", "Read")(busy) == [Value(7, ("/dev/8",))]


def test_every_definition_can_be_read_of_anything() -> None:
    busy = Detail(io=(DeviceIo(8, 0, {}, {}),))
    for each in DEFINITIONS:
        each.read(IDLE)
        each.read(IDLE._replace(detail=busy, resources=api.LinuxContainerResources()))
