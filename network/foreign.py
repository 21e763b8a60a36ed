"""What tables of others do with the packets of pods that this node forwards.

A packet is through when every table lets it through: an accept of our own does not
override a drop of another's. So a chain that refuses what none of its rules accepts is
found and explained, and where the settings want it so, rules for the pods' bridge go to
its beginning (``DOCKER-USER``'s, where Docker has one for that). ``network.forward_rules``
says when.

Invariant: of others' tables nothing is changed but rules with this instance's comment.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from network.netlink import NetlinkSocket
from network.nft_listing import (
    DROP,
    FAMILIES,
    FORWARD,
    Chain,
    Rule,
    parse_chains,
    parse_rules,
    plan_delete_rule,
    plan_list_chains,
    plan_list_rules,
)
from runtime.errors import HostFault

_STEP = "look at the forwarding of other tables"
_DOCKER = "DOCKER-USER"
_OURS = "crisp_"
_VERSIONS = {"inet": {4, 6}, "ip": {4}, "ip6": {6}}
SETTING = "[network] forward_rule = true"


@dataclass(frozen=True, slots=True)
class Obstacle:
    """``chain`` refuses what none of its rules accepts; ``entry`` is where a rule for pods belongs."""

    chain: Chain
    entry: Chain

    def describe(self, bridge: str) -> str:
        return (
            f"the chain {self.chain} drops what none of its rules accepts, and no rule names {bridge}: "
            f"pods may reach this node only. {SETTING} lets them through, as does nft insert rule {self.entry} "
            f'iifname "{bridge}" accept, and the same with oifname'
        )


class Others:
    """Other tables as they are now; blocking, of the thread and the namespace of ``netfilter``."""

    def __init__(self, netfilter: NetlinkSocket, instance: str, bridge: str) -> None:
        self._netfilter = netfilter
        self._bridge = bridge
        self._comment = f"crisp {instance}"

    def obstacles(self, versions: Collection[int]) -> list[Obstacle]:
        """What keeps packets of these IP versions from being forwarded, unless a rule for the bridge is there."""
        found = plan_obstacles(self._chains(), versions, self._rules)
        return [each for each in found if not self._is_known_in(each.chain) and not self._is_known_in(each.entry)]

    def plan_entries(self, obstacles: Collection[Obstacle]) -> str:
        """The text for ``nft`` that lets pods through."""
        return "".join(
            f'insert rule {obstacle.entry} {side} "{self._bridge}" counter accept comment "{self._comment}"\n'
            for obstacle in obstacles
            for side in ("iifname", "oifname")
        )

    def remove_entries(self) -> int:
        """Remove the rules that were made of :meth:`plan_entries`, wherever they are; how many."""
        removed = 0
        for chain in self._chains():
            if chain.hook == FORWARD or chain.name == _DOCKER:
                for rule in self._rules(chain):
                    if rule.comment == self._comment:
                        self._netfilter.transact(plan_delete_rule(chain, rule), step="remove the rule for pods")
                        removed += 1
        return removed

    def _is_known_in(self, chain: Chain) -> bool:
        """Whether a rule names the bridge, ours or one that somebody has made by hand."""
        return any(self._bridge.encode() + b"\0" in rule.raw for rule in self._rules(chain))

    def _chains(self) -> list[Chain]:
        return parse_chains(self._netfilter.dump(plan_list_chains(), step=_STEP))

    def _rules(self, chain: Chain) -> list[Rule]:
        try:
            return parse_rules(self._netfilter.dump(plan_list_rules(chain), step=_STEP))
        except HostFault as fault:
            if fault.errno == errno.ENOENT:  # it has gone meanwhile
                return []
            raise


def plan_obstacles(
    chains: Collection[Chain], versions: Collection[int], rules_of: Callable[[Chain], list[Rule]]
) -> Iterator[Obstacle]:
    """The chains of others that refuse what they do not know. Tables of crisp's are none: they drop nothing."""
    for chain in chains:
        family = FAMILIES.get(chain.family, "")
        if chain.hook != FORWARD or chain.table.startswith(_OURS) or not _VERSIONS.get(family, set()) & set(versions):
            continue
        rules = rules_of(chain)
        if chain.policy == DROP or (rules and rules[-1].refuses):
            docker = Chain(chain.family, chain.table, _DOCKER)
            yield Obstacle(chain, docker if docker in chains else chain)
