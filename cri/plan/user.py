"""Whom a container runs as: the question that the image's own files have to answer.

``cri.rpc.container_create`` sends the question to the pod's monitor; the answer
goes into ``cri.plan.container``. Names are never looked up here.

Invariant: a number is digits of ASCII within 31 bits, or the whole is refused; it is
never taken for a name.
"""

from __future__ import annotations

import re
from typing import TypedDict

from proto import api_pb2 as api
from runtime.errors import FailedPrecondition
from runtime.images.config import ImageConfig

MAX_ID = 2**31 - 1
"""Of a uid or gid: beyond it are (uid_t)-1 and what 32-bit programs read as negative."""

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@$-]*")
"""What ``runtime.users`` looks up; everything else it would refuse later on."""
MAX_NAME = 256

POLICIES: dict[int, str] = {api.Merge: "Merge", api.Strict: "Strict"}


class UserQuestion(TypedDict):
    """A ``runtime.looks.ResolveUserRequest`` without the root filesystem."""

    user: str
    gid: int | None
    groups: list[int]
    policy: str


def user_question(config: api.ContainerConfig, image: ImageConfig) -> UserQuestion:
    """The request's user (by name or number) before the image's USER before root.

    Raises:
        FailedPrecondition: the image's USER is malformed or out of range.
    """
    context = config.linux.security_context
    if context.run_as_username:
        user = context.run_as_username
    elif context.HasField("run_as_user"):
        user = str(context.run_as_user.value)
    else:
        user = image.user
        if reason := why_no_user(user):
            raise FailedPrecondition(f"{reason}: {user!r}", object="USER of the image")
    return UserQuestion(
        user=user,
        gid=context.run_as_group.value if context.HasField("run_as_group") else None,
        groups=list(context.supplemental_groups),
        policy=POLICIES[context.supplemental_groups_policy],
    )


def why_no_user(user: str) -> str:
    """What is wrong with ``user`` or ``user:group``; empty when nothing is."""
    if not user:
        return ""
    name, colon, group = user.partition(":")
    if not name or (colon and not group):
        return "has an empty user or group"
    return why_no_name(name) or (why_no_name(group) if colon else "")


def why_no_name(name: str) -> str:
    """What is wrong with a user or group given by number or name; empty when nothing is."""
    if re.fullmatch(r"[0-9]+", name):
        return "" if len(name) <= 10 and int(name) <= MAX_ID else f"is above {MAX_ID}"
    try:
        int(name)
    except ValueError:
        if len(name) > MAX_NAME or not NAME.fullmatch(name):
            return "is neither a number nor a name of letters, digits and ._@$-"
        return ""
    return "is a number that is not written in plain digits"
