"""Which RPC is answered by which function: the table of contents of ``cri.rpc``.

Invariant: an RPC that is not in here answers UNIMPLEMENTED (``cri.server``) and
stands in docs/limits.md.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from cri.host import Host
from cri.rpc.container_attach import attach
from cri.rpc.container_create import create_container
from cri.rpc.container_events import get_container_events
from cri.rpc.container_exec import exec_command
from cri.rpc.container_exec_sync import exec_sync
from cri.rpc.container_list import list_containers, stream_containers
from cri.rpc.container_remove import remove_container
from cri.rpc.container_reopen_log import reopen_container_log
from cri.rpc.container_start import start_container
from cri.rpc.container_stats import container_stats, list_container_stats, stream_container_stats
from cri.rpc.container_status import container_status_rpc
from cri.rpc.container_stop import stop_container
from cri.rpc.container_update import update_container_resources
from cri.rpc.image_fs_info import image_fs_info
from cri.rpc.image_list import list_images, stream_images
from cri.rpc.image_pull import pull_image
from cri.rpc.image_remove import remove_image
from cri.rpc.image_status import image_status
from cri.rpc.runtime import get_version, runtime_config, status, update_runtime_config
from cri.rpc.sandbox_list import list_pod_sandbox, stream_pod_sandboxes
from cri.rpc.sandbox_metrics import list_metric_descriptors, list_pod_sandbox_metrics, stream_pod_sandbox_metrics
from cri.rpc.sandbox_port_forward import port_forward
from cri.rpc.sandbox_remove import remove_pod_sandbox
from cri.rpc.sandbox_run import run_pod_sandbox
from cri.rpc.sandbox_stats import list_pod_sandbox_stats, pod_sandbox_stats, stream_pod_sandbox_stats
from cri.rpc.sandbox_status import pod_sandbox_status_rpc
from cri.rpc.sandbox_stop import stop_pod_sandbox
from cri.rpc.sandbox_update import update_pod_sandbox_resources
from cri.server import Handler

Rpc = Callable[[Host, Any, Any], Awaitable[Any]]

RUNTIME_SERVICE: Mapping[str, Rpc] = {
    "Version": get_version,
    "Status": status,
    "RuntimeConfig": runtime_config,
    "UpdateRuntimeConfig": update_runtime_config,
    "RunPodSandbox": run_pod_sandbox,
    "StopPodSandbox": stop_pod_sandbox,
    "RemovePodSandbox": remove_pod_sandbox,
    "PodSandboxStatus": pod_sandbox_status_rpc,
    "ListPodSandbox": list_pod_sandbox,
    "CreateContainer": create_container,
    "StartContainer": start_container,
    "StopContainer": stop_container,
    "RemoveContainer": remove_container,
    "ListContainers": list_containers,
    "ContainerStatus": container_status_rpc,
    "UpdateContainerResources": update_container_resources,
    "UpdatePodSandboxResources": update_pod_sandbox_resources,
    "ReopenContainerLog": reopen_container_log,
    "ExecSync": exec_sync,
    "Exec": exec_command,
    "Attach": attach,
    "PortForward": port_forward,
    "ContainerStats": container_stats,
    "ListContainerStats": list_container_stats,
    "PodSandboxStats": pod_sandbox_stats,
    "ListPodSandboxStats": list_pod_sandbox_stats,
    "ListMetricDescriptors": list_metric_descriptors,
    "ListPodSandboxMetrics": list_pod_sandbox_metrics,
    "GetContainerEvents": get_container_events,
    "StreamPodSandboxes": stream_pod_sandboxes,
    "StreamContainers": stream_containers,
    "StreamContainerStats": stream_container_stats,
    "StreamPodSandboxStats": stream_pod_sandbox_stats,
    "StreamPodSandboxMetrics": stream_pod_sandbox_metrics,
}

IMAGE_SERVICE: Mapping[str, Rpc] = {
    "ListImages": list_images,
    "StreamImages": stream_images,
    "ImageStatus": image_status,
    "PullImage": pull_image,
    "RemoveImage": remove_image,
    "ImageFsInfo": image_fs_info,
}


def bind(functions: Mapping[str, Rpc], host: Host) -> dict[str, Handler]:
    """The functions with their ``host``."""
    return {name: functools.partial(function, host) for name, function in functions.items()}
