"""Where a pod's cgroups are, under either driver.

``cri.validate.sandbox`` has seen what kubelet asks for; ``cri.plan.sandbox`` and
``cri.plan.container`` place pods and containers by this.

Invariant: pure; paths are relative to the root of each hierarchy (``runtime.cgroups.layout``).
"""

from __future__ import annotations

from cri.plan.paths import clean
from runtime.systemd.names import inner, scope_name, slice_name, slice_path


def pod_cgroup(given: str, instance: str, id: str, *, systemd: bool) -> str:
    """The pod's: kubelet's, or one of the daemon's own when none is ``given``.

    kubelet names a slice by its last component; its path says no more.
    """
    if systemd:
        return slice_path(given.rstrip("/").rpartition("/")[2] or slice_name(instance, id))
    return clean(given) if given else f"/crisp-{instance}/{id}"


def leaf_cgroup(parent: str, id: str, scopes: str) -> str:
    """That of pause or of a container in the pod with the cgroup ``parent``; ``scopes`` is the daemon's name
    where it is in a scope, else empty."""
    return inner(parent, scope_name(scopes, id)) if scopes else f"{parent.rstrip('/')}/{id}"
