"""Well-formed random requests: each is answered with a reason or carried out, and leaves nothing.

The daemon never says UNKNOWN or INTERNAL: what a request asks for and cannot have is the
request's fault, or a state's, and never an accident. In CI the requests are the same each time;
``make test-attacks REQUESTS=5000`` makes as many new ones of each kind.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Iterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from cri.fsck import fsck
from proto import api_pb2 as api
from tests import leaks
from tests.security.attacks import Code, mounts_of
from tests.security.place import Place
from tests.security.random_messages import SCRATCH, messages

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.leaks("module")]

ASKED = os.environ.get("CRISP_RANDOM_REQUESTS", "")
RANDOMLY = settings(
    max_examples=int(ASKED or 300),
    derandomize=not ASKED,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
PATIENCE = 30
"""Seconds for one answer."""

SLOW = {"kubernetes.io/ingress-bandwidth": "10M", "kubernetes.io/egress-bandwidth": "10M"}
ACCIDENTS = (Code.UNKNOWN, Code.INTERNAL, Code.DEADLINE_EXCEEDED, Code.UNAVAILABLE)


@pytest.fixture(scope="module")
def scratch() -> Iterator[None]:
    """What the paths of ``random_messages`` lead to."""
    folder = Path(SCRATCH)
    for name in ("directory", "shared"):
        (folder / name).mkdir(parents=True)
    (folder / "file").write_text("{}")
    (folder / "link").symlink_to(folder / "directory")
    os.mkfifo(folder / "pipe")
    subprocess.run(["mount", "-t", "tmpfs", "none", folder / "shared"], check=True)
    try:
        subprocess.run(["mount", "--make-shared", folder / "shared"], check=True)
        yield
    finally:
        subprocess.run(["umount", folder / "shared"], check=True)
        shutil.rmtree(folder)


@pytest_asyncio.fixture(loop_scope="module")
async def quiet(place: Place, scratch: None) -> AsyncIterator[Place]:
    """The place, and the look at the whole host after the test."""
    ports = [api.PortMapping(protocol=api.UDP, container_port=80, host_port=8081)]  # opens what stays open
    await place.crisp.run_pod(place.crisp.pod(port_mappings=ports, annotations=SLOW))
    await remove_others(place)
    before = leaks.snapshot()
    yield place
    await place.crisp.host.trash.empty()  # a worker each for thousands of containers
    await place.crisp.end_of_tasks()
    assert await fsck(place.crisp.host, repair=False) == []
    assert await asyncio.to_thread(leaks.new_since, before) == []


async def remove_others(place: Place) -> None:
    """Pods but those of the place."""
    for record in list(place.crisp.host.store.sandboxes):
        if record.id not in (place.pod, place.stopped_pod):
            await place.crisp.runtime.RemovePodSandbox(api.RemovePodSandboxRequest(pod_sandbox_id=record.id))


async def answer_of(call: Awaitable[Any]) -> Any:
    """The answer, None if it is an error that explains itself."""
    try:
        answer = await call
        event("carried out")
        return answer
    except grpc.aio.AioRpcError as error:
        event(error.code().name)
        assert error.code() not in ACCIDENTS, f"{error.code()}: {error.details()}"
        assert error.details()
        return None


async def nothing_new(place: Place, before: tuple[object, list[str]]) -> None:
    await place.crisp.until(lambda: (place.made(), mounts_of()) == before, 10)


@RANDOMLY
@given(
    random=messages(api.PodSandboxConfig),
    plain=st.integers(0, 4),
    mapped=st.integers(0, 3),
    handler=st.sampled_from([*[""] * 8, "crisp", "kata"]),
)
async def test_a_random_pod_is_made_or_refused(
    random: api.PodSandboxConfig, plain: int, mapped: int, handler: str, quiet: Place
) -> None:
    """RunPodSandbox; four of five are an ordinary pod with random changes, some in a user namespace."""
    place, crisp = quiet, quiet.crisp
    before = place.made(), mounts_of()
    config = crisp.pod() if plain else api.PodSandboxConfig()
    if mapped == 3:
        options = config.linux.security_context.namespace_options.userns_options
        for field in (options.uids, options.gids):
            field.append(api.IDMapping(host_id=600_000, length=65_536))
    config.MergeFrom(random)
    request = api.RunPodSandboxRequest(config=config, runtime_handler=handler)
    answer = await answer_of(crisp.runtime.RunPodSandbox(request, timeout=PATIENCE))
    if answer is not None:
        id = answer.pod_sandbox_id
        try:
            await crisp.runtime.PodSandboxStatus(api.PodSandboxStatusRequest(pod_sandbox_id=id, verbose=True))
            await crisp.runtime.StopPodSandbox(api.StopPodSandboxRequest(pod_sandbox_id=id))
        finally:
            await crisp.runtime.RemovePodSandbox(api.RemovePodSandboxRequest(pod_sandbox_id=id))
    await nothing_new(place, before)


@RANDOMLY
@given(random=messages(api.ContainerConfig), plain=st.integers(0, 4), starts=st.booleans())
async def test_a_random_container_is_made_or_refused(
    random: api.ContainerConfig, plain: int, starts: bool, quiet: Place
) -> None:
    """CreateContainer, and the start of every second that was made."""
    place, crisp = quiet, quiet.crisp
    before = place.made(), mounts_of()
    config = crisp.attacker("sleep", "1000") if plain else api.ContainerConfig()
    config.MergeFrom(random)
    request = api.CreateContainerRequest(pod_sandbox_id=place.pod, config=config)
    answer = await answer_of(crisp.runtime.CreateContainer(request, timeout=PATIENCE))
    if answer is not None:
        id = answer.container_id
        started = api.StartContainerRequest(container_id=id)
        try:
            if starts:
                await answer_of(crisp.runtime.StartContainer(started, timeout=PATIENCE))
            await crisp.runtime.ContainerStatus(api.ContainerStatusRequest(container_id=id, verbose=True))
        finally:
            await crisp.runtime.RemoveContainer(api.RemoveContainerRequest(container_id=id))
    await nothing_new(place, before)


@RANDOMLY
@given(random=messages(api.UpdateContainerResourcesRequest), which=st.sampled_from(["running", "created", "nobody"]))
async def test_a_random_update_is_done_or_refused(
    random: api.UpdateContainerResourcesRequest, which: str, quiet: Place
) -> None:
    """UpdateContainerResources; a container that did not survive its new limits is followed by another."""
    place, crisp = quiet, quiet.crisp
    if (await crisp.status(place.running)).state != api.CONTAINER_RUNNING:
        await crisp.runtime.RemoveContainer(api.RemoveContainerRequest(container_id=place.running))
        place.running = await crisp.run(place.pod, crisp.attacker("sleep", "1000"))
    before = place.made(), mounts_of()
    random.container_id = getattr(place, which, "f" * 64)
    await answer_of(crisp.runtime.UpdateContainerResources(random, timeout=PATIENCE))
    assert place.made() == before[0]
    status = await crisp.status(place.running)
    assert status.state in (api.CONTAINER_RUNNING, api.CONTAINER_EXITED)
