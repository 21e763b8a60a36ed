"""Whether the file of a seccomp profile of type Localhost is there.

``cri.rpc.sandbox_run`` and ``container_create`` ask before validation, which reads no
files: a profile that is missing is NOT_FOUND, whatever else this host lacks.

Invariant: reads only, and looks at absolute paths alone; what is wrong with the shape
of a request is for ``cri.validate.profiles`` to say.
"""

from __future__ import annotations

import os

from cri.plan.security import SecurityContext
from cri.validate.text import CONTROL
from proto import api_pb2 as api
from runtime.errors import NotFound

LOCALHOST = "localhost/"


def check_profile_file(context: SecurityContext) -> None:
    """
    Raises:
        NotFound: the request names a profile by an absolute path, and there is none. Not for
            a privileged process, which has no profile.
    """
    path = localhost_path(context)
    if path.startswith("/") and ".." not in path.split("/") and not CONTROL.search(path) and not os.path.exists(path):
        raise NotFound("there is no such seccomp profile", object=path)


def localhost_path(context: SecurityContext) -> str:
    """What a profile of type Localhost is called in the request, empty for any other."""
    if context.privileged:
        return ""
    if context.HasField("seccomp"):
        named = context.seccomp.profile_type == api.SecurityProfile.Localhost
        return str(context.seccomp.localhost_ref) if named else ""
    deprecated = str(context.seccomp_profile_path)
    return deprecated.removeprefix(LOCALHOST) if deprecated.startswith(LOCALHOST) else ""
