"""SELinux contexts from what a request says: of the processes, and of what is mounted for them.

Where a part is missing it is that of the policy for containers (container-selinux). A request
that says nothing, and a privileged process, get none: they run as the policy has it for what
the daemon executes.

Invariant: pure; without an enforcing kernel there is no context, whatever was asked.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from cri.plan.security import SecurityContext
from proto import api_pb2 as api
from runtime.spec import Mount

USER, ROLE, TYPE, LEVEL = "system_u", "system_r", "container_t", "s0"
FILE_ROLE, FILE_TYPE = "object_r", "container_file_t"
LABELED = frozenset({"tmpfs", "devpts"})
"""File systems of a container's own. One that others have, too, has one context for all."""


class Labels(NamedTuple):
    """``process`` and ``mount`` are whole contexts, or empty."""

    process: str
    mount: str


NO_LABELS = Labels("", "")


def plan_labels(context: SecurityContext, *, enforcing: bool) -> Labels:
    """The contexts for a container, or for pause and the pod's files."""
    options = context.selinux_options
    if not enforcing or context.privileged or options == api.SELinuxOption():
        return NO_LABELS
    user, level = options.user or USER, options.level or LEVEL
    process = f"{user}:{options.role or ROLE}:{options.type or TYPE}:{level}"
    return Labels(process, f"{user}:{FILE_ROLE}:{FILE_TYPE}:{level}")


def label_mounts(mounts: Iterable[Mount], label: str) -> list[Mount]:
    """``mounts`` with the context ``label`` for those that can have one, unless it is empty."""
    return [
        Mount(**{**mount, "options": [*mount["options"], f"context={label}"]})
        if label and mount["type"] in LABELED
        else mount
        for mount in mounts
    ]
