"""Which seccomp and AppArmor profiles and which hidden paths a process gets.

``cri.validate.profiles`` has refused what crisp does not have. Used for pause
(``cri.plan.sandbox``) and for containers.

Invariant: a privileged process has no profile and nothing masked; nothing here
reads an annotation.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from cri.plan.paths import clean
from proto import api_pb2 as api
from runtime.lsm.apparmor_profile import NAME as CRISP_DEFAULT
from runtime.spec import Seccomp

RUNTIME_DEFAULT, LOCALHOST = "runtime/default", "localhost"
"""The kinds of seccomp profile that a plan names; None is unconfined."""

DEPRECATED_LOCALHOST = "localhost/"
"""What a profile's path has in front of it in ``seccomp_profile_path``."""

DEPRECATED_DEFAULTS = frozenset({RUNTIME_DEFAULT, "docker/default"})

_KINDS: dict[int, str] = {
    api.SecurityProfile.RuntimeDefault: RUNTIME_DEFAULT,
    api.SecurityProfile.Localhost: LOCALHOST,
}

UNCONFINED = "unconfined"

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


class AppArmor(NamedTuple):
    """``profile`` by its name, empty for none. Where it is not ``required``, a host that does not have it
    runs the process unconfined."""

    profile: str
    required: bool


def plan_apparmor(context: SecurityContext) -> AppArmor:
    """What a request on a host with AppArmor means.

    Nothing asked means RuntimeDefault, as kubelet has it, but for pause; a privileged process is
    unconfined by definition of the API. The deprecated string counts only without a profile.
    """
    if context.privileged:
        return AppArmor("", False)
    container = isinstance(context, api.LinuxContainerSecurityContext)
    if context.HasField("apparmor"):
        kind, name = _KINDS.get(context.apparmor.profile_type), str(context.apparmor.localhost_ref)
    else:
        name = str(context.apparmor_profile) if isinstance(context, api.LinuxContainerSecurityContext) else ""
        if not name:
            return AppArmor(CRISP_DEFAULT if container else "", False)
        kind = RUNTIME_DEFAULT if name in DEPRECATED_DEFAULTS else None if name == UNCONFINED else LOCALHOST
    if kind is None:
        return AppArmor("", False)
    # critest writes the superseded string's prefix in the new field, too, and the peers take it off.
    return AppArmor(CRISP_DEFAULT if kind == RUNTIME_DEFAULT else name.removeprefix(DEPRECATED_LOCALHOST), True)


class Confinement(msgspec.Struct, frozen=True):
    """What was found of the profiles that a request names: ``seccomp`` of type Localhost, ``apparmor`` by its
    name, empty for none (``cri.confinement``)."""

    seccomp: Seccomp | None = None
    apparmor: str = ""


NOT_CONFINED = Confinement()


def plan_hidden(paths: Iterable[str], *, privileged: bool) -> list[str]:
    """Masked or read-only paths: exactly those of the request, cleaned."""
    return [] if privileged else list(dict.fromkeys(map(clean, paths)))
