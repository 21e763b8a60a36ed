"""The file of a seccomp profile of type Localhost: read once, when its pod or container is created.

``cri.rpc.sandbox_run`` and ``container_create`` ask after validation, which reads no files, and
before anything is done. What was read goes into the plan (OCI ``linux.seccomp``): a start, a
command, the next daemon apply that, whatever has become of the file.

Invariant: what is wrong with the file is an error; no profile is ever left out instead.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Sequence

from cri.plan.security import DEPRECATED_LOCALHOST, SecurityContext
from cri.profiles import Profiles
from proto import api_pb2 as api
from runtime.errors import FailedPrecondition, HostFault, NotFound
from runtime.seccomp.document import MAX_BYTES
from runtime.spec import Seccomp

_STEP = "read the seccomp profile"


async def read_profile(context: SecurityContext, profiles: Profiles, capabilities: Sequence[str]) -> Seccomp | None:
    """What a process with these capabilities gets of the profile that a valid request names; None for none.

    Raises:
        NotFound: there is no such file.
        FailedPrecondition: it is no regular file, or no profile.
        ResourceExhausted: it is larger than 1 MiB.
        HostFault: it cannot be read.
    """
    path = localhost_path(context)
    if not path:
        return None
    return await asyncio.to_thread(lambda: profiles.read(read_file(path), path, capabilities))


def localhost_path(context: SecurityContext) -> str:
    """What a profile of type Localhost is called in the request, empty for any other, and for a
    privileged process, which has none."""
    if context.privileged:
        return ""
    if context.HasField("seccomp"):
        named = context.seccomp.profile_type == api.SecurityProfile.Localhost
        return str(context.seccomp.localhost_ref) if named else ""
    deprecated = str(context.seccomp_profile_path)
    return deprecated.removeprefix(DEPRECATED_LOCALHOST) if deprecated.startswith(DEPRECATED_LOCALHOST) else ""


def read_file(path: str) -> bytes:
    """Up to a byte more than a profile can have. Links are followed: the folder is the node's.

    Raises: as ``read_profile``.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise FailedPrecondition("is not a regular file", step=_STEP, object=path)
            with os.fdopen(fd, "rb", closefd=False) as file:
                return file.read(MAX_BYTES + 1)
        finally:
            os.close(fd)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound("there is no such seccomp profile", object=path) from error
    except OSError as error:
        raise HostFault(step=_STEP, object=path, call="open", errno=error.errno or 0) from error
