"""Seccomp, AppArmor and SELinux: what may be asked for on this host.

Shape first, then what crisp or the host does not have; nothing that was asked for
is ever run unconfined instead.

Invariant: after these checks ``cri.plan.security`` chooses unconfined only where that was asked
for or nothing was. Files are not looked at: ``cri.profile_files`` does that.
"""

from __future__ import annotations

from cri.plan.facts import HostFacts
from cri.plan.security import DEPRECATED_DEFAULTS, UNCONFINED, SecurityContext
from cri.plan.security import DEPRECATED_LOCALHOST as LOCALHOST
from cri.validate.text import CONTROL, check_choice, check_path, refuse, show
from proto import api_pb2 as api
from runtime.errors import FailedPrecondition

TYPES = {
    int(api.SecurityProfile.RuntimeDefault): "RuntimeDefault",
    int(api.SecurityProfile.Unconfined): "Unconfined",
    int(api.SecurityProfile.Localhost): "Localhost",
}
LONGEST = 1024
"""Bytes of the name of an AppArmor profile: what is written to the kernel is below a page."""


def check_profiles(context: SecurityContext, host: HostFacts, field: str) -> None:
    """
    Raises:
        InvalidArgument: a profile that cannot be one.
        FailedPrecondition: one that crisp or the host does not have. Not for a privileged
            process, which has no profile by definition of the API.
    """
    check_seccomp(context, host, field)
    check_apparmor(context, host, field)
    check_selinux(context, field)


def check_seccomp(context: SecurityContext, host: HostFacts, field: str) -> None:
    where, kind = f"{field}.seccomp", None
    if context.HasField("seccomp"):
        kind = check_profile(context.seccomp, where)
        if kind == api.SecurityProfile.Localhost:
            check_path(context.seccomp.localhost_ref, f"{where}.localhost_ref")
    else:
        where = f"{field}.seccomp_profile_path"
        kind = check_deprecated(context.seccomp_profile_path, where)
        if kind == api.SecurityProfile.Localhost:
            check_path(context.seccomp_profile_path.removeprefix(LOCALHOST), where)
    if context.privileged:
        return
    if kind in (api.SecurityProfile.RuntimeDefault, api.SecurityProfile.Localhost) and not host.seccomp:
        raise FailedPrecondition("the kernel has no seccomp filters", object=where)


def check_apparmor(context: SecurityContext, host: HostFacts, field: str) -> None:
    """RuntimeDefault is what a host without AppArmor gives anyway."""
    where, kind, name = f"{field}.apparmor", None, ""
    if context.HasField("apparmor"):
        kind, name = check_profile(context.apparmor, where), context.apparmor.localhost_ref
    elif isinstance(context, api.LinuxContainerSecurityContext):
        where = f"{field}.apparmor_profile"
        kind = check_deprecated(context.apparmor_profile, where)
        name = context.apparmor_profile
    name = name.removeprefix(LOCALHOST)
    if kind == api.SecurityProfile.Localhost and (not name or len(name) > LONGEST or CONTROL.search(name)):
        raise refuse(where, f"names no profile: {show(name)}")
    if kind == api.SecurityProfile.Localhost and not host.apparmor and not context.privileged:
        raise FailedPrecondition("the kernel has no AppArmor", object=where)


def check_selinux(context: SecurityContext, field: str) -> None:
    """Labels mean nothing on a host without SELinux, and are accepted there as the peers do."""
    options = context.selinux_options
    where = f"{field}.selinux_options"
    for label in (options.user, options.role, options.type, options.level):
        if CONTROL.search(label) or any(char.isspace() or char in "\"'\\" for char in label):
            raise refuse(where, f"has a label with a blank, quote or control character: {show(label)}")
        if len(label.encode()) > LONGEST:
            raise refuse(where, f"has a label of more than {LONGEST} bytes")
    for label in (options.user, options.role, options.type):
        if ":" in label or "," in label:
            raise refuse(where, f"has more than a user, role or type in one of them: {show(label)}")


def check_profile(profile: api.SecurityProfile, field: str) -> int:
    """The type of a profile message."""
    check_choice(profile.profile_type, f"{field}.profile_type", TYPES)
    if profile.localhost_ref and profile.profile_type != api.SecurityProfile.Localhost:
        raise refuse(f"{field}.localhost_ref", "is for profile_type Localhost only")
    return profile.profile_type


def check_deprecated(value: str, field: str) -> int | None:
    """The type that one of the superseded strings means; None for nothing asked."""
    if not value:
        return None
    if value == UNCONFINED:
        return api.SecurityProfile.Unconfined
    if value in DEPRECATED_DEFAULTS:
        return api.SecurityProfile.RuntimeDefault
    if value.startswith(LOCALHOST):
        return api.SecurityProfile.Localhost
    raise refuse(field, f"must be unconfined, runtime/default or localhost/…, not {show(value)}")
