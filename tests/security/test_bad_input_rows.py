"""The table of bad inputs, row by row: each gets exactly its code, and is followed by the leak check.

Three looks follow each input: ``Place.made`` (records, directories, cgroups, layers, links), the
daemon's own look for what belongs to nobody, and that of ``tests.leaks`` at the whole host.
"""

from __future__ import annotations

import asyncio

import pytest

from cri.fsck import fsck
from proto import api_pb2 as api
from tests import leaks
from tests.security.attacks import Code, refused
from tests.security.bad_images import ROWS as OF_IMAGES
from tests.security.bad_requests import ROWS as OF_REQUESTS
from tests.security.input_row import Row, Try
from tests.security.place import Place

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.leaks("module")]

ROWS = [*OF_IMAGES, *OF_REQUESTS]
CASES = [(row, each) for row in ROWS for each in row.tries.values()]
NAMES = [f"{row.number:02} {row.text}: {name}" for row in ROWS for name in row.tries]


async def test_the_table_has_all_its_rows_in_order(place: Place) -> None:
    assert [row.number for row in ROWS] == list(range(1, 46))
    assert all(row.tries for row in ROWS)
    assert await fsck(place.crisp.host, repair=False) == []


@pytest.mark.parametrize(("row", "each"), CASES, ids=NAMES)
async def test_a_row_gets_its_code_and_leaves_nothing(row: Row, each: Try, place: Place) -> None:
    """CVE-2021-32760, CVE-2022-0811, CVE-2023-2431, CVE-2024-3727, CVE-2025-0750 and the rest of the table."""
    before, known, outside = place.made(), identities(place), leaks.snapshot()
    if each.code is Code.OK:
        answer = await each.ask(place)
        if each.check is not None:
            await each.check(place, answer)
    else:
        await refused(each.ask(place), each.code, each.words)
    if each.code is not Code.OK and not each.prepares:
        assert place.made() == before
    await remove_others(place, known)
    await place.crisp.until(lambda: place.made() == before)  # a link goes with its namespace, a moment later
    assert await fsck(place.crisp.host, repair=False) == []
    await place.crisp.end_of_tasks()
    assert await asyncio.to_thread(leaks.new_since, outside) == []


def identities(place: Place) -> set[str]:
    host = place.crisp.host
    return {record.id for record in (*host.store.sandboxes, *host.store.containers, *host.images.all())}


async def remove_others(place: Place, known: set[str]) -> None:
    """What was accepted is removed again."""
    host, runtime = place.crisp.host, place.crisp.runtime
    for pod in {record.id for record in host.store.sandboxes} - known:
        await runtime.RemovePodSandbox(api.RemovePodSandboxRequest(pod_sandbox_id=pod))
    for container in {record.id for record in host.store.containers} - known:
        await runtime.RemoveContainer(api.RemoveContainerRequest(container_id=container))
    for image in {record.id for record in host.images.all()} - known:
        await place.crisp.images.RemoveImage(api.RemoveImageRequest(image=api.ImageSpec(image=image)))
