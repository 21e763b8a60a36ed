"""What crisp remembers: one frozen struct a sandbox, container, image, operation.

``cri.state.database`` stores them, the RPC modules read them, ``cri.state.recovery``
compares them with the kernel. The requests' own protobuf messages are kept as the
bytes that arrived, so labels and annotations come back byte for byte.

Invariant: a record is never changed in place; ``msgspec.structs.replace`` makes the
next one, and times and reasons that were once reported never change.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from runtime.images.model import Image


class SandboxState(StrEnum):
    """CRI PodSandboxState; ``UNKNOWN`` pods (quarantined) are reported NOTREADY."""

    READY = "ready"
    NOTREADY = "notready"
    UNKNOWN = "unknown"


class ContainerState(StrEnum):
    """CRI ContainerState."""

    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"
    UNKNOWN = "unknown"


class StageRecord(msgspec.Struct, frozen=True):
    """One line of a timeline; ``began`` ns since the epoch, ``took`` ns."""

    step: str
    describe: str
    began: int
    took: int
    error: str = ""


class MonitorRecord(msgspec.Struct, frozen=True):
    """Which process is the pod's monitor: pid and its start time (clock ticks,
    /proc/PID/stat field 22), so that a reused pid is never taken for it."""

    pid: int
    start_time: int


class SandboxRecord(msgspec.Struct, frozen=True, kw_only=True):
    """``config`` is the serialized PodSandboxConfig; ``plan`` the JSON of its SandboxPlan
    (``cri.plan.sandbox``); ``addresses`` the pod's IPs, primary first; ``boot_id`` the
    boot in which it lives. ``stopped``: StopPodSandbox has undone all that ends with the pod."""

    id: str
    name: str
    namespace: str
    uid: str
    attempt: int
    config: bytes
    plan: bytes
    runtime_handler: str
    created_at: int
    state: SandboxState
    boot_id: str
    addresses: tuple[str, ...] = ()
    monitor: MonitorRecord | None = None
    pause_pid: int = 0
    reason: str = ""
    stages: tuple[StageRecord, ...] = ()
    stopped: bool = False


class ContainerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """``config`` is the serialized ContainerConfig; ``plan`` the JSON of its
    ContainerPlan (``cri.plan.container``); ``layers`` are the chain ids that it stacks,
    bottom first, which stay on disk for it. Times in ns since the epoch, 0 for not yet.
    ``log_dropped`` are the entries of its log that the disk had refused when it ended.
    ``mountpoints`` is the key of the layer that it may stack over the image's (``cri.mountpoints``);
    ``volume_layers`` are those of the images that it has as volumes, which stay as well."""

    id: str
    sandbox_id: str
    name: str
    attempt: int
    config: bytes
    plan: bytes
    image_id: str
    image_ref: str
    layers: tuple[str, ...]
    created_at: int
    state: ContainerState
    started_at: int = 0
    finished_at: int = 0
    exit_code: int = 0
    reason: str = ""
    message: str = ""
    pid: int = 0
    resources: bytes = b""
    stages: tuple[StageRecord, ...] = ()
    log_dropped: int = 0
    mountpoints: str = ""
    volume_layers: tuple[str, ...] = ()


ImageRecord = Image
"""An image; ``runtime.images.model`` defines it, since the image store works with it too."""


class OperationPhase(StrEnum):
    """RUNNING: its effects may exist. DONE: the object exists, the answer was not
    yet seen delivered. Delivered operations are deleted."""

    RUNNING = "running"
    DONE = "done"


class OperationRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An intent. ``key`` names what it reserves (``sandbox/<ns>/<name>/<uid>/<attempt>`` as
    JSON list); ``digest`` is the sha256 of the request's bytes; ``object_id`` what it makes;
    ``steps`` the encoded steps whose undo is owed."""

    key: str
    digest: str
    kind: str
    object_id: str
    steps: bytes
    phase: OperationPhase
    began_at: int
