"""Users and groups of a request: numbers in range, a group only with a user.

Invariant: what passes is a plain number of 31 bits or a name; nothing wraps.
"""

from __future__ import annotations

from cri.plan.security import SecurityContext
from cri.plan.user import MAX_ID, POLICIES, why_no_name
from cri.validate.text import check_choice, check_range, refuse, show
from proto import api_pb2 as api
from runtime.spec import IdMapping

MAX_GROUPS = 4096
"""What ``runtime.users`` takes. The kernel takes 65536 (setgroups(2)), which would be a long answer."""


def check_ids(context: SecurityContext, field: str, ids: IdMapping | None = None) -> None:
    """``ids`` is the mapping of the pod's user namespace, which has no others. Raises InvalidArgument."""
    highest = MAX_ID if ids is None else min(MAX_ID, ids["size"] - 1)
    username = context.run_as_username if isinstance(context, api.LinuxContainerSecurityContext) else ""
    if username:
        if reason := why_no_name(username):
            raise refuse(f"{field}.run_as_username", f"{reason}: {show(username)}")
        if context.HasField("run_as_user"):
            raise refuse(f"{field}.run_as_username", "and run_as_user are both given")
    check_range(context.run_as_user.value, f"{field}.run_as_user", 0, highest)
    check_range(context.run_as_group.value, f"{field}.run_as_group", 0, highest)
    if context.HasField("run_as_group") and not context.HasField("run_as_user") and not username:
        raise refuse(f"{field}.run_as_group", "needs run_as_user or run_as_username")
    groups = context.supplemental_groups
    if len(groups) > MAX_GROUPS:
        raise refuse(f"{field}.supplemental_groups", f"has {len(groups)} entries, more than {MAX_GROUPS}")
    for group in groups:
        check_range(group, f"{field}.supplemental_groups", 0, highest)
    check_choice(context.supplemental_groups_policy, f"{field}.supplemental_groups_policy", POLICIES)
