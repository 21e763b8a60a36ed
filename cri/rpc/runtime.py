"""Version, Status, RuntimeConfig, UpdateRuntimeConfig: the runtime about itself.

Invariant: Version and Status answer from the first moment, also while recovering.
"""

from __future__ import annotations

import json
import os
import platform
import sqlite3
from typing import Any

import grpc
import msgspec

from cri import networks
from cri.changed_sysctls import record_sysctls, recorded
from cri.host import Host
from cri.state.meta import POD_CIDR
from cri.validate.requests import validate_update_runtime_config
from cri.version import version
from proto import api_pb2 as api

API_VERSION = "v1"
NAME = "crisp"
STATE_DIRECTORY = "stateDir"
"""What critest looks for: a directory beside which roots of containers lie, on the file system that is idmapped."""
HANDLERS = ("", "crisp")
"""Runtime handlers: the unnamed default and its name."""


async def get_version(_host: Host, _request: api.VersionRequest, _context: Any) -> api.VersionResponse:
    return api.VersionResponse(
        version="0.1.0", runtime_name=NAME, runtime_version=version(), runtime_api_version=API_VERSION
    )


async def status(host: Host, request: api.StatusRequest, _context: Any) -> api.StatusResponse:
    network = await networks.status(host)
    recovering = not host.ready.is_set()
    conditions = [
        api.RuntimeCondition(
            type="RuntimeReady",
            status=not recovering,
            reason="Recovering" if recovering else "",
            message="reading the state of an earlier run" if recovering else "",
        ),
        api.RuntimeCondition(type="NetworkReady", status=network.ready, reason=network.reason, message=network.message),
    ]
    user_namespaces = not host.facts.no_user_namespaces
    handlers = [
        api.RuntimeHandler(
            name=name,
            features=api.RuntimeHandlerFeatures(
                recursive_read_only_mounts=host.facts.recursive_read_only, user_namespaces=user_namespaces
            ),
        )
        for name in HANDLERS
    ]
    return api.StatusResponse(
        status=api.RuntimeStatus(conditions=conditions),
        info=await verbose_info(host) if request.verbose else {},
        runtime_handlers=handlers,
        features=api.RuntimeFeatures(
            supplemental_groups_policy=True,
            mount_options=host.facts.recursive_read_only,
            user_namespaces_host_network=user_namespaces,
        ),
    )


async def verbose_info(host: Host) -> dict[str, str]:
    """JSON by subject; ``config`` are the settings in force, and ``STATE_DIRECTORY``."""
    pods = {"pods": len(host.store.sandboxes), "containers": len(host.store.containers), "live": len(host.pods)}
    facts = {
        "instance": host.instance,
        "boot_id": host.boot_id,
        "cgroups": host.layout.kind.value,
        "pod_cidr": host.meta.get(POD_CIDR),
        "tasks": host.tasks.names(),
    }
    kernel = os.uname()
    versions = {
        "crisp": version(),
        "cri": API_VERSION,
        "python": platform.python_version(),
        "kernel": kernel.release,
        "machine": kernel.machine,
        "grpc": grpc.__version__,
        "sqlite": sqlite3.sqlite_version,
    }
    return {
        "config": json.dumps({**msgspec.to_builtins(host.settings), STATE_DIRECTORY: f"{host.root}/layers"}),
        "host": json.dumps(facts),
        "features": json.dumps(host_features(host)),
        "network": json.dumps(await network_info(host)),
        "objects": json.dumps(pods),
        "versions": json.dumps(versions),
    }


def host_features(host: Host) -> dict[str, Any]:
    """What this kernel has of what pods may ask for."""
    layout, facts = host.layout, host.facts
    v1 = {controller for hierarchy in layout.v1 for controller in hierarchy.controllers}
    return {
        "cgroup_driver": "systemd" if facts.systemd else "cgroupfs",
        "cgroup_v1_controllers": sorted(v1),
        "cgroup_v2_controllers": sorted(layout.v2_controllers),
        "swap": layout.swap,
        "huge_page_sizes": sorted(layout.page_sizes),
        "pressure": bool(layout.v2) and os.path.exists(f"{layout.v2}/cpu.pressure"),
        "seccomp": facts.seccomp,
        "apparmor": facts.apparmor,
        "selinux": facts.selinux,
        "user_namespaces": not facts.no_user_namespaces,
        "capabilities": list(facts.bounding),
    }


async def network_info(host: Host) -> dict[str, Any]:
    found = await networks.status(host)
    reading = host.cni.selection.reading
    return {
        "provider": host.provider,
        "bridge": host.settings.network.bridge,
        "subnets": networks.current_subnets(host),
        "cni": {"network": reading.conf.name if reading.conf else "", "file": reading.file, "problem": reading.problem},
        "ready": found.ready,
        "reason": found.reason,
        "message": found.message,
        "sysctls": recorded(host.meta),
    }


async def runtime_config(host: Host, _request: api.RuntimeConfigRequest, _context: Any) -> api.RuntimeConfigResponse:
    """kubelet takes its own driver from this answer."""
    driver = api.SYSTEMD if host.facts.systemd else api.CGROUPFS
    return api.RuntimeConfigResponse(linux=api.LinuxRuntimeConfiguration(cgroup_driver=driver))


async def update_runtime_config(
    host: Host, request: api.UpdateRuntimeConfigRequest, _context: Any
) -> api.UpdateRuntimeConfigResponse:
    """The PodCIDR of this node: stored, and used for pods that come."""
    subnets = validate_update_runtime_config(request)
    cidr = ",".join(subnets)

    async def work() -> None:
        async with host.pool.emptied():  # blank pods have addresses of before, and the new may be among those
            await networks.set_subnets(host, subnets)
        await record_sysctls(host)
        await host.meta.set(POD_CIDR, cidr)

    if cidr and cidr != host.meta.get(POD_CIDR):
        await host.operations.join(f"pod cidr {cidr}", work)  # a client that leaves leaves nothing half done
    return api.UpdateRuntimeConfigResponse()
