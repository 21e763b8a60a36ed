"""The nftables ruleset as lines that two snapshots can be compared by (``tests.leaks``).

Invariant: only what somebody added or took away differs; what counts by itself does not.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import struct
import subprocess
from collections.abc import Iterator

NETLINK_NETFILTER = 12
NFT_GETGEN = 10 << 8 | 16  # NFNL_SUBSYS_NFTABLES, NFT_MSG_GETGEN

_ruleset: tuple[int, list[str]] = (-1, [])


def list_rules() -> list[str]:
    """Tables, chains, rules, sets and elements. ``nft`` runs only if the kernel's generation
    counter has moved since the last look."""
    global _ruleset
    generation = read_generation()
    if generation is None:
        return []
    if generation != _ruleset[0]:
        # Not as JSON: nft 1.0.6 of Debian 12 dies of rules that iptables-nft made.
        command = ["nft", "--handle", "list", "ruleset"]
        listed = subprocess.run(command, capture_output=True, text=True, check=True, env=nft_environment())
        _ruleset = (generation, list(flatten(listed.stdout)))
    return _ruleset[1]


def nft_environment() -> dict[str, str]:
    return {**os.environ, "PATH": os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"}


def read_generation() -> int | None:
    """The ruleset's generation (NFTA_GEN_ID); None where the kernel has no nf_tables or we may not ask."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as asked:
        asked.sendto(struct.pack("=IHHIIBBH", 20, NFT_GETGEN, 1, 1, 0, 0, 0, 0), (0, 0))
        answer = asked.recv(4096)
        if len(answer) >= 28 and struct.unpack_from("=H", answer, 4)[0] != 2:  # NLMSG_ERROR
            return int(struct.unpack_from(">I", answer, 24)[0])
    return None


def flatten(ruleset: str) -> Iterator[str]:
    """A line for each object, with those that it is in before it, and for each element; without
    what changes by itself (counters, expiry)."""
    within: list[str] = []
    text = re.sub(r"(packets|bytes|expires) \w+", r"\1 0", ruleset)
    # The elements of a set are one statement over several lines.
    text = re.sub(r"elements = \{[^\"}]*(\"[^\"]*\"[^\"}]*)*\}", lambda found: " ".join(found[0].split()), text)
    for line in filter(None, map(str.strip, text.splitlines())):
        if line == "}":
            within.pop()
        elif line.startswith("elements = "):
            for element in re.findall(r"((?:[^,\"{}]|\"[^\"]*\")+)", line.removeprefix("elements = ")):
                yield f"{' '.join(within)} element {element.strip()}"
        else:
            opens = re.fullmatch(r"(.*) \{( # handle \d+)?", line)
            yield " ".join([*within, f"{opens[1]}{opens[2] or ''}" if opens else line])
            if opens:
                within.append(opens[1])
