"""What keeps a pod to its bandwidth, piece by piece: for ``crisp explain``.

``network.shaping`` looks (``Seen``), ``cri.path`` knows the rates that there have to be.

Invariant: pure; each direction that is limited has its hops, which say what is missing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from network.bandwidth import Bandwidth, plan_bucket
from network.names import egress_link_name, host_link_name
from network.path import describe_link
from network.provider import Hop
from network.rtnetlink import Link


@dataclass(frozen=True, slots=True)
class Seen:
    """What there is: ``link`` is the host's end of the pod's, ``target`` the ifb link, ``rates`` the bytes a
    second of the token buckets by the index of their links. ``redirects`` are the indices to which what comes
    by ``link`` is led, 0 for a link that is gone."""

    link: Link | None
    target: Link | None
    rates: Mapping[int, int]
    redirects: Collection[int]


def plan_limits(sandbox_id: str, bandwidth: Bandwidth, seen: Seen) -> tuple[Hop, ...]:
    """Of what the pod receives, then of what it sends."""
    name, target = host_link_name(sandbox_id), egress_link_name(sandbox_id)
    hops: list[Hop] = []
    if bandwidth.ingress:
        hops.append(_bucket("receives", name, seen.link, bandwidth.ingress, seen.rates))
    if bandwidth.egress:
        hops += _redirection(name, target, seen)
        hops.append(_bucket("sends", target, seen.target, bandwidth.egress, seen.rates))
    return tuple(hops)


def _redirection(name: str, target: str, seen: Seen) -> Iterator[Hop]:
    link = seen.target
    if link is None or link.kind != "ifb":
        yield Hop("egress link", target, missing="there is no ifb link of this name")
    else:
        yield Hop("egress link", target, describe_link(link), "" if link.up else "it is down")
    on = f"{name} to {target}"
    if link is not None and link.index in seen.redirects:
        yield Hop("redirection", on, "all that the pod sends")
    elif 0 in seen.redirects:
        yield Hop("redirection", on, missing="it leads to a link that is gone: what the pod sends is dropped")
    else:
        yield Hop("redirection", on, missing="there is none: what the pod sends is not limited")


def _bucket(verb: str, name: str, link: Link | None, wanted: int, rates: Mapping[int, int]) -> Hop:
    what, rate = f"{verb} {wanted} bit/s at most", rates.get(link.index) if link else None
    if rate is None:
        return Hop("bandwidth", what, missing=f"no token bucket on {name}")
    expected = plan_bucket(wanted, 0).rate
    return Hop("bandwidth", what, f"tbf of {name}", "" if rate == expected else f"its rate is {rate * 8} bit/s")
