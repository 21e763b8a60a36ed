"""Requests of the table of bad inputs that take more than one message: a state, a mount, a link of the host.

``bad_requests`` has the rows. Each leaves the host as it was; what was accepted the caller removes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc.aio

from proto import api_pb2 as api
from tests.security.input_row import FP, IA, Try
from tests.security.place import Place


async def same_name_twice(place: Place) -> Any:
    """A request whose answer was delivered."""
    config = place.crisp.pod()
    await place.crisp.run_pod(config)
    return await place.crisp.run_pod(config)


async def same_name_otherwise(place: Place) -> Any:
    config = place.crisp.pod()
    await place.crisp.run_pod(config)
    config.labels["other"] = "value"
    return await place.crisp.run_pod(config)


async def answer_never_delivered(place: Place) -> Any:
    """The client leaves before its answer; the identical request comes again. Both ids."""
    host, request = place.crisp.host, api.RunPodSandboxRequest(config=place.crisp.pod())
    point, host.failpoints.enabled = "RunPodSandbox:answer", True
    host.failpoints.set(point, "hang")

    def waits() -> bool:
        return any(each.waiting for each in host.failpoints.points())

    try:
        before = {record.id for record in host.store.sandboxes}
        call = place.crisp.runtime.RunPodSandbox(request)
        await place.crisp.until(waits)
        call.cancel()
        with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
            await call
        await place.crisp.until(lambda: not waits())  # until the daemon knows of it
    finally:
        host.failpoints.set(point, "off")
    (made,) = {record.id for record in host.store.sandboxes} - before
    return made, (await place.crisp.runtime.RunPodSandbox(request)).pod_sandbox_id


async def adopted(place: Place, answer: Any) -> None:
    assert answer[0] == answer[1]


async def joined_names(place: Place) -> Any:
    """Pods whose names are one and the same when they are joined by ``_``."""
    texts = ("name: 'a_b' namespace: 'c' uid: 'u'", "name: 'a' namespace: 'b_c' uid: 'u'")
    return [await place.crisp.run_pod(place.pod_with(f"metadata {{ {text} }}")) for text in texts]


async def different(place: Place, answer: Any) -> None:
    assert len(set(answer)) == 2


@contextlib.contextmanager
def private_mount() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["mount", "-t", "tmpfs", "none", folder], check=True)
        try:
            subprocess.run(["mount", "--make-private", folder], check=True)
            yield folder
        finally:
            subprocess.run(["umount", folder], check=True)


def from_private_source(propagation: str) -> Try:
    async def ask(place: Place) -> Any:
        with private_mount() as folder:
            text = f"mounts {{ container_path: '/a' host_path: '{folder}' propagation: {propagation} }}"
            return await place.crisp.create(place.pod, place.container_with(text))

    return Try(ask, FP, "not on a shared")


async def missing_host_path(place: Place) -> Any:
    """What a start makes of a source that is not there: the modes of its two directories, and its owner."""
    with tempfile.TemporaryDirectory() as folder:
        missing = f"{folder}/not/there"
        config = place.container_with(f"mounts {{ container_path: '/a' host_path: '{missing}' }}")
        await place.crisp.start(await place.crisp.create(place.pod, config))
        return [oct(os.stat(path).st_mode) for path in (missing, Path(missing).parent)] + [os.stat(missing).st_uid]


async def made_as_directories(place: Place, answer: Any) -> None:
    assert answer == ["0o40755", "0o40755", 0]


def log_through(*, parent: bool) -> Try:
    """A start whose log, or the directory of it, is a link of whoever may write there."""

    async def ask(place: Place) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            config = place.crisp.pod(log_directory=f"{folder}/logs")
            os.mkdir(config.log_directory)
            os.symlink(folder, f"{folder}/logs/{'main' if parent else 'main.log'}")
            log = "main/0.log" if parent else "main.log"
            id = await place.crisp.create(await place.crisp.run_pod(config), place.crisp.attacker("true", log_path=log))
            try:
                return await place.crisp.start(id)
            finally:
                assert os.listdir(folder) == ["logs"]

    return Try(ask, IA, "a link", prepares=True)


def target_of_another_pod() -> Try:
    async def ask(place: Place) -> Any:
        other = await place.crisp.run_pod()
        config = place.container_with("linux { security_context { namespace_options { pid: TARGET } } }")
        config.linux.security_context.namespace_options.target_id = place.running
        return await place.crisp.create(other, config)

    return Try(ask, IA, "names no container of this pod", prepares=True)
