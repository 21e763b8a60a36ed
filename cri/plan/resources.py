"""From the CRI's LinuxContainerResources to the limits of one cgroup, and back.

``runtime.cgroups.resources`` turns them into writes; the RPCs of create and update
call it before their first effect. What the kernel has made of them
(``runtime.cgroups.in_force``) comes back as ``told_resources``.

Invariant: nothing is dropped here: what the host lacks is for ``plan_writes`` to say.
"""

from __future__ import annotations

from proto import api_pb2 as api
from runtime.cgroups.resources import DEFAULT_PERIOD, Hugepage, Resources
from runtime.spec import DeviceRule


def plan_resources(asked: api.LinuxContainerResources, devices: tuple[DeviceRule, ...], *, swap: bool) -> Resources:
    """The limits of a new container.

    ``swap``: whether the host has any. Then a memory limit without a swap limit keeps
    the container from swapping at all, as the peers and kubelet have it.
    """
    total = asked.memory_swap_limit_in_bytes
    if not total and swap and asked.memory_limit_in_bytes > 0:
        total = asked.memory_limit_in_bytes
    return Resources(
        cpu_shares=asked.cpu_shares,
        cpu_quota=asked.cpu_quota,
        cpu_period=asked.cpu_period,
        cpuset_cpus=asked.cpuset_cpus,
        cpuset_mems=asked.cpuset_mems,
        memory_limit=asked.memory_limit_in_bytes,
        memory_swap_limit=total,
        hugepages=tuple(Hugepage(page.page_size, page.limit) for page in asked.hugepage_limits),
        unified=dict(sorted(asked.unified.items())),
        oom_score_adj=asked.oom_score_adj,
        devices=devices,
    )


def plan_update(asked: api.LinuxContainerResources) -> Resources:
    """The changes to a container that exists: zero and empty leave things as they are."""
    return Resources(
        cpu_shares=asked.cpu_shares,
        cpu_quota=asked.cpu_quota,
        cpu_period=asked.cpu_period,
        cpuset_cpus=asked.cpuset_cpus,
        cpuset_mems=asked.cpuset_mems,
        memory_limit=asked.memory_limit_in_bytes,
        memory_swap_limit=asked.memory_swap_limit_in_bytes,
        hugepages=tuple(Hugepage(page.page_size, page.limit) for page in asked.hugepage_limits),
        unified=dict(sorted(asked.unified.items())),
        oom_score_adj=asked.oom_score_adj or None,
    )


def merge_resources(
    current: api.LinuxContainerResources, change: api.LinuxContainerResources
) -> api.LinuxContainerResources:
    """What is asked for by now: the fields that an update gives over ``current``."""
    merged = api.LinuxContainerResources()
    merged.CopyFrom(current)
    if change.hugepage_limits:
        sizes = {page.page_size for page in change.hugepage_limits}
        kept = [page for page in current.hugepage_limits if page.page_size not in sizes]
        del merged.hugepage_limits[:]
        merged.hugepage_limits.extend(kept)
    merged.MergeFrom(change)
    return merged


def told_resources(asked: api.LinuxContainerResources, limits: Resources) -> api.LinuxContainerResources:
    """``limits`` as ContainerStatus tells them; the OOM score, which no cgroup has, is the one of ``asked``."""
    return api.LinuxContainerResources(
        cpu_period=limits.cpu_period,
        cpu_quota=limits.cpu_quota,
        cpu_shares=limits.cpu_shares,
        memory_limit_in_bytes=limits.memory_limit,
        oom_score_adj=asked.oom_score_adj,
        cpuset_cpus=limits.cpuset_cpus,
        cpuset_mems=limits.cpuset_mems,
        hugepage_limits=[api.HugepageLimit(page_size=page.page_size, limit=page.limit) for page in limits.hugepages],
        unified=limits.unified,
        memory_swap_limit_in_bytes=limits.memory_swap_limit,
    )


def add_resources(
    resources: api.LinuxContainerResources, overhead: api.LinuxContainerResources
) -> api.LinuxContainerResources:
    """What a pod may use: its containers' ``resources``, and ``overhead`` where those are limited."""
    total = api.LinuxContainerResources()
    total.CopyFrom(resources)
    if resources.cpu_shares:
        total.cpu_shares += overhead.cpu_shares
    if resources.memory_limit_in_bytes > 0:
        total.memory_limit_in_bytes += max(0, overhead.memory_limit_in_bytes)
    if resources.memory_swap_limit_in_bytes > 0:
        more = overhead.memory_swap_limit_in_bytes or overhead.memory_limit_in_bytes
        total.memory_swap_limit_in_bytes += max(0, more)
    if resources.cpu_quota > 0 and overhead.cpu_quota > 0:
        period, other = (each.cpu_period or DEFAULT_PERIOD for each in (resources, overhead))
        total.cpu_quota += overhead.cpu_quota * period // other
    return total
