"""What a pod is in nftables: elements of the sets of ``network.nft_table``.

Pure. ``network.nft_messages`` encodes them, ``network.wiring`` adds and removes them.

Invariant: a pod's elements follow from its sandbox id and what it was given, so that
whoever knows those can remove them; each names the sandbox in its comment.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

PODS = {4: "pods_v4", 6: "pods_v6"}
"""The sets of pods' addresses by IP version."""
SUBNETS = {4: "subnets_v4", 6: "subnets_v6"}
_COMMENT = "pod "

ElementKey = tuple[str, bytes]
"""A set's name and the key in it, which is what an element is known by."""


@dataclass(frozen=True, slots=True)
class Element:
    """``key`` as the kernel has it in the set called ``set``; ``owner`` is a sandbox id, '' where
    nothing says so."""

    set: str
    key: bytes
    owner: str = ""

    @property
    def identity(self) -> ElementKey:
        return self.set, self.key

    @property
    def comment(self) -> str:
        return f"{_COMMENT}{self.owner}" if self.owner else ""

    def describe(self) -> str:
        return str(ip_address(self.key))


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod as the tables know it; ``addresses`` of any pool, of both IP versions."""

    sandbox_id: str
    addresses: tuple[str, ...]


def plan_elements(pod: Pod) -> list[Element]:
    """All elements of a pod."""
    found = map(ip_address, pod.addresses)
    return [Element(PODS[address.version], address.packed, pod.sandbox_id) for address in found]


def owner_in(comment: str) -> str:
    """The sandbox id of a comment that :class:`Element` made, or the comment itself."""
    return comment.removeprefix(_COMMENT)


def by_set(elements: Iterable[Element]) -> Mapping[str, Sequence[Element]]:
    """The same, grouped: a message to the kernel is about one set."""
    grouped: dict[str, list[Element]] = {}
    for element in elements:
        grouped.setdefault(element.set, []).append(element)
    return grouped
