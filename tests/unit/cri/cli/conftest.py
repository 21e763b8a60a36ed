"""A daemon's sockets without the daemon: what the subcommands ask is answered by hand."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from cri.__main__ import main
from proto import admin_pb2 as pb
from proto import admin_pb2_grpc


class FakeAdmin(admin_pb2_grpc.AdminServicer):
    """``refuse`` is a status that every call ends with; ``asked`` are the requests."""

    refuse: tuple[grpc.StatusCode, str] | None = None

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.images: list[pb.StoredImage] = []
        self.findings: list[pb.Finding] = []
        self.explanation = pb.ExplainResponse()
        self.info = pb.DaemonInfoResponse(version="9.9.9", pid=42, instance="0123abcd", settings_json="{}")

    def _take(self, request: Any, context: Any) -> None:
        self.asked.append(request)
        if self.refuse is not None:
            context.abort(*self.refuse)

    def DaemonInfo(self, request: Any, context: Any) -> Any:
        self._take(request, context)
        return self.info

    def Explain(self, request: Any, context: Any) -> Any:
        self._take(request, context)
        return self.explanation

    def ImportImage(self, request_iterator: Any, context: Any) -> Any:
        self._take(list(request_iterator), context)
        return pb.ImportImageResponse(images=self.images)

    def ListImages(self, request: Any, context: Any) -> Any:
        self._take(request, context)
        return pb.ListImagesResponse(images=self.images)

    def RemoveImage(self, request: Any, context: Any) -> Any:
        self._take(request, context)
        return pb.RemoveImageResponse(removed=self.images[0])

    def Fsck(self, request: Any, context: Any) -> Any:
        self._take(request, context)
        return pb.FsckResponse(findings=self.findings)


@pytest.fixture
def state() -> Iterator[Path]:
    """A short path: the name of a unix socket has 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="crisp-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def admin(state: Path) -> Iterator[FakeAdmin]:
    """Serves on ``<state>/admin.sock``."""
    fake = FakeAdmin()  # type: ignore[abstract]
    server = grpc.server(ThreadPoolExecutor(2))
    admin_pb2_grpc.add_AdminServicer_to_server(fake, server)
    server.add_insecure_port(f"unix:{state}/admin.sock")
    server.start()
    yield fake
    server.stop(0).wait()


@pytest.fixture
def crisp(state: Path) -> Callable[..., int]:
    """Runs a subcommand against ``state``."""

    def call(*argv: str) -> int:
        return main([*argv, f"--state={state}", f"--root={state}/root"])

    return call


@pytest.fixture
def args() -> argparse.Namespace:
    return argparse.Namespace(config=None, root=None, state=None, output="table")
