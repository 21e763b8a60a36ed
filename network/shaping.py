"""A pod's rates in the kernel: token buckets at the host's end of its link.

Blocking, for the thread of ``network.netthread``; ``network.wiring`` says which pod,
``network.traffic_control`` encodes it,
``network.shaping_path`` tells what is there. What the pod receives leaves the host by its link, whose
queue is a token bucket. What it sends comes in there, where the kernel has no queue: it is
redirected to an ifb link of the pod's own, goes through the bucket of that, and then on as if it
had come from the pod's link just now.

Invariant: what a pod sends is redirected only to a link that has its bucket already, and of all
this only the ifb link outlives the pod's own link.
"""

from __future__ import annotations

import errno

from network import rtnetlink, traffic_control
from network.bandwidth import Bandwidth, plan_bucket
from network.device import delete_owned, find_link
from network.hostnet import belongs_to
from network.names import Alias, egress_link_name, host_link_name
from network.netlink import Message, NetlinkSocket
from network.rtnetlink import Link
from network.shaping_path import Seen
from network.sysctls import set_sysctl
from runtime.errors import FailedPrecondition, HostFault

STEP = "limit the pod's bandwidth"

_ABSENT = (errno.ENOENT, errno.EOPNOTSUPP)
"""What the kernel says of a kind that it does not know and for which it has found no module."""


def limit(route: NetlinkSocket, pod: Alias, bandwidth: Bandwidth) -> None:
    """Keep the pod, which has its link, to these rates; what an earlier try has left is replaced.

    Raises:
        FailedPrecondition: the kernel lacks a module, which is named; or an interface of the
            name of the ifb link is not ours.
        HostFault: the link is gone, or the kernel refuses.
    """
    link = _expect(route, host_link_name(pod.subject), pod)
    if bandwidth.ingress:
        bucket = traffic_control.new_tbf(link.name, link.index, plan_bucket(bandwidth.ingress, link.mtu))
        _add(route, bucket, "sch_tbf", instead_of=traffic_control.delete_root(link.name, link.index))
    if bandwidth.egress:
        target = make_ifb(route, egress_link_name(pod.subject), pod)
        bucket = traffic_control.new_tbf(target.name, target.index, plan_bucket(bandwidth.egress, link.mtu))
        _add(route, bucket, "sch_tbf")
        place = traffic_control.new_ingress(link.name, link.index)
        _add(route, place, "sch_ingress", instead_of=traffic_control.delete_ingress(link.name, link.index))
        _add(route, traffic_control.new_redirect(link.name, link.index, target.index), "cls_u32 or act_mirred")


def unlimit(route: NetlinkSocket, pod: Alias) -> bool:
    """Delete what does not go with the pod's link; True if it was there. Waits for the kernel: some 30 ms."""
    return delete_owned(route, egress_link_name(pod.subject), pod)


def look(route: NetlinkSocket, sandbox_id: str) -> Seen:
    """What there is of a pod's buckets. Raises HostFault."""
    link, target = find_link(route, host_link_name(sandbox_id)), find_link(route, egress_link_name(sandbox_id))
    step = "look at the pod's bandwidth"
    rates = map(traffic_control.parse_rate, route.dump(traffic_control.dump_disciplines(), step=step))
    filters = route.dump(traffic_control.dump_filters(link.name, link.index), step=step) if link else ()
    redirects = map(traffic_control.parse_redirect, filters)
    return Seen(link, target, dict(filter(None, rates)), frozenset(each for each in redirects if each is not None))


def make_ifb(route: NetlinkSocket, name: str, pod: Alias) -> Link:
    """An ifb link of the pod, up; one that was there before is replaced.

    Raises:
        FailedPrecondition, HostFault: see ``limit``.
    """
    create = traffic_control.new_ifb(name, group=pod.group)
    try:
        _add(route, create, "ifb")
    except HostFault as fault:
        if fault.errno != errno.EEXIST:
            raise
        if not delete_owned(route, name, pod):
            raise FailedPrecondition("the interface exists and is not this pod's", step=STEP, object=name) from fault
        _add(route, create, "ifb")
    set_sysctl(f"ipv6/conf/{name}/disable_ipv6", "1")  # it would give itself an address, and speak
    route.transact([rtnetlink.set_link(name, up=True, alias=pod.encode())], step=STEP)
    return _expect(route, name, pod)


def _expect(route: NetlinkSocket, name: str, pod: Alias) -> Link:
    link = find_link(route, name)
    if link is None or not belongs_to(link, pod):
        raise HostFault("is not there", step=STEP, object=name, call="RTM_GETLINK", errno=errno.ENODEV)
    return link


def _add(route: NetlinkSocket, message: Message, module: str, *, instead_of: Message | None = None) -> None:
    """Send it; where something is in its place already, after the message ``instead_of``, which removes that."""
    try:
        route.transact([message], step=STEP)
    except HostFault as fault:
        if fault.errno in _ABSENT:
            words = f" ({fault.message.lower()})" if fault.message else ""
            lacking = f"this kernel has no {module}, a module that bandwidth limits need{words}"
            raise FailedPrecondition(lacking, step=STEP, object=message.object) from fault
        if fault.errno != errno.EEXIST or instead_of is None:
            raise
        route.transact([instead_of, message], step=STEP)
