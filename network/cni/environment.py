"""The environment of a plugin: the CNI variables, a search path, and nothing of the daemon's.

``chain`` makes one a call; ``stragglers`` finds the plugins of a daemon that was killed by it.

Invariant: pure; no value can become another variable or another argument.
"""

from __future__ import annotations

from collections.abc import Mapping

from network.provider import AttachRequest
from runtime.errors import InvalidArgument

INTERFACE = "eth0"
"""The name of a pod's interface in the pod."""

CONTAINER_ID = "CNI_CONTAINERID"

SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Plugins call iptables and the like by name."""


def plan_arguments(request: AttachRequest) -> dict[str, str]:
    """What Kubernetes' plugins expect in CNI_ARGS, in the order in which it is given.

    Raises:
        InvalidArgument: a name cannot be written there.
    """
    arguments = {
        "IgnoreUnknown": "1",
        "K8S_POD_NAMESPACE": request.pod_namespace,
        "K8S_POD_NAME": request.pod_name,
        "K8S_POD_INFRA_CONTAINER_ID": request.sandbox_id,
        "K8S_POD_UID": request.pod_uid,
    }
    for key, value in arguments.items():
        if any(char in ";=\0" for char in value):
            raise InvalidArgument(
                f"has a semicolon or an equals sign, which CNI plugins cannot be told: {value[:80]!r}",
                object=key.removeprefix("K8S_").lower(),
            )
    return arguments


def plan_environment(
    command: str, path: str, *, container: str = "", netns: str = "", arguments: Mapping[str, str] | None = None
) -> dict[str, str]:
    """All variables of one call; ``path`` is the plugins' folder. Without ``container`` it is of no pod."""
    found = {"CNI_COMMAND": command, "CNI_PATH": path, "PATH": SEARCH_PATH, "LC_ALL": "C"}
    if container:
        found |= {
            CONTAINER_ID: container,
            "CNI_NETNS": netns,
            "CNI_IFNAME": INTERFACE,
            "CNI_ARGS": ";".join(f"{key}={value}" for key, value in (arguments or {}).items()),
        }
    return found
