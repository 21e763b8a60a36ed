"""Ids of nothing, of several things and of what is in another state, over real gRPC: exactly one code each.

The numbers are the rows of the table of bad inputs that the code was written against.
"""

from __future__ import annotations

import grpc
import grpc.aio
import pytest
from google.protobuf.message import Message

from proto import api_pb2 as api
from tests.security.input_row import FP, IA, NF, OK
from tests.security.place import Place, expect

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.leaks("module")]


async def test_ids_that_nothing_has_are_not_found_or_nothing_to_do(place: Place) -> None:
    """Rows 24 and 25."""
    runtime, none = place.crisp.runtime, "0" * 64
    rows: list[tuple[grpc.StatusCode, str, Message]] = [
        (NF, "PodSandboxStatus", api.PodSandboxStatusRequest(pod_sandbox_id=none)),
        (NF, "ContainerStatus", api.ContainerStatusRequest(container_id=none)),
        (NF, "StartContainer", api.StartContainerRequest(container_id=none)),
        (NF, "ExecSync", api.ExecSyncRequest(container_id=none, cmd=["true"])),
        (NF, "ContainerStats", api.ContainerStatsRequest(container_id=none)),
        (NF, "ReopenContainerLog", api.ReopenContainerLogRequest(container_id=none)),
        (
            NF,
            "UpdateContainerResources",
            api.UpdateContainerResourcesRequest(container_id=none, linux=api.LinuxContainerResources(cpu_shares=2)),
        ),
        (NF, "PodSandboxStats", api.PodSandboxStatsRequest(pod_sandbox_id=none)),
        (NF, "PodSandboxStats", api.PodSandboxStatsRequest()),  # kubelet's question whether the RPC is there
        (
            NF,
            "UpdatePodSandboxResources",
            api.UpdatePodSandboxResourcesRequest(
                pod_sandbox_id=none, resources=api.LinuxContainerResources(cpu_shares=2)
            ),
        ),
        (OK, "ListPodSandboxStats", api.ListPodSandboxStatsRequest(filter=api.PodSandboxStatsFilter(id=none))),
        (OK, "ListContainerStats", api.ListContainerStatsRequest(filter=api.ContainerStatsFilter(id="../%"))),
        (OK, "StopPodSandbox", api.StopPodSandboxRequest(pod_sandbox_id=none)),
        (OK, "RemovePodSandbox", api.RemovePodSandboxRequest(pod_sandbox_id=none)),
        (OK, "StopContainer", api.StopContainerRequest(container_id=none)),
        (OK, "RemoveContainer", api.RemoveContainerRequest(container_id=none)),
    ]
    for code, name, request in rows:
        await expect(place, code, "", getattr(runtime, name), request)


async def test_an_id_that_is_none_is_refused(place: Place) -> None:
    """An empty id and one that is a path or a pattern; nothing is stopped by mistake."""
    runtime = place.crisp.runtime
    rows: list[tuple[str, Message]] = [
        ("PodSandboxStatus", api.PodSandboxStatusRequest()),
        ("ContainerStatus", api.ContainerStatusRequest()),
        ("StopPodSandbox", api.StopPodSandboxRequest()),
        ("RemovePodSandbox", api.RemovePodSandboxRequest()),
        ("StopContainer", api.StopContainerRequest()),
        ("RemoveContainer", api.RemoveContainerRequest()),
        ("ExecSync", api.ExecSyncRequest(cmd=["true"])),
        ("ContainerStats", api.ContainerStatsRequest()),
        (
            "UpdatePodSandboxResources",
            api.UpdatePodSandboxResourcesRequest(resources=api.LinuxContainerResources(cpu_shares=2)),
        ),
    ]
    for name, request in rows:
        await expect(place, IA, "empty", getattr(runtime, name), request)
    for path in ("../../etc", "*", "%", "_" * 64):
        await expect(place, OK, "", runtime.RemovePodSandbox, api.RemovePodSandboxRequest(pod_sandbox_id=path))
        await expect(place, NF, "", runtime.ContainerStatus, api.ContainerStatusRequest(container_id=path))


async def test_an_ambiguous_short_id_is_refused(place: Place) -> None:
    """Containers until two share a first digit: at most 17."""
    seen: dict[str, str] = {}
    while True:
        id = await place.crisp.create(place.pod, place.crisp.attacker("true"))
        if id[0] in seen:
            break
        seen[id[0]] = id
    request = api.StopContainerRequest(container_id=id[0])
    await expect(place, IA, "ambiguous", place.crisp.runtime.StopContainer, request)
    await expect(place, OK, "", place.crisp.runtime.ContainerStatus, api.ContainerStatusRequest(container_id=id[:20]))


async def test_states_do_not_allow_everything(place: Place) -> None:
    """Rows 26 and 27: starting twice, commands where nothing runs."""
    runtime, crisp = place.crisp.runtime, place.crisp
    await expect(place, FP, "", runtime.StartContainer, api.StartContainerRequest(container_id=place.running))
    asked = api.ExecSyncRequest(container_id=place.created, cmd=["true"])
    await expect(place, FP, "", runtime.ExecSync, asked)
    ended = await crisp.run(place.pod, crisp.attacker("true"))
    await crisp.wait_exit(ended)
    await expect(place, FP, "", runtime.StartContainer, api.StartContainerRequest(container_id=ended))
    asked = api.ExecSyncRequest(container_id=ended, cmd=["true"])
    await expect(place, FP, "", runtime.ExecSync, asked)
    config = crisp.attacker("true")
    config.linux.security_context.namespace_options.pid = api.TARGET
    config.linux.security_context.namespace_options.target_id = ended
    request = api.CreateContainerRequest(pod_sandbox_id=place.pod, config=config)
    await expect(place, FP, "running|does not run", runtime.CreateContainer, request)
