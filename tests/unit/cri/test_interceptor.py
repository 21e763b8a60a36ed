"""Around every RPC: the gate, the code, the log line, the metric, each exactly once."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, NoReturn

import grpc
import grpc.aio
import pytest

from cri import interceptor
from cri.interceptor import Interceptor, bounded, ids_of, is_quiet
from cri.server import MESSAGE_LIMIT
from cri.turns import AT_ONCE
from proto import api_pb2 as api
from runtime.errors import NotFound, ResourceExhausted


class Context:
    """The part of a ServicerContext that is used."""

    def __init__(self) -> None:
        self.aborts: list[tuple[grpc.StatusCode, str]] = []

    async def abort(self, code: grpc.StatusCode, message: str) -> NoReturn:
        self.aborts.append((code, message))
        raise grpc.aio.AbortError


class Around:
    """An interceptor, its gate and what it observed."""

    def __init__(self, *, ready: bool = True) -> None:
        self.gate = asyncio.Event()
        if ready:
            self.gate.set()
        self.observed: list[tuple[str, str]] = []
        self.context: Any = Context()
        self.interceptor = Interceptor(self.gate, self.observe)

    def observe(self, rpc: str, code: str, seconds: float) -> None:
        assert seconds >= 0
        self.observed.append((rpc, code))

    async def call(self, name: str, handler: Any, request: Any = None) -> Any:
        try:
            return await self.interceptor.wrap(name, handler)(request, self.context)
        finally:
            await asyncio.sleep(0)  # the line is written after the answer


async def answer(_request: Any, _context: Any) -> str:
    return "answer"


async def test_an_answer_passes_and_is_counted_once() -> None:
    around = Around()
    assert await around.call("StopContainer", answer) == "answer"
    assert around.observed == [("StopContainer", "OK")] and around.context.aborts == []


async def test_a_fault_leaves_as_one_status_and_one_line(caplog: pytest.LogCaptureFixture) -> None:
    async def refuse(_request: Any, _context: Any) -> None:
        raise NotFound("does not exist", object="container abc")

    around = Around()
    request = api.StopContainerRequest(container_id="abc")
    with caplog.at_level(logging.WARNING), pytest.raises(grpc.aio.AbortError):
        await around.call("StopContainer", refuse, request)
    assert around.context.aborts == [(grpc.StatusCode.NOT_FOUND, "container abc: does not exist")]
    assert around.observed == [("StopContainer", "NOT_FOUND")]
    (record,) = caplog.records
    assert record.getMessage() == "StopContainer failed: NOT_FOUND: container abc: does not exist"
    assert record.__dict__["container_id"] == "abc" and record.__dict__["took_ms"] >= 0


async def test_a_status_of_what_is_gone_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    async def refuse(_request: Any, _context: Any) -> None:
        raise NotFound("does not exist", object="container abc")

    around = Around()
    with caplog.at_level(logging.DEBUG, logger="crisp.rpc"), pytest.raises(grpc.aio.AbortError):
        await around.call("ContainerStatus", refuse)
    (record,) = caplog.records
    assert record.levelno == logging.DEBUG and "does not exist" in record.getMessage()


async def test_a_client_that_leaves_is_counted_as_cancelled() -> None:
    async def hang(_request: Any, _context: Any) -> None:
        raise asyncio.CancelledError

    around = Around()
    with pytest.raises(asyncio.CancelledError):
        await around.call("ExecSync", hang)
    assert around.observed == [("ExecSync", "CANCELLED")] and around.context.aborts == []


async def test_what_a_handler_aborted_itself_is_left_alone() -> None:
    async def abort(_request: Any, context: Context) -> None:
        await context.abort(grpc.StatusCode.ABORTED, "mine")

    around = Around()
    with pytest.raises(grpc.aio.AbortError):
        await around.call("ExecSync", abort)
    assert around.context.aborts == [(grpc.StatusCode.ABORTED, "mine")]


async def test_rpcs_wait_for_the_recovery_but_version_and_status_do_not() -> None:
    around = Around(ready=False)
    for name in ("Version", "Status", "RuntimeConfig"):
        assert await around.call(name, answer) == "answer"
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(around.call("ListContainers", answer))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        around.gate.set()
    assert waiting.result() == "answer"


async def test_a_recovery_that_takes_too_long_makes_rpcs_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interceptor, "GATE_WAIT", 0.01)
    around = Around(ready=False)
    with pytest.raises(grpc.aio.AbortError):
        await around.call("RunPodSandbox", answer)
    ((code, message),) = around.context.aborts
    assert code is grpc.StatusCode.UNAVAILABLE and "recovering" in message


@pytest.mark.parametrize(
    ("name", "quiet"),
    [
        *((name, True) for name in ("Version", "Status", "ListContainers", "ContainerStatus", "PodSandboxStatus")),
        *((name, True) for name in ("ContainerStats", "ListContainerStats", "ImageFsInfo", "RuntimeConfig")),
        *((name, False) for name in ("RunPodSandbox", "ExecSync", "PullImage", "UpdateRuntimeConfig", "RemoveImage")),
    ],
)
async def test_what_only_reads_is_logged_at_debug(name: str, quiet: bool, caplog: pytest.LogCaptureFixture) -> None:
    assert is_quiet(name) is quiet
    around = Around()
    with caplog.at_level(logging.DEBUG, logger="crisp.rpc"):
        await around.call(name, answer)
    (record,) = caplog.records
    assert record.levelno == (logging.DEBUG if quiet else logging.INFO)
    assert record.getMessage() == f"{name} OK" and record.__dict__["took_ms"] >= 0


def test_a_log_line_carries_the_ids_that_the_request_names() -> None:
    request = api.CreateContainerRequest(pod_sandbox_id="p")
    assert ids_of(request) == {"sandbox_id": "p"}
    assert ids_of(api.ExecSyncRequest(container_id="c")) == {"container_id": "c"}
    assert ids_of(api.VersionRequest()) == {} and ids_of(None) == {}


async def test_an_answer_that_no_client_takes_is_refused_in_words() -> None:
    around = Around()

    async def large(_request: Any, _context: Any) -> bytes:
        return b"x" * (MESSAGE_LIMIT + 1)

    for name in ("ListContainers", "ContainerStatus"):
        with pytest.raises(grpc.aio.AbortError):
            await around.call(name, large)
    codes = {code for code, _ in around.context.aborts}
    assert codes == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert "Stream RPC" in around.context.aborts[0][1] and "Stream RPC" not in around.context.aborts[1][1]
    message = api.ExecSyncResponse(stdout=b"x" * MESSAGE_LIMIT)
    with pytest.raises(ResourceExhausted):
        bounded("ExecSync", message)
    assert bounded("ExecSync", api.ExecSyncResponse(stdout=b"x")).stdout == b"x"


async def test_what_changes_something_takes_turns_and_what_reads_does_not() -> None:
    around, began, go = Around(), [], asyncio.Event()

    async def work(request: Any, _context: Any) -> None:
        began.append(request)
        await go.wait()

    async with asyncio.TaskGroup() as group:
        for number in range(AT_ONCE + 2):
            group.create_task(around.call("StartContainer", work, number))
        await asyncio.sleep(0.01)
        assert began == list(range(AT_ONCE))
        assert await around.call("Version", answer) == "answer"
        go.set()
    assert len(began) == AT_ONCE + 2


async def test_a_log_line_carries_the_id_that_the_answer_gives(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "crisp.rpc")

    async def made(_request: Any, _context: Any) -> api.RunPodSandboxResponse:
        return api.RunPodSandboxResponse(pod_sandbox_id="new")

    await Around().call("RunPodSandbox", made, api.RunPodSandboxRequest())
    assert caplog.records[0].__dict__["sandbox_id"] == "new"
    created = api.CreateContainerResponse(container_id="c")
    assert ids_of(api.CreateContainerRequest(pod_sandbox_id="p"), created) == {"sandbox_id": "p", "container_id": "c"}
    assert ids_of(api.PullImageRequest(image=api.ImageSpec(image="busybox"))) == {"image": "busybox"}
    assert ids_of(api.ImageFsInfoRequest(), b"encoded") == {}
