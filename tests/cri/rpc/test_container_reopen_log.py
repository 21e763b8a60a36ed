"""ReopenContainerLog: after a rotation the lines go on in a new file."""

from __future__ import annotations

import grpc
import grpc.aio
import pytest

from proto import api_pb2 as api
from tests.cri.harness import Crisp

TALK = ("sh", "-c", "n=0; while :; do echo line $n; n=$((n+1)); sleep 0.01; done")


async def test_no_line_is_lost_by_a_rotation(crisp: Crisp) -> None:
    id = await crisp.run(await crisp.run_pod(), crisp.container(*TALK))
    path = crisp.log_path(id)
    await crisp.until(lambda: path.exists() and path.stat().st_size > 0)
    old = path.with_name("old.log")
    path.rename(old)
    await crisp.runtime.ReopenContainerLog(api.ReopenContainerLogRequest(container_id=id))
    assert path.exists()
    await crisp.until(lambda: path.stat().st_size > 0)
    await crisp.runtime.StopContainer(api.StopContainerRequest(container_id=id))
    lines = (old.read_text() + path.read_text()).splitlines()
    assert [line.split(" ", 3)[3] for line in lines] == [f"line {number}" for number in range(len(lines))]


async def test_a_container_that_does_not_run_has_no_log_to_reopen(crisp: Crisp) -> None:
    id = await crisp.create(await crisp.run_pod())
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await crisp.runtime.ReopenContainerLog(api.ReopenContainerLogRequest(container_id=id))
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
