"""The table of metrics: names, and that equal inputs are all that a group's values depend on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from cri.rpc.metric_definitions import CONTAINER_GROUPS, DEFINITIONS, POD_GROUPS, PRESSURE, SPEC
from cri.rpc.metric_table import BASE_LABELS, COUNTER, FileSystem, Subject, Value
from network.interfaces import Interface
from proto import api_pb2 as api
from runtime.cgroups.detail import Detail, DeviceIo, HugePages
from runtime.cgroups.processes import Processes
from runtime.cgroups.usage import Pressure, Stall, Usage

NS = 1_000_000_000
PSI = Pressure(Stall(0, 0, 0, 3_000_000), Stall(0, 0, 0, 2_000_000))
USAGE = Usage(9 * NS, 1, 5 * NS, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, PSI, PSI, PSI)
DETAIL = Detail(
    2 * NS, 3 * NS, 4, 5, 6 * NS, 7, 8, 9, 10, 11, 12, 13, 14,
    (DeviceIo(8, 0, {"Read": 1, "Write": 2}, {"Read": 3, "Write": 4}),), (HugePages("2MB", 5, 6),),
)  # fmt: skip
FULL = Subject(
    USAGE,
    DETAIL,
    began=3 * NS,
    now=9 * NS,
    resources=api.LinuxContainerResources(
        cpu_quota=20_000, memory_limit_in_bytes=64, memory_swap_limit_in_bytes=65, unified={"memory.low": "9"}
    ),
    processes=Processes(7, 1, 2, 3, 1024),
    layer=(100, 8),
    file_system=FileSystem("/dev/vda", 1000, 20, 10),
    interfaces=(Interface("eth0", 1, 2, 3, 4, 5, 6, 7, 8),),
)


def values(subject: Subject) -> dict[str, list[Value]]:
    found = {}
    for each in DEFINITIONS:
        read = each.read(subject)
        shown = [] if read is None else [Value(read)] if isinstance(read, int) else list(read)
        found[each.name.removeprefix("container_")] = shown
    return found


def flat(shown: Iterable[Value]) -> list[int]:
    return [each.value for each in shown]


def test_names_are_unique_and_every_metric_explains_itself() -> None:
    assert len({each.name for each in DEFINITIONS}) == len(DEFINITIONS) == 56
    for each in DEFINITIONS:
        assert each.name.startswith("container_") and each.help and each.label_keys[:6] == BASE_LABELS
        counts = each.name.endswith(("_total", "_failcnt")) and each.name != "container_fs_inodes_total"
        assert (each.kind == COUNTER) == counts, each.name


def test_every_metric_has_its_value_in_its_unit_and_as_many_extra_labels_as_keys() -> None:
    found = values(FULL)
    for each in DEFINITIONS:
        shown = found[each.name.removeprefix("container_")]
        assert shown, each.name
        assert all(len(value.extra) == len(each.extra) for value in shown), each.name
    simple = {name: flat(shown) for name, shown in found.items()}
    assert simple["cpu_usage_seconds_total"] == [5] and simple["cpu_cfs_throttled_seconds_total"] == [6]
    assert simple["spec_cpu_period"] == [100_000] and simple["spec_cpu_shares"] == [1024]
    assert simple["spec_memory_reservation_limit_bytes"] == [9]
    assert found["memory_failures_total"][1] == Value(14, ("pgfault", "hierarchy"))
    assert simple["pressure_cpu_stalled_seconds_total"] == [2] and simple["pressure_cpu_waiting_seconds_total"] == [3]
    assert found["blkio_device_usage_total"][0] == Value(1, ("8:0", "8", "0", "Read"))
    assert found["fs_usage_bytes"] == [Value(100, ("/dev/vda",), 8)]
    assert found["ulimits_soft"] == [Value(1024, ("max_open_files",), 7)]
    assert simple["network_transmit_packets_dropped_total"] == [8]
    assert (simple["start_time_seconds"], simple["last_seen"]) == ([3], [9])


def test_what_is_not_known_is_left_out() -> None:
    found = values(Subject(Usage(1, 1), Detail(), 0, 0))
    left = {name for name, shown in found.items() if shown}
    assert left == {"memory_swap", "last_seen", "start_time_seconds"}
    unlimited = Subject(USAGE, DETAIL, 0, 0, resources=api.LinuxContainerResources(unified={"memory.low": "max"}))
    found = values(unlimited._replace(processes=Processes(7, open_files=-1)))
    assert not found["cpu_cfs_periods_total"] and not found["spec_cpu_quota"] and not found["ulimits_soft"]
    assert flat(found["spec_memory_reservation_limit_bytes"]) == [0]


def test_a_group_depends_on_nothing_but_its_inputs() -> None:
    other = FULL._replace(
        usage=USAGE._replace(
            cpu=1, memory_usage=1, pids=1, oom_kills=1, cpu_pressure=None, memory_pressure=None, io_pressure=None
        ),
        detail=Detail(),
        began=1,
        now=1,
        processes=None,
        layer=None,
        file_system=FileSystem("/dev/vdb", 1, 1, 1),
        interfaces=(),
    )
    for group in (*CONTAINER_GROUPS, *POD_GROUPS):
        changed = [each.name for each in group.definitions if each.read(FULL) != each.read(other)]
        assert bool(changed) == (group.definitions is not SPEC), changed
        assert (group.inputs(FULL) == group.inputs(other)) == (group.definitions is SPEC)
    assert (
        {each for group in (*CONTAINER_GROUPS, *POD_GROUPS) for each in group.definitions}
        == set(DEFINITIONS)
        > set(PRESSURE)
    )


def one_by_one() -> Iterator[Subject]:
    """``FULL`` with one figure changed each, by little and by much."""
    assert FULL.file_system is not None
    figures: tuple[tuple[str, Any], ...] = (("usage", USAGE), ("detail", DETAIL), ("file_system", FULL.file_system))
    for part, whole in figures:
        for name in whole._fields:
            for other in (1, 1 << 50) if isinstance(getattr(whole, name), int) else (None,):
                empty = () if part == "detail" else None if part == "usage" else "/dev/vdb"
                yield FULL._replace(**{part: whole._replace(**{name: empty if other is None else other})})
    others: tuple[tuple[str, Any], ...] = (
        *(("began", 1), ("now", 1), ("processes", None), ("layer", (100, 9)), ("layer", (101, 8))),
        ("interfaces", (Interface("eth0", 1, 2, 3, 4, 5, 6, 7, 9),)),
    )
    for name, other in others:
        yield FULL._replace(**{name: other})


def test_no_figure_changes_what_is_shown_without_changing_what_a_group_is_made_of() -> None:
    for subject in one_by_one():
        for group in (*CONTAINER_GROUPS, *POD_GROUPS):
            changed = [each.name for each in group.definitions if each.read(FULL) != each.read(subject)]
            assert not changed or group.inputs(FULL) != group.inputs(subject), changed
