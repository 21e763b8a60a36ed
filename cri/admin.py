"""What the ``crisp`` command asks the daemon over ``<state>/admin.sock``.

``proto/admin.proto`` describes the service, ``cri.cli`` is its client.

Invariant: nothing here can do what the CRI could not undo.
"""

from __future__ import annotations

import functools
import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec

from cri.fsck import fsck
from cri.host import Host
from cri.intent import ANSWER
from cri.path import path_of
from cri.rpc.image_remove import remove
from cri.server import Handler
from cri.state.records import ImageRecord, SandboxRecord, StageRecord
from cri.version import version
from proto import admin_pb2 as pb
from runtime.errors import InvalidArgument, NotFound

STARTED_AT = time.time_ns()


def handlers(host: Host) -> dict[str, Handler]:
    functions: dict[str, Callable[[Host, Any, Any], Awaitable[Any]]] = {
        "DaemonInfo": daemon_info,
        "Explain": explain,
        "ImportImage": import_image,
        "ListImages": list_images,
        "RemoveImage": remove_image,
        "Fsck": check_objects,
        "SetFailpoint": set_failpoint,
        "ListFailpoints": list_failpoints,
    }
    return {name: functools.partial(function, host) for name, function in functions.items()}


async def daemon_info(host: Host, _request: pb.DaemonInfoRequest, _context: Any) -> pb.DaemonInfoResponse:
    return pb.DaemonInfoResponse(
        version=version(),
        pid=os.getpid(),
        zygote_pid=host.supervisor.zygote_pid or 0,
        started_at=STARTED_AT,
        instance=host.instance,
        settings_json=msgspec.json.encode(host.settings).decode(),
    )


def find_pod(host: Host, wanted: str) -> SandboxRecord:
    """By id, shortened id, ``name`` or ``namespace/name``; the newest attempt.

    Raises:
        NotFound: there is none.
    """
    namespace, slash, name = wanted.rpartition("/")
    named = [
        record
        for record in host.store.sandboxes.values()
        if record.name == (name if slash else wanted) and (not slash or record.namespace == namespace)
    ]
    if named:
        return max(named, key=lambda record: (record.attempt, record.created_at))
    return host.store.sandboxes.get(wanted)


def stage(record: StageRecord, container_id: str = "", container_name: str = "") -> pb.Stage:
    return pb.Stage(
        step=record.step,
        describe=record.describe,
        began=record.began,
        took=record.took,
        error=record.error,
        container_id=container_id,
        container_name=container_name,
    )


async def explain(host: Host, request: pb.ExplainRequest, _context: Any) -> pb.ExplainResponse:
    record = find_pod(host, request.pod)
    stages = [(each.began, stage(each)) for each in record.stages]
    for container in host.store.containers_of(record.id):
        stages += [(each.began, stage(each, container.id, container.name)) for each in container.stages]
    return pb.ExplainResponse(
        pod_sandbox_id=record.id,
        name=record.name,
        namespace=record.namespace,
        uid=record.uid,
        state=record.state.value,
        reason=record.reason,
        addresses=record.addresses,
        monitor_pid=record.monitor.pid if record.monitor else 0,
        pause_pid=record.pause_pid,
        stages=[message for _, message in sorted(stages, key=lambda each: each[0])],
        path=[
            pb.Hop(part=each.part, name=each.name, found=each.found, missing=each.missing)
            for each in await path_of(host, record)
        ],
    )


async def import_image(
    host: Host, requests: AsyncIterator[pb.ImportImageRequest], _context: Any
) -> pb.ImportImageResponse:
    """Spooled to disk first: both archive formats need to be read out of order."""
    reference = ""
    with tempfile.TemporaryFile(dir=host.root) as spool:
        async for message in requests:
            reference = reference or message.reference
            spool.write(message.chunk)
        if not spool.tell():
            raise InvalidArgument("the archive is empty", step="import")
        spool.flush()
        spool.seek(0)
        images = await host.images.import_archive(spool.fileno(), reference)
    await host.failpoints.hit(f"ImportImage:{ANSWER}")
    return pb.ImportImageResponse(images=[stored(each) for each in images])


def stored(image: ImageRecord) -> pb.StoredImage:
    return pb.StoredImage(
        id=image.id,
        repo_tags=image.repo_tags,
        repo_digests=image.repo_digests,
        size=image.size,
        created_at=image.created_at,
        pinned=image.pinned,
    )


async def list_images(host: Host, _request: pb.ListImagesRequest, _context: Any) -> pb.ListImagesResponse:
    return pb.ListImagesResponse(images=[stored(each) for each in host.images.all()])


async def remove_image(host: Host, request: pb.RemoveImageRequest, _context: Any) -> pb.RemoveImageResponse:
    removed = await remove(host, request.image)
    if removed is None:
        raise NotFound("does not exist", object=f"image {request.image}")
    return pb.RemoveImageResponse(removed=stored(removed))


async def check_objects(host: Host, request: pb.FsckRequest, _context: Any) -> pb.FsckResponse:
    findings = await fsck(host, repair=request.repair, checking=True)
    return pb.FsckResponse(
        findings=[
            pb.Finding(
                kind=each.kind, object=each.object, message=each.message, repaired=each.repaired, error=each.error
            )
            for each in findings
        ]
    )


async def set_failpoint(host: Host, request: pb.SetFailpointRequest, _context: Any) -> pb.SetFailpointResponse:
    host.failpoints.set(request.point, request.action, request.count)
    return pb.SetFailpointResponse()


async def list_failpoints(host: Host, _request: pb.ListFailpointsRequest, _context: Any) -> pb.ListFailpointsResponse:
    points = host.failpoints.points()
    return pb.ListFailpointsResponse(
        failpoints=[
            pb.Failpoint(point=each.point, action=each.action, hits=each.hits, waiting=each.waiting) for each in points
        ]
    )
