"""One case of an image operation: what happens at a point of it; then all must be well again.

``run_case`` is the whole of it, ``test_images`` runs it for every point and action. The image
comes from a registry or an archive of this process.

Invariant: after a case the daemon serves, has no image, and the host has nothing of one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from cri.demo_image import ARCHITECTURES
from proto import admin_pb2 as admin
from proto import api_pb2 as api
from runtime.images.stages import IMPORT, PULL, REMOVE
from runtime.images.stages import points as stage_points
from tests.failpoints.cases import CANCEL, FAIL, KILL, KILL_MONITORS, waiting_at
from tests.failpoints.points import Point
from tests.failpoints.serving import PATIENCE, Daemon, wait_for
from tests.failpoints.truth import mounts_below, settled
from tests.unit.runtime.images import tars
from tests.unit.runtime.images.registries import FakeRegistry, digest_of, image_documents

OPERATIONS = (PULL, IMPORT, REMOVE)
KILL_WORKER = "kill-worker"
WORKING = ("unpack_archive:mid", "unpack_layer:mid")
"""Where a worker has taken a part of its bytes and waits for more."""

ARCHITECTURE = ARCHITECTURES[os.uname().machine]
LARGE = random.Random(7).randbytes(3 << 20)
"""Much more than a pipe holds, and no compression makes it less."""

LAYERS = (
    tars.archive(tars.directory(b"tmp", 0o1777), tars.entry(b"bin/sh", b"#!", mode=0o755)),
    tars.archive(tars.entry(b"large", LARGE)),
    tars.archive(tars.entry(b"tmp/implied", b"y"), tars.entry(b"bin/.wh.sh")),
)


@dataclass(frozen=True, slots=True)
class Source:
    """Where the image comes from; ``name`` is its reference in the registry, ``archive`` a file."""

    name: str
    archive: bytes

    def ask(self, daemon: Daemon, operation: str) -> Any:
        """The call of ``operation``, which is on its way when this returns."""
        spec = api.ImageSpec(image=self.name)
        if operation == PULL:
            return daemon.images.PullImage.future(api.PullImageRequest(image=spec))
        if operation == REMOVE:
            return daemon.images.RemoveImage.future(api.RemoveImageRequest(image=spec))
        size = 1_000_000
        pieces = (self.archive[at : at + size] for at in range(0, len(self.archive), size))
        named = [admin.ImportImageRequest(reference=self.name)]
        chunks = [admin.ImportImageRequest(chunk=piece) for piece in pieces]
        return daemon.admin.ImportImage.future(iter([*named, *chunks]))

    def attempt(self, daemon: Daemon, operation: str) -> grpc.RpcError | None:
        error: grpc.RpcError | None = self.ask(daemon, operation).exception(PATIENCE)
        return error


@contextlib.contextmanager
def offering() -> Iterator[Source]:
    """A registry that serves the image, in a thread of its own, and the archive."""
    loop, registry = asyncio.new_event_loop(), FakeRegistry()
    thread = threading.Thread(target=loop.run_forever, name="registry")
    thread.start()

    def run(work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, loop).result(PATIENCE)

    try:
        run(registry.__aenter__())
        registry.add_image("app", "v1", LAYERS, architecture=ARCHITECTURE)
        yield Source(f"{registry.domain}/app:v1", archive())
    finally:
        run(registry.__aexit__())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE)
        loop.close()


def archive() -> bytes:
    """As docker saves it, without a name."""
    config, _ = image_documents(LAYERS, architecture=ARCHITECTURE)
    files = {f"{number}/layer.tar".encode(): layer for number, layer in enumerate(LAYERS)}
    config_name = f"{digest_of(config).removeprefix('sha256:')}.json"
    names = ", ".join(f'"{name.decode()}"' for name in files)
    listed = f'[{{"Config": "{config_name}", "RepoTags": null, "Layers": [{names}]}}]'.encode()
    files |= {b"manifest.json": listed, config_name.encode(): config}
    return tars.archive(*(tars.entry(name, content) for name, content in files.items()))


def all_points() -> list[Point]:
    """Of every operation, each with the one between its result and its answer."""
    return [
        Point(operation, name) for operation in OPERATIONS for name in (*stage_points(operation), f"{operation}:answer")
    ]


def actions_at(point: Point) -> tuple[str, ...]:
    common = (FAIL, KILL, KILL_MONITORS, CANCEL)
    return (*common, KILL_WORKER) if point.name.endswith(WORKING) else common


# ---------------------------------------------------------------------------- a case


def run_case(daemon: Daemon, source: Source, point: Point, action: str) -> None:
    if point.operation == REMOVE:
        assert not source.attempt(daemon, PULL)
    interrupt(daemon, source, point, action)
    check_nothing_is_half_done(daemon)
    error = source.attempt(daemon, point.operation)
    assert not error, f"the identical request is refused: {error}"
    if point.operation != REMOVE:
        check_image(daemon, source)
        assert not source.attempt(daemon, REMOVE)
    check_nothing_remains(daemon)


def interrupt(daemon: Daemon, source: Source, point: Point, action: str) -> None:
    if action in (CANCEL, KILL_WORKER):
        return interrupt_waiting(daemon, source, point, action)
    passed = daemon.hits(point.name)
    daemon.arm(point.name, action, 1)
    error = source.attempt(daemon, point.operation)
    if action == KILL:
        assert error, f"{point} was not passed: the daemon lives"
        assert daemon.reap() == -signal.SIGKILL
        daemon.start()
        return
    assert daemon.hits(point.name) > passed, f"{point} was not passed"
    assert error or action == KILL_MONITORS, f"{point} failed, but {point.operation} succeeded"


def interrupt_waiting(daemon: Daemon, source: Source, point: Point, action: str) -> None:
    """The client leaves, or the workers are killed, while the operation waits at the point."""
    daemon.arm(point.name, "hang")
    call = source.ask(daemon, point.operation)
    wait_for(lambda: call.done() or waiting_at(daemon, point), f"{point} to be passed")
    assert not call.done(), f"{point} was not passed"
    if action == CANCEL:
        call.cancel()
    else:
        wait_for(lambda: workers_of(daemon), "a worker in its jail")
        for pid in workers_of(daemon):
            os.kill(pid, signal.SIGKILL)
    daemon.arm(point.name, "off")
    if action == KILL_WORKER:
        error = call.exception(PATIENCE)
        assert error and error.code() is grpc.StatusCode.UNAVAILABLE, f"the worker is dead, and the answer {error}"


def check_image(daemon: Daemon, source: Source) -> None:
    """It is listed, and its layers hold what they have to."""
    (image,) = listed(daemon)
    assert list(image.repo_tags) == [source.name]
    trees = {path: path.parent.name for path in (daemon.root / "layers").glob("*/fs/large")}
    assert [path.read_bytes() == LARGE for path in trees] == [True]
    (implied,) = (daemon.root / "layers").glob("*/fs/tmp/implied")
    assert implied.parent.stat().st_mode & 0o7777 == 0o1777  # as the layer below says


def listed(daemon: Daemon) -> list[api.Image]:
    return list(daemon.images.ListImages(api.ListImagesRequest()).images)


# ---------------------------------------------------------------------------- what is left


def workers_of(daemon: Daemon) -> set[int]:
    """Processes that work on a directory of this daemon, as the mounts that they see tell."""
    found, place = set(), f"{daemon.folder.name}/root/layers"
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if not name.isdigit() or Path(f"/proc/{name}/comm").read_text() != "crisp-worker\n":
                continue
            if place in Path(f"/proc/{name}/mountinfo").read_text():
                found.add(int(name))
    return found


def find_half_done(daemon: Daemon) -> list[str]:
    """What is neither whole nor gone."""
    layers = daemon.root / "layers"
    return [
        *(f"directory {name}" for name in os.listdir(layers) if name.startswith(".tmp-")),
        *(f"trash {name}" for name in os.listdir(layers / ".trash")),
        *(f"worker {pid}" for pid in workers_of(daemon)),
        *(f"mount {point}" for point in mounts_below(daemon.folder) if point != str(daemon.root)),
        *(f"file {path}" for path in daemon.root.iterdir() if path.name.startswith("tmp")),
        *(f"fsck: {line}" for line in daemon.fsck()),
    ]


def find_remains(daemon: Daemon) -> list[str]:
    """What the host still has of a daemon that has no images."""
    return [
        *find_half_done(daemon),
        *(f"layer {name}" for name in os.listdir(daemon.root / "layers") if name != ".trash"),
        *(f"image {each.id}" for each in listed(daemon)),
    ]


def check_nothing_is_half_done(daemon: Daemon) -> None:
    """Whole layers may be there, for the next try."""
    check(find_half_done, daemon)


def check_nothing_remains(daemon: Daemon) -> None:
    check(find_remains, daemon)


def check(find: Callable[[Daemon], list[str]], daemon: Daemon) -> None:
    remains = settled(find, daemon)
    assert not remains, "remains:\n  " + "\n  ".join(remains)
