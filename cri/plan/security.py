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

RUNTIME_DEFAULT, LOCALHOST = "runtime/default", "localhost"
"""The kinds of seccomp profile that a plan names; None is unconfined."""

DEPRECATED_LOCALHOST = "localhost/"
"""What a profile's path has in front of it in ``seccomp_profile_path``."""

DEPRECATED_DEFAULTS = frozenset({RUNTIME_DEFAULT, "docker/default"})

_KINDS: dict[int, str] = {
    api.SecurityProfile.RuntimeDefault: RUNTIME_DEFAULT,
    api.SecurityProfile.Localhost: LOCALHOST,
}

SecurityContext = api.LinuxSandboxSecurityContext | api.LinuxContainerSecurityContext


def plan_seccomp(context: SecurityContext) -> str | None:
    """RUNTIME_DEFAULT, LOCALHOST or None; the deprecated string counts only without a profile.

    A profile message without a type is RuntimeDefault (type 0); none at all is unconfined.
    """
    if context.privileged:
        return None
    if context.HasField("seccomp"):
        return _KINDS.get(context.seccomp.profile_type)
    if context.seccomp_profile_path.startswith(DEPRECATED_LOCALHOST):
        return LOCALHOST
    return RUNTIME_DEFAULT if context.seccomp_profile_path in DEPRECATED_DEFAULTS else None


def plan_hidden(paths: Iterable[str], *, privileged: bool) -> list[str]:
    """Masked or read-only paths: exactly those of the request, cleaned."""
    return [] if privileged else list(dict.fromkeys(map(clean, paths)))
