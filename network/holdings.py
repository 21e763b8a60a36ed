"""What pods hold by the records, and what is on the host beyond that.

``network.bridge`` reads the records and has ``network.wiring`` look at the host (``Survey``); both come
together here.

Invariant: pure; an orphan is this instance's, and neither a pod that is known nor one that is
just departing has it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from network.elements import Element, Pod, plan_elements
from network.lease import Lease
from network.names import egress_link_name, host_link_name
from network.ports import describe
from network.provider import Orphan, OrphanKind, PortMapping
from network.rtnetlink import Link


@dataclass(frozen=True, slots=True)
class Survey:
    """This instance's objects in the kernel: links with their sandbox ids ('' where a kill came
    before the alias), and elements."""

    links: tuple[tuple[str, Link], ...]
    elements: tuple[Element, ...]


@dataclass(frozen=True, slots=True)
class Holdings:
    """The leases that are held, and host ports by the sandbox ids of who has them."""

    leases: Sequence[Lease]
    ports: Mapping[str, tuple[PortMapping, ...]]

    def pods(self) -> list[Pod]:
        """Who holds addresses, with all that each holds."""
        addresses: dict[str, tuple[str, ...]] = {}
        for lease in self.leases:
            addresses[lease.owner] = (*addresses.get(lease.owner, ()), lease.address)
        return [Pod(owner, theirs, self.ports.get(owner, ())) for owner, theirs in addresses.items()]

    def find_orphans(self, known: Collection[str], survey: Survey, departing: Collection[str]) -> tuple[Orphan, ...]:
        """What belongs to none of ``known``, sandbox ids. The links of those that are ``departing`` go by
        themselves."""
        return (
            *_links(known, survey, departing),
            *self._elements(known, survey),
            *self._claims(known),
            *(Orphan(OrphanKind.LEASE, each.address, each.owner) for each in self.leases if each.owner not in known),
        )

    def _elements(self, known: Collection[str], survey: Survey) -> Iterator[Orphan]:
        pods = [pod for pod in self.pods() if pod.sandbox_id in known]
        rightful = {element.identity for pod in pods for element in plan_elements(pod)}
        for element in survey.elements:
            if element.identity not in rightful:
                yield Orphan(OrphanKind.ELEMENT, element.describe(), element.owner)

    def _claims(self, known: Collection[str]) -> Iterator[Orphan]:
        for owner, mappings in self.ports.items():
            if owner not in known:
                yield from (Orphan(OrphanKind.HOST_PORT, describe(mapping), owner) for mapping in mappings)


def _links(known: Collection[str], survey: Survey, departing: Collection[str]) -> Iterator[Orphan]:
    # One that a kill left without an alias is known by its name alone.
    expected = {name(sandbox_id) for sandbox_id in known for name in (host_link_name, egress_link_name)}
    for owner, link in survey.links:
        if owner not in known and owner not in departing and link.name not in expected:
            yield Orphan(OrphanKind.LINK, link.name, owner)
