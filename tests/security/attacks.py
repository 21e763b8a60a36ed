"""What the tests of this tier ask of a daemon, beyond what kubelet would.

Invariant: no method expects success or failure unless its name says so.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import tempfile
from collections.abc import Awaitable, Iterable, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from proto import admin_pb2, admin_pb2_grpc
from proto import api_pb2 as api
from tests.cri.harness import Crisp
from tests.security.images import Member, extend_demo

IMAGE = "attack.local/base:latest"
NUMBERS = itertools.count(1)

Code = grpc.StatusCode


class Attacked(Crisp):
    """A daemon under attack."""

    async def image(self, members: Iterable[Member] = (), settings: dict[str, Any] | None = None) -> str:
        """The name of the base image, or of one with a layer of ``members`` and other ``settings`` on it."""
        members = list(members)
        name = IMAGE if not members and not settings else f"attack.local/n{next(NUMBERS)}:latest"
        await self.import_bytes(await asyncio.to_thread(extend_demo, name, members, settings))
        return name

    async def import_bytes(self, archive: bytes) -> None:
        with tempfile.TemporaryFile(dir=self.host.root) as spool:
            spool.write(archive)
            spool.flush()
            spool.seek(0)
            await self.host.images.import_archive(spool.fileno(), "")

    async def send_archive(self, archive: bytes) -> Any:
        """Import as ``crisp images import`` does it."""
        async with grpc.aio.insecure_channel(f"unix:{self.host.state}/admin.sock") as channel:
            stub: Any = admin_pb2_grpc.AdminStub(channel)

            def pieces() -> Iterator[admin_pb2.ImportImageRequest]:
                for at in range(0, len(archive), 1 << 20):
                    yield admin_pb2.ImportImageRequest(chunk=archive[at : at + (1 << 20)])

            return await stub.ImportImage(pieces())

    def attacker(self, *command: str, image: str = IMAGE, **changes: Any) -> api.ContainerConfig:
        """A container of the base image, or of ``image``; without a command that of the image."""
        config = self.container("x", name=f"c{next(NUMBERS)}", **changes)
        config.image.image = image
        del config.command[:]
        config.command.extend(command)
        return config

    async def output(self, sandbox: str, config: api.ContainerConfig) -> list[str]:
        """The lines that a container said until it ended."""
        id = await self.run(sandbox, config)
        await self.wait_exit(id)
        return self.log(id).splitlines()

    async def say(self, container: str, *command: str) -> str:
        """What a command in a container said, stderr after stdout."""
        answer = await self.exec(container, *command)
        return (answer.stdout + answer.stderr).decode(errors="replace").strip()

    async def call(self, container: str, *arguments: str | int) -> int:
        """The result of a system call in a container, or the negative errno."""
        return int(await self.say(container, "probe", "call", *map(str, arguments)))

    def pid(self, container: str) -> int:
        return int(self.host.store.containers.get(container).pid)

    def monitor_pid(self, sandbox: str) -> int:
        monitor = self.host.store.sandboxes.get(sandbox).monitor
        assert monitor is not None
        return int(monitor.pid)


async def refused(call: Awaitable[Any], code: grpc.StatusCode, words: str = "") -> str:
    """The message with which ``call`` was refused, which must have ``code`` and match ``words``."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    said = str(raised.value.details())
    assert raised.value.code() is code, said
    assert re.search(words, said), said
    return said


def status_of(pid: int) -> dict[str, str]:
    """/proc/PID/status as a dictionary."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def parse_status(text: str) -> dict[str, str]:
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


def mounts_of(pid: int | str = "self") -> list[str]:
    return Path(f"/proc/{pid}/mountinfo").read_text().splitlines()


def is_readonly(path: str) -> bool:
    fd = os.open(path, os.O_PATH)
    try:
        return bool(os.fstatvfs(fd).f_flag & os.ST_RDONLY)
    finally:
        os.close(fd)
