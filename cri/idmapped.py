"""Whether the file systems of a container's mounts can be idmapped, where the request has them so.

``cri.rpc.container_create`` asks once the request itself is known to be right: the
answer is the kernel's, which validation does not ask. A worker asks it (``runtime.idmappable``),
for who has the files may be slow, or gone.

Invariant: changes nothing; ids that would be wrong in the container are refused, not shown.
Source: mount_setattr(2), KEP-127.
"""

from __future__ import annotations

import os

from cri.host import Host
from cri.plan.sandbox import SandboxPlan
from proto import api_pb2 as api
from runtime.errors import DeadlineExceeded, FailedPrecondition, HostFault

ENTRY = "runtime.idmappable:find_refusals"

SECONDS = 30.0
"""How long the worker may take, as long as what is prepared for a start waits for its files."""

STEP = "look whether mounts can be idmapped"


async def check_idmapped(host: Host, config: api.ContainerConfig, pod: SandboxPlan) -> None:
    """
    Raises:
        FailedPrecondition: a source is on a file system, or has one mounted below it, that cannot be idmapped.
        DeadlineExceeded: nobody answers for a source.
    """
    asked = {n: mount.host_path for n, mount in enumerate(config.mounts) if mount.uidMappings and mount.host_path}
    if not asked:
        return
    user = open_namespace(pod.namespace_path("user"))
    try:
        paths = list(asked.values())
        found = await host.supervisor.run_worker(ENTRY, {"paths": paths}, [user], timeout=SECONDS)
    except TimeoutError as error:
        raise DeadlineExceeded(f"no answer within {SECONDS:g} s", step=STEP, object=", ".join(paths)) from error
    finally:
        os.close(user)
    for (n, path), refused in zip(asked.items(), found["refused"], strict=True):
        if refused:
            raise FailedPrecondition(f"cannot be idmapped: {refused}", object=f"config.mounts[{n}] {path}")


def open_namespace(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise HostFault(step=STEP, object=path, call="open", errno=error.errno or 0) from error
