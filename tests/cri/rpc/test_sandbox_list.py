"""ListPodSandbox: the filter's fields, shortened ids, and what an item shows."""

from __future__ import annotations

from proto import api_pb2 as api
from tests.cri.harness import Crisp


async def ids(crisp: Crisp, **wanted: object) -> set[str]:
    request = api.ListPodSandboxRequest(filter=api.PodSandboxFilter(**wanted))  # type: ignore[arg-type]
    return {item.id for item in (await crisp.runtime.ListPodSandbox(request)).items}


async def test_every_field_of_the_filter_narrows_the_list(crisp: Crisp) -> None:
    ready = await crisp.run_pod(crisp.pod(labels={"tier": "web"}))
    stopped = await crisp.run_pod(crisp.pod(labels={"tier": "db"}))
    await crisp.runtime.StopPodSandbox(api.StopPodSandboxRequest(pod_sandbox_id=stopped))
    assert await ids(crisp) == {ready, stopped}
    assert await ids(crisp, id=ready[:12]) == {ready}
    assert await ids(crisp, state=api.PodSandboxStateValue(state=api.SANDBOX_READY)) == {ready}
    assert await ids(crisp, label_selector={"tier": "db"}) == {stopped}
    assert await ids(crisp, label_selector={"tier": "db"}, id=ready) == set()


async def test_an_item_shows_what_the_request_said(crisp: Crisp) -> None:
    config = crisp.pod(annotations={"a": "ü"})
    id = await crisp.run_pod(config)
    (item,) = (await crisp.runtime.ListPodSandbox(api.ListPodSandboxRequest())).items
    assert (item.id, item.metadata, item.labels) == (id, config.metadata, config.labels)
    assert item.annotations == config.annotations and item.created_at > 0


async def test_the_stream_has_what_the_list_has(crisp: Crisp) -> None:
    one, two = await crisp.run_pod(), await crisp.run_pod()

    async def streamed(**wanted: object) -> list[str]:
        request = api.StreamPodSandboxesRequest(filter=api.PodSandboxFilter(**wanted))  # type: ignore[arg-type]
        stream = crisp.runtime.StreamPodSandboxes(request)
        return [item.id async for answer in stream for item in answer.pod_sandboxes]

    assert await streamed() == [one, two]
    assert await streamed(id=two[:20]) == [two]
