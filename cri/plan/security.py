"""Which seccomp profile and which hidden paths a process gets.

``cri.validate.profiles`` has refused what crisp does not have. Used for pause
(``cri.plan.sandbox``) and for containers.

Invariant: a privileged process has no profile and nothing masked; nothing here
reads an annotation.
"""

from __future__ import annotations

from collections.abc import Iterable

from cri.plan.paths import clean
from proto import api_pb2 as api

RUNTIME_DEFAULT = "runtime/default"
"""The only kind of seccomp profile that a plan names; None is unconfined."""

DEPRECATED_DEFAULTS = frozenset({RUNTIME_DEFAULT, "docker/default"})

SecurityContext = api.LinuxSandboxSecurityContext | api.LinuxContainerSecurityContext


def plan_seccomp(context: SecurityContext) -> str | None:
    """``runtime/default`` or None; the deprecated string counts only without a profile.

    A profile message without a type is RuntimeDefault (type 0); none at all is unconfined.
    """
    if context.privileged:
        return None
    if context.HasField("seccomp"):
        return RUNTIME_DEFAULT if context.seccomp.profile_type == api.SecurityProfile.RuntimeDefault else None
    return RUNTIME_DEFAULT if context.seccomp_profile_path in DEPRECATED_DEFAULTS else None


def plan_hidden(paths: Iterable[str], *, privileged: bool) -> list[str]:
    """Masked or read-only paths: exactly those of the request, cleaned."""
    return [] if privileged else list(dict.fromkeys(map(clean, paths)))
