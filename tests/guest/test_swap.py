"""Limits of swap in cgroup v2, where they are apart from those of memory, on a machine that has some."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import grpc
import pytest

from proto import api_pb2 as api
from tests.guest.service import Service, keyed, read
from tests.guest.test_limits import HOLD, MIB

DISK = "LABEL=swap"


@pytest.fixture(autouse=True, scope="module")
def swap(service: Service) -> Iterator[None]:
    """The daemon learns at its start whether there is any. Those that come after these tests restart it, too."""
    subprocess.run(["swapon", DISK], check=True)
    service.restart()
    yield
    subprocess.run(["swapoff", DISK], check=True)


def hold_30_mebibytes(crisp: Service) -> str:
    """A container that may have 96 MiB of memory, and no swap."""
    script = HOLD % 30
    container = crisp.start_container(
        "sh", "-c", script, memory_limit_in_bytes=96 * MIB, memory_swap_limit_in_bytes=96 * MIB
    )
    crisp.says(container, "held")
    return container


def test_a_limit_of_memory_and_swap_is_split_into_both(crisp: Service) -> None:
    container = crisp.start_container(memory_limit_in_bytes=64 * MIB, memory_swap_limit_in_bytes=96 * MIB)
    assert [read(container, f"memory.{kind}max") for kind in ("", "swap.")] == [str(64 * MIB), str(32 * MIB)]
    linux = crisp.status(container).resources.linux
    assert (linux.memory_limit_in_bytes, linux.memory_swap_limit_in_bytes) == (64 * MIB, 96 * MIB)
    for memory, total in ((128, 128), (32, 96), (64, 64)):
        crisp.update(container, memory_limit_in_bytes=memory * MIB, memory_swap_limit_in_bytes=total * MIB)
        expected = [str(memory * MIB), str((total - memory) * MIB)]
        assert [read(container, f"memory.{kind}max") for kind in ("", "swap.")] == expected


def test_memory_without_leave_to_swap_counts_as_used_also_where_there_is_swap(crisp: Service) -> None:
    container = hold_30_mebibytes(crisp)
    with pytest.raises(grpc.RpcError, match="below the"):
        crisp.update(container, memory_limit_in_bytes=20 * MIB, memory_swap_limit_in_bytes=20 * MIB)
    assert read(container, "memory.max") == str(96 * MIB)
    assert keyed(container, "memory.events")["oom_kill"] == 0
    assert crisp.status(container).state == api.CONTAINER_RUNNING


def test_what_may_be_swapped_makes_room_for_a_lower_limit(crisp: Service) -> None:
    container = hold_30_mebibytes(crisp)
    crisp.update(container, memory_limit_in_bytes=20 * MIB, memory_swap_limit_in_bytes=84 * MIB)
    assert [read(container, f"memory.{kind}max") for kind in ("", "swap.")] == [str(20 * MIB), str(64 * MIB)]
    assert int(read(container, "memory.swap.current")) > 0
    assert keyed(container, "memory.events")["oom_kill"] == 0
    stats = crisp.runtime.ContainerStats(api.ContainerStatsRequest(container_id=container)).stats
    assert stats.swap.swap_usage_bytes.value > 0
