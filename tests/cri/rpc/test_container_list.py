"""ListContainers: every field of the filter, shortened ids, and what an item shows."""

from __future__ import annotations

import time

import msgspec

from cri.rpc.container_list import list_containers
from proto import api_pb2 as api
from tests.cri.harness import Crisp


async def ids(crisp: Crisp, **wanted: object) -> set[str]:
    request = api.ListContainersRequest(filter=api.ContainerFilter(**wanted))  # type: ignore[arg-type]
    answer = await crisp.runtime.ListContainers(request)
    return {item.id for item in answer.containers}


async def test_every_field_of_the_filter_narrows_the_list(crisp: Crisp) -> None:
    first, second = await crisp.run_pod(), await crisp.run_pod()
    running = await crisp.run(first, crisp.container(labels={"tier": "web", "app": "a"}))
    created = await crisp.create(first, crisp.container(name="other", labels={"tier": "db"}))
    elsewhere = await crisp.create(second)
    assert await ids(crisp) == {running, created, elsewhere}
    assert await ids(crisp, id=running) == {running}
    assert await ids(crisp, id=running[:13]) == {running}
    assert await ids(crisp, id="no such id") == set()
    assert await ids(crisp, pod_sandbox_id=first[:13]) == {running, created}
    assert await ids(crisp, state=api.ContainerStateValue(state=api.CONTAINER_CREATED)) == {created, elsewhere}
    assert await ids(crisp, label_selector={"tier": "web"}) == {running}
    assert await ids(crisp, label_selector={"tier": "web"}, pod_sandbox_id=second) == set()


async def test_an_item_shows_what_the_request_said_byte_for_byte(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    config = crisp.container(labels={"ü": "\n"}, annotations={"a/b": "{}"})
    id = await crisp.create(sandbox, config)
    (item,) = (await crisp.runtime.ListContainers(api.ListContainersRequest())).containers
    assert (item.id, item.pod_sandbox_id, item.metadata) == (id, sandbox, config.metadata)
    assert (item.labels, item.annotations, item.image) == (config.labels, config.annotations, config.image)
    assert item.state == api.CONTAINER_CREATED and item.image_ref == item.image_id and item.created_at > 0


async def test_the_list_follows_a_container_through_its_states(crisp: Crisp) -> None:
    id = await crisp.create(await crisp.run_pod(), crisp.container("true"))
    assert await ids(crisp, state=api.ContainerStateValue(state=api.CONTAINER_CREATED)) == {id}
    await crisp.runtime.StartContainer(api.StartContainerRequest(container_id=id))
    await crisp.wait_exit(id)
    assert await ids(crisp, state=api.ContainerStateValue(state=api.CONTAINER_EXITED)) == {id}
    await crisp.runtime.RemoveContainer(api.RemoveContainerRequest(container_id=id))
    assert await ids(crisp) == set()


async def test_the_stream_has_what_the_list_has(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    one, two = [await crisp.create(sandbox, crisp.container(name=name, labels={"n": name})) for name in ("a", "b")]

    async def streamed(**wanted: object) -> list[str]:
        request = api.StreamContainersRequest(filter=api.ContainerFilter(**wanted))  # type: ignore[arg-type]
        return [item.id async for answer in crisp.runtime.StreamContainers(request) for item in answer.containers]

    assert await streamed() == [one, two]
    assert await streamed(label_selector={"n": "b"}) == [two]
    assert await streamed(id="no such id") == []


async def test_a_list_of_500_containers_costs_less_than_to_encode_them(crisp: Crisp) -> None:
    """Their items are kept; of the records alone: that containers exist makes no difference to a list."""
    sandbox = await crisp.run_pod()
    id = await crisp.create(sandbox, crisp.container(labels={"app": "web", "tier": "front"}))
    record, store = crisp.host.store.containers.get(id), crisp.host.store
    copies = [msgspec.structs.replace(record, id=f"{n:064x}", name=f"c{n}", attempt=n) for n in range(500)]
    for copy in copies:
        store.containers.put(copy)
    began = time.process_time()
    await list_containers(crisp.host, api.ListContainersRequest(), None)
    encoded = time.process_time() - began
    try:
        for wanted in (
            api.ContainerFilter(),
            api.ContainerFilter(label_selector={"app": "web"}, pod_sandbox_id=sandbox),
            api.ContainerFilter(id="0" * 60, state=api.ContainerStateValue(state=api.CONTAINER_CREATED)),
        ):
            request, taken = api.ListContainersRequest(filter=wanted), []
            for _ in range(10):
                began = time.process_time()
                answer = await list_containers(crisp.host, request, None)
                taken.append(time.process_time() - began)
            assert len(api.ListContainersResponse.FromString(answer).containers) >= 500
            assert min(taken) < encoded / 2, (taken, encoded)
    finally:
        for copy in copies:
            store.containers.remove(copy.id)
            crisp.host.forget(copy.id)
