"""Bad requests about pods and containers that are there, and about images: each one gets exactly its code.

The numbers are the rows of the table of bad inputs that the code was written against.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import text_format
from google.protobuf.message import Message

from proto import api_pb2 as api
from tests.security.attacks import Code
from tests.security.input_row import FP, IA, NF, OK, RE
from tests.security.place import Place, expect

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.leaks("module")]

UN = Code.UNIMPLEMENTED


async def test_the_smaller_requests_are_checked_too(place: Place) -> None:
    """Rows 38, 43 and 44, and image requests of row 14 (CVE-2024-3727)."""
    crisp, id = place.crisp, place.running
    runtime, images = crisp.runtime, crisp.images
    update = api.UpdateContainerResourcesRequest
    secret = api.AuthConfig(username="a", password="b")
    rows: list[tuple[grpc.StatusCode, str, Callable[[Any], Any], Message]] = [
        (IA, "cmd", runtime.ExecSync, api.ExecSyncRequest(container_id=id)),
        (IA, "cmd", runtime.ExecSync, api.ExecSyncRequest(container_id=id, cmd=[""])),
        (IA, "cmd", runtime.ExecSync, api.ExecSyncRequest(container_id=id, cmd=["a\0b"])),
        (IA, "timeout", runtime.ExecSync, api.ExecSyncRequest(container_id=id, cmd=["true"], timeout=-1)),
        (IA, "timeout", runtime.StopContainer, api.StopContainerRequest(container_id=id, timeout=-1)),
        (IA, "linux", runtime.UpdateContainerResources, update(container_id=id)),
        (
            IA,
            "memory",
            runtime.UpdateContainerResources,
            update(container_id=id, linux=api.LinuxContainerResources(memory_limit_in_bytes=-5)),
        ),
        (
            FP,
            "cpus",
            runtime.UpdateContainerResources,
            update(container_id=id, linux=api.LinuxContainerResources(cpuset_cpus="8000")),
        ),
        *(
            (code, words, runtime.UpdatePodSandboxResources, resize(place.pod, text))
            for code, words, text in (
                (IA, "missing", ""),
                (IA, "memory", "resources { memory_limit_in_bytes: -5 }"),
                (IA, "memory", "overhead { memory_limit_in_bytes: -5 }"),
                (IA, "shares", "resources { cpu_shares: -1 }"),
                (IA, "period", "resources { cpu_period: 999 }"),
                (IA, "cpus", 'resources { cpuset_cpus: "0-" }'),
                (FP, "cpus", 'resources { cpuset_cpus: "8000" }'),
                (IA, "unified", 'resources { unified { key: "../x" value: "1" } }'),
                (IA, "hugepage", 'resources { hugepage_limits { page_size: "2 MB" limit: 1 } }'),
            )
        ),
        (IA, "pod_cidr", runtime.UpdateRuntimeConfig, config_of("10.0.0.0/8,10.1.0.0/16")),
        (IA, "pod_cidr", runtime.UpdateRuntimeConfig, config_of("10.0.0.1/99")),
        (IA, "image", images.ImageStatus, api.ImageStatusRequest()),
        (IA, "image", images.PullImage, api.PullImageRequest()),
        (IA, "", images.PullImage, api.PullImageRequest(image=api.ImageSpec(image="x@sha256:../x"))),
        (IA, "", images.PullImage, api.PullImageRequest(image=api.ImageSpec(image="x@md5:" + "0" * 32))),
        (IA, "", images.PullImage, api.PullImageRequest(image=api.ImageSpec(image="localhost:99999/x"))),
        (FP, "authentication", images.PullImage, api.PullImageRequest(image=api.ImageSpec(image="x"), auth=secret)),
        (IA, "", images.RemoveImage, api.RemoveImageRequest(image=api.ImageSpec(image="../../x"))),
        (OK, "", images.RemoveImage, api.RemoveImageRequest(image=api.ImageSpec(image="nowhere.local/none:1"))),
    ]
    for code, words, method, request in rows:
        await expect(place, code, words, method, request)


def resize(pod: str, text: str) -> api.UpdatePodSandboxResourcesRequest:
    return text_format.Parse(text, api.UpdatePodSandboxResourcesRequest(pod_sandbox_id=pod))


def config_of(pod_cidr: str) -> api.UpdateRuntimeConfigRequest:
    network = api.NetworkConfig(pod_cidr=pod_cidr)
    return api.UpdateRuntimeConfigRequest(runtime_config=api.RuntimeConfig(network_config=network))


async def test_streaming_requests_are_refused_before_there_is_a_url(place: Place) -> None:
    """Rows 24, 43 and 44, and what does not run."""
    runtime, id, nobody = place.crisp.runtime, place.running, "f" * 64
    rows: list[tuple[grpc.StatusCode, str, Callable[[Any], Any], Message]] = [
        (NF, "", runtime.Exec, exec_of(nobody)),
        (NF, "", runtime.Attach, attach_of(nobody)),
        (NF, "", runtime.PortForward, forward_of(nobody, 80)),
        (IA, "stderr: a terminal", runtime.Exec, exec_of(id, tty=True, stderr=True)),
        (IA, "stderr: a terminal", runtime.Attach, attach_of(id, tty=True, stderr=True)),
        (IA, "none is asked for", runtime.Exec, exec_of(id, stdout=False)),
        (IA, "none is asked for", runtime.Exec, exec_of(id, stdout=False, tty=True)),
        (IA, "none is asked for", runtime.Attach, attach_of(id, stdout=False)),
        (IA, "cmd: is empty", runtime.Exec, exec_of(id, cmd=[])),
        (IA, r"cmd\[0\]: is empty", runtime.Exec, exec_of(id, cmd=["", "x"])),
        (IA, "cmd: has a NUL", runtime.Exec, exec_of(id, cmd=["a", "b\0c"])),
        (IA, r"port\[1\]: must be between", runtime.PortForward, forward_of(place.pod, 80, 65536)),
        (IA, r"port\[0\]: must be between", runtime.PortForward, forward_of(place.pod, 0)),
        (IA, r"port\[0\]: must be between", runtime.PortForward, forward_of(place.pod, -1)),
        (FP, "only a running container can be the target of an exec", runtime.Exec, exec_of(place.created)),
        (FP, "only a running container can be attached to", runtime.Attach, attach_of(place.created)),
        (FP, "only a ready pod can be forwarded to", runtime.PortForward, forward_of(place.stopped_pod, 80)),
    ]
    for code, words, method, request in rows:
        await expect(place, code, words, method, request)


def exec_of(id: str, **changes: Any) -> api.ExecRequest:
    return api.ExecRequest(**{"container_id": id, "cmd": ["true"], "stdout": True, **changes})


def attach_of(id: str, **changes: Any) -> api.AttachRequest:
    return api.AttachRequest(**{"container_id": id, "stdout": True, **changes})


def forward_of(id: str, *ports: int) -> api.PortForwardRequest:
    return api.PortForwardRequest(pod_sandbox_id=id, port=ports)


async def test_a_request_above_16_mib_is_too_large(place: Place) -> None:
    """Row 45."""
    config = place.crisp.attacker("true")
    config.envs.append(api.KeyValue(key="A", value=b"x" * (16 << 20)))
    request = api.CreateContainerRequest(pod_sandbox_id=place.pod, config=config)
    await expect(place, RE, "larger than max", place.crisp.runtime.CreateContainer, request)


async def test_an_rpc_that_is_not_there_says_so(place: Place) -> None:
    """CVE-2024-8676, CVE-2026-53489: checkpoints."""
    runtime = place.crisp.runtime
    rows: list[tuple[str, Message]] = [
        ("CheckpointContainer", api.CheckpointContainerRequest(container_id=place.running, location="/tmp/x.tar")),
        ("CheckpointPod", api.CheckpointPodRequest(pod_sandbox_id=place.pod, output_path="/tmp/x.tar")),
        ("RestorePod", api.RestorePodRequest(checkpoint_path="/tmp/x.tar")),
    ]
    for name, request in rows:
        await expect(place, UN, f"does not have {name} yet", getattr(runtime, name), request)
