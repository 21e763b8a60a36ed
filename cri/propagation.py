"""Whether a mount's source propagates as far as a container asks for.

``cri.rpc.container_create`` asks once the request itself is known to be right: the
answer is in the host's mount table, which validation does not read.

Invariant: reads only; propagation that the host cannot give is refused, not dropped.
Source: mount_namespaces(7), proc_pid_mountinfo(5).
"""

from __future__ import annotations

import os

from proto import api_pb2 as api
from runtime.errors import FailedPrecondition, HostFault


def check_propagation(config: api.ContainerConfig) -> None:
    """
    Raises:
        FailedPrecondition: a source of a bidirectional mount is on no shared mount, or
            one that is to follow the host is on neither a shared nor a slave one.
    """
    for n, mount in enumerate(config.mounts):
        if mount.propagation == api.PROPAGATION_PRIVATE or mount.HasField("image"):
            continue
        found = read_propagation(mount.host_path)
        both = mount.propagation == api.PROPAGATION_BIDIRECTIONAL
        if "shared" not in found and (both or "master" not in found):
            wanted = "shared" if both else "shared or slave"
            raise FailedPrecondition(
                f"{mount.host_path} is not on a {wanted} mount", object=f"config.mounts[{n}].propagation"
            )


def read_propagation(path: str) -> frozenset[str]:
    """``shared`` and ``master`` as far as they are true of the mount that ``path`` is on.

    What is missing of ``path`` will be made on the mount of its deepest directory.
    """
    fd = open_deepest(path)
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
            number = next(line.split()[1] for line in file if line.startswith("mnt_id:"))
    finally:
        os.close(fd)
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields = line.split()
            if fields[0] == number:
                tags = fields[6 : fields.index("-")]
                return frozenset(tag.partition(":")[0] for tag in tags)
    raise HostFault("is on no mount of this namespace", step="read the propagation", object=path)


def open_deepest(path: str) -> int:
    while True:
        try:
            return os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            path = os.path.dirname(path.rstrip("/")) or "/"
