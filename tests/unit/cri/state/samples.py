"""Records as the tests of the state want them."""

from __future__ import annotations

from cri.state.records import (
    ContainerRecord,
    ContainerState,
    MonitorRecord,
    OperationPhase,
    OperationRecord,
    SandboxRecord,
    SandboxState,
    StageRecord,
)


def sandbox(id: str = "s1", name: str = "web", attempt: int = 0) -> SandboxRecord:
    return SandboxRecord(
        id=id,
        name=name,
        namespace="default",
        uid="u",
        attempt=attempt,
        config=b"\x00\xffconfig",
        plan=b"{}",
        runtime_handler="",
        created_at=1,
        state=SandboxState.READY,
        boot_id="boot",
        addresses=("10.85.0.2",),
        monitor=MonitorRecord(7, 8),
        stages=(StageRecord("address", "lease an address", 1, 2),),
    )


def container(id: str = "c1", sandbox_id: str = "s1", name: str = "main", created_at: int = 2) -> ContainerRecord:
    return ContainerRecord(
        id=id,
        sandbox_id=sandbox_id,
        name=name,
        attempt=0,
        config=b"config",
        plan=b"{}",
        image_id="sha256:0",
        image_ref="busybox",
        layers=("ab",),
        created_at=created_at,
        state=ContainerState.CREATED,
    )


def operation(key: str = "k", object_id: str = "s1", digest: str = "d") -> OperationRecord:
    return OperationRecord(
        key=key,
        digest=digest,
        kind="sandbox",
        object_id=object_id,
        steps=b"[]",
        phase=OperationPhase.RUNNING,
        began_at=1,
    )
