"""RemoveContainer: killed, its places gone, its name free again."""

from __future__ import annotations

import os

from proto import api_pb2 as api
from tests.cri.harness import Crisp


async def remove(crisp: Crisp, id: str) -> None:
    await crisp.runtime.RemoveContainer(api.RemoveContainerRequest(container_id=id))


async def test_a_running_container_is_killed_and_leaves_nothing(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    id = await crisp.run(sandbox)
    pid = crisp.host.store.containers.get(id).pid
    await remove(crisp, id)
    assert id not in crisp.host.store.containers
    assert not os.path.exists(f"/proc/{pid}")
    assert not os.path.exists(crisp.host.container_directory(id))
    assert not any(
        os.path.isdir(f"{tree.mount}/crisp-{crisp.host.instance}/{sandbox}/{id}") for tree in crisp.host.layout.v1
    )


async def test_what_a_container_has_written_is_deleted_in_the_background(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    id = await crisp.run(sandbox)
    await crisp.exec(id, "sh", "-c", "mkdir -p /a/b && echo x > /a/b/file && ln -s /etc /a/link")
    await remove(crisp, id)
    assert os.listdir(crisp.host.root / "trash") != []
    await crisp.settle()
    assert os.listdir(crisp.host.root / "trash") == []


async def test_the_name_is_free_again_and_a_second_removal_is_fine(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    first = await crisp.run(sandbox)
    await remove(crisp, first)
    second = await crisp.run(sandbox)
    assert second != first
    await remove(crisp, first)
    await remove(crisp, "unknown")
    assert [record.id for record in crisp.host.store.containers] == [second]


async def test_a_created_container_is_removed_too(crisp: Crisp) -> None:
    id = await crisp.create(await crisp.run_pod())
    await remove(crisp, id[:12])
    assert len(crisp.host.store.containers) == 0
