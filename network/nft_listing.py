"""Chains and rules of all tables as nfnetlink asks for and lists them.

Pure: ``network.foreign`` looks with it at what others let through. Formats: nf_tables.h.

Invariant: what is listed is read only as far as it is understood; anything else about a
rule is its raw bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from network.netlink import NLM_F_ACK, NLM_F_DUMP, Message, Reply, attribute, iterate_attributes, parse_attributes, text
from network.nft_messages import comment_in, frame_batch, plan_header, plan_kind

FAMILIES = {1: "inet", 2: "ip", 10: "ip6"}
"""Those that see forwarded packets, as nft calls them."""
FORWARD = 2
"""NF_INET_FORWARD, linux/netfilter.h."""
DROP = 0
"""NF_DROP."""

_NFT_MSG_GETCHAIN, _NFT_MSG_GETRULE, _NFT_MSG_DELRULE = 4, 7, 8
_NFTA_CHAIN_TABLE, _NFTA_CHAIN_NAME, _NFTA_CHAIN_HOOK, _NFTA_CHAIN_POLICY = 1, 3, 4, 5
_NFTA_HOOK_HOOKNUM = 1
_NFTA_RULE_TABLE, _NFTA_RULE_CHAIN, _NFTA_RULE_HANDLE = 1, 2, 3
_NFTA_RULE_EXPRESSIONS, _NFTA_RULE_USERDATA = 4, 7
_NFTA_EXPR_NAME, _NFTA_EXPR_DATA = 1, 2
_NFTA_IMMEDIATE_DATA, _NFTA_DATA_VERDICT, _NFTA_VERDICT_CODE, _NFTA_TARGET_NAME = 2, 2, 1, 1


@dataclass(frozen=True, slots=True)
class Chain:
    """``hook`` and ``policy`` are None for a chain that is jumped to."""

    family: int
    table: str
    name: str
    hook: int | None = None
    policy: int | None = None

    def __str__(self) -> str:
        return f"{FAMILIES.get(self.family, self.family)} {self.table} {self.name}"


@dataclass(frozen=True, slots=True)
class Rule:
    """``refuses`` whether it drops or rejects every packet that comes to it; ``raw`` are its expressions."""

    handle: int
    comment: str
    refuses: bool
    raw: bytes


def plan_list_chains() -> Message:
    """A dump of all chains, for :func:`parse_chains`."""
    return Message("NFT_MSG_GETCHAIN", "", plan_kind(_NFT_MSG_GETCHAIN), NLM_F_DUMP, plan_header(0))


def parse_chains(replies: Iterable[Reply]) -> list[Chain]:
    found: list[Chain] = []
    for reply in replies:
        chain = parse_attributes(reply.body[4:])
        hook = parse_attributes(chain.get(_NFTA_CHAIN_HOOK, b""))
        found.append(
            Chain(
                family=reply.body[0],
                table=_text(chain.get(_NFTA_CHAIN_TABLE, b"")),
                name=_text(chain.get(_NFTA_CHAIN_NAME, b"")),
                hook=_number(hook.get(_NFTA_HOOK_HOOKNUM)),
                policy=_number(chain.get(_NFTA_CHAIN_POLICY)),
            )
        )
    return found


def plan_list_rules(chain: Chain) -> Message:
    """A dump of the rules of ``chain``, for :func:`parse_rules`."""
    body = plan_header(chain.family) + text(_NFTA_RULE_TABLE, chain.table) + text(_NFTA_RULE_CHAIN, chain.name)
    return Message("NFT_MSG_GETRULE", str(chain), plan_kind(_NFT_MSG_GETRULE), NLM_F_DUMP, body)


def parse_rules(replies: Iterable[Reply]) -> list[Rule]:
    """In the order in which packets come to them."""
    found: list[Rule] = []
    for reply in replies:
        rule = parse_attributes(reply.body[4:])
        raw = rule.get(_NFTA_RULE_EXPRESSIONS, b"")
        (handle,) = struct.unpack(">Q", rule.get(_NFTA_RULE_HANDLE, bytes(8)))
        found.append(Rule(handle, comment_in(rule.get(_NFTA_RULE_USERDATA, b"")), _refuses(raw), raw))
    return found


def plan_delete_rule(chain: Chain, rule: Rule) -> list[Message]:
    body = plan_header(chain.family) + text(_NFTA_RULE_TABLE, chain.table) + text(_NFTA_RULE_CHAIN, chain.name)
    body += attribute(_NFTA_RULE_HANDLE, struct.pack(">Q", rule.handle))
    return frame_batch([Message("NFT_MSG_DELRULE", str(chain), plan_kind(_NFT_MSG_DELRULE), NLM_F_ACK, body)])


def _refuses(expressions: bytes) -> bool:
    """Nothing but counting and logging comes before a drop or a reject."""
    listed = [parse_attributes(raw) for _, raw in iterate_attributes(expressions)]
    names = [_text(each.get(_NFTA_EXPR_NAME, b"")) for each in listed]
    if not names or not set(names[:-1]) <= {"counter", "log"}:
        return False
    data = parse_attributes(listed[-1].get(_NFTA_EXPR_DATA, b""))
    if names[-1] == "immediate":
        verdict = parse_attributes(parse_attributes(data.get(_NFTA_IMMEDIATE_DATA, b"")).get(_NFTA_DATA_VERDICT, b""))
        return _number(verdict.get(_NFTA_VERDICT_CODE)) == DROP
    return names[-1] == "reject" or (
        names[-1] == "target" and _text(data.get(_NFTA_TARGET_NAME, b"")) in ("DROP", "REJECT")
    )


def _text(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode(errors="replace")


def _number(raw: bytes | None) -> int | None:
    return int.from_bytes(raw, "big") if raw else None
