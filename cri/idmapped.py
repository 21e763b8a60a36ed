"""Whether the file systems of a container's mounts can be idmapped, where the request has them so.

``cri.rpc.container_create`` asks once the request itself is known to be right: the
answer is the kernel's, which validation does not ask.

Invariant: changes nothing; ids that would be wrong in the container are refused, not shown.
Source: mount_setattr(2), KEP-127.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping

from cri.plan.sandbox import SandboxPlan
from proto import api_pb2 as api
from runtime.errors import FailedPrecondition, HostFault
from runtime.idmap import find_refusal


async def check_idmapped(config: api.ContainerConfig, pod: SandboxPlan) -> None:
    """
    Raises:
        FailedPrecondition: a source is on a file system, or has one mounted below it, that cannot be idmapped.
    """
    asked = {n: mount.host_path for n, mount in enumerate(config.mounts) if mount.uidMappings and mount.host_path}
    if asked:
        await asyncio.to_thread(check_sources, asked, pod.namespace_path("user"))


def check_sources(sources: Mapping[int, str], namespace: str) -> None:
    """``sources`` by the number of their mount, ``namespace`` where the pod's user namespace is pinned."""
    try:
        user = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
        try:
            for n, path in sources.items():
                refused = find_refusal(user, path)
                if refused:
                    raise FailedPrecondition(f"cannot be idmapped: {refused}", object=f"config.mounts[{n}] {path}")
        finally:
            os.close(user)
    except OSError as error:
        step, code = "look whether mounts can be idmapped", error.errno or 0
        raise HostFault(str(error.strerror or error).lower(), step=step, object=namespace, errno=code) from error
