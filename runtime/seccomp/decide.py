"""From ranges of values to a search, and from comparisons of arguments to ranges.

``compile`` has ranges of system calls, ``assemble`` the nodes that a search is made
of. Everything is a list of ranges in the end: a call's number has 32 bits, and an
argument's 64 are a range of upper halves, each with its ranges of lower halves.

What a program costs is paid when it is loaded, at each start of a process: the kernel
checks and translates each instruction, and runs the program once for every call it
knows to learn which ones are always allowed. So a search has few instructions (a lone
value within a range is one EQUAL, not two bounds) and short ways to wide ranges.

Invariant: each value gets the node of its range, whatever the search looks like.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from runtime.seccomp.assemble import EQUAL, FROM, Graph, Node
from runtime.seccomp.profile import Arg, Rule

Ranges = list[tuple[int, Node]]
"""(first value, node), ascending from 0; a range ends where the next begins."""

_BITS_32 = 0xFFFF_FFFF
_BITS_64 = 0xFFFF_FFFF_FFFF_FFFF
_ARGUMENTS = 16  # offset of args in struct seccomp_data
_LONE_VALUES = 3  # at most in one block: each costs an instruction on the way to all of it
_WIDTH_THAT_COUNTS = 64  # of a range when ways are weighed: what is above all calls is wide, but never taken


@dataclass(frozen=True, slots=True)
class _Block:
    """A run of ranges that are all ``node`` but for ``lone`` values."""

    first: int
    width: int
    node: Node
    lone: tuple[tuple[int, Node], ...]


def scattered(nodes: Mapping[int, Node], otherwise: Node) -> Ranges:
    """``nodes`` by value, and ``otherwise`` for all the values between."""
    ranges: Ranges = [(0, otherwise)]
    for value in sorted(nodes):
        if ranges[-1][0] == value:
            ranges.pop()
        ranges += [(value, nodes[value]), (value + 1, otherwise)]
    return ranges


def overlay(ranges: Ranges, first: int, last: int, node: Node) -> Ranges:
    """``ranges`` with ``node`` for the values ``first`` to ``last``."""
    below = [(start, other) for start, other in ranges if start < first]
    behind = (last + 1, _at(ranges, last + 1))
    above = [(start, other) for start, other in ranges if start > last + 1]
    return [*below, (first, node), behind, *above]


def unlike(ranges: Ranges, others: Ranges, same: Node) -> Ranges:
    """``ranges`` with ``same`` for the values that have the same node in ``others``."""
    starts = sorted({start for start, _ in [*ranges, *others]})
    pairs = ((start, _at(ranges, start), _at(others, start)) for start in starts)
    return [(start, same if node == other else node) for start, node, other in pairs]


def search(graph: Graph, ranges: Ranges) -> Node:
    """Go to the node of the range that the accumulator is in.

    Args:
        ranges: of 32-bit values; what begins above them is never reached.
    """
    return _split(graph, _blocks(_merged(ranges)))


def arguments(graph: Graph, rules: Sequence[Rule], otherwise: Node, wide: bool) -> Node:
    """The action of the first of ``rules`` (all for one call) whose comparisons hold, else ``otherwise``.

    Args:
        wide: arguments have 64 bits; else the upper half is known to be 0 and not looked at.
    """
    node = otherwise
    for index, group in itertools.groupby(reversed(rules), _only_argument):
        if index is None:
            for rule in group:
                node = _all_hold(graph, rule, node, wide)
            continue
        ranges = [(0, node)]
        for rule in group:  # the first rule is laid on last
            for first, last in _intervals(rule.args[0]):
                ranges = overlay(ranges, first, last, graph.answer(rule.action))
        node = _by_argument(graph, index, ranges, wide)
    return node


def _only_argument(rule: Rule) -> int | None:
    """Rules about the value of one argument alone are decided together, by one search."""
    return rule.args[0].index if len(rule.args) == 1 and rule.args[0].op != "MASKED_EQ" else None


def _all_hold(graph: Graph, rule: Rule, otherwise: Node, wide: bool) -> Node:
    node = graph.answer(rule.action)
    for arg in reversed(rule.args):
        if arg.op == "MASKED_EQ":
            node = _masked(graph, arg, node, otherwise, wide)
            continue
        ranges = [(0, otherwise)]
        for first, last in _intervals(arg):
            ranges = overlay(ranges, first, last, node)
        node = _by_argument(graph, arg.index, ranges, wide)
    return node


def _intervals(arg: Arg) -> Iterable[tuple[int, int]]:
    """First and last of the values for which the comparison holds; ValueError for an unknown one."""
    value = arg.value
    below, above = (0, value - 1), (value + 1, _BITS_64)
    holds = {
        "EQ": [(value, value)],
        "NE": [below, above],
        "LT": [below],
        "LE": [(0, value)],
        "GE": [(value, _BITS_64)],
        "GT": [above],
    }
    if arg.op not in holds:
        raise ValueError(f"no comparison of arguments is called {arg.op}")
    return [(first, last) for first, last in holds[arg.op] if first <= last]


def _masked(graph: Graph, arg: Arg, yes: Node, no: Node, wide: bool) -> Node:
    """Both halves of the argument, under those of the mask, equal those of the wanted value."""
    node = yes
    for half in (0, 1):
        bits, wanted = (number >> 32 * half & _BITS_32 for number in (arg.value, arg.value_two))
        if bits and (wide or half == 0):
            equal = graph.test(EQUAL, wanted, node, no)
            node = no if equal == no else graph.load(_offset(arg.index, half), graph.mask(bits, equal))
        elif wanted:
            node = no
    return node


def _by_argument(graph: Graph, index: int, ranges: Ranges, wide: bool) -> Node:
    """Search the upper half of an argument, and the lower half where that does not decide."""
    ends = [*(start for start, _ in ranges[1:]), _BITS_64 + 1]
    lower: dict[int, Ranges] = {}
    for (start, node), end in zip(ranges, ends, strict=True):
        for half in {start >> 32, (start + _BITS_32) >> 32, end >> 32}:
            begin = max(start, half << 32)
            if begin < min(end, half + 1 << 32):
                lower.setdefault(half, []).append((begin & _BITS_32, node))
    upper = [(half, _lower_half(graph, index, lower[half])) for half in sorted(lower)]
    if not wide or len(_merged(upper)) == 1:
        return upper[0][1]
    return graph.load(_offset(index, 1), search(graph, upper))


def _lower_half(graph: Graph, index: int, ranges: Ranges) -> Node:
    if len(_merged(ranges)) == 1:
        return ranges[0][1]
    return graph.load(_offset(index, 0), search(graph, ranges))


def _offset(index: int, half: int) -> int:
    """Of an argument's lower (0) or upper half, on the little-endian machines that have a profile."""
    return _ARGUMENTS + 8 * index + 4 * half


def _at(ranges: Ranges, value: int) -> Node:
    return ranges[bisect_right(ranges, value, key=_start) - 1][1]


def _start(piece: tuple[int, Node]) -> int:
    return piece[0]


def _merged(ranges: Ranges) -> Ranges:
    """Neighbours with one node made one range, and what 32 bits do not reach left out."""
    merged: Ranges = []
    for start, node in ranges:
        if start <= _BITS_32 and not (merged and merged[-1][1] == node):
            merged.append((start, node))
    return merged


def _blocks(ranges: Ranges) -> list[_Block]:
    """The cheapest cut of ``ranges`` into blocks, where a block costs one instruction and each of its
    lone values another. By dynamic programming: cheapest[n] is for the first n ranges, the last
    block of which begins at the range begins[n]."""
    bounds = [*(start for start, _ in ranges), _BITS_32 + 1]
    cheapest, begins, nodes = [0], [0], [ranges[0][1]]
    for end in range(1, len(bounds)):
        cost, begin, node = min(
            (cheapest[begin] + 1 + lone, begin, node) for begin, lone, node in _runs(ranges, bounds, end)
        )
        cheapest.append(cost)
        begins.append(begin)
        nodes.append(node)
    blocks = []
    end = len(ranges)
    while end:
        run = ranges[begins[end] : end]
        lone = tuple(piece for piece in run if piece[1] != nodes[end])
        blocks.append(_Block(run[0][0], bounds[end] - run[0][0], nodes[end], lone))
        end = begins[end]
    return blocks[::-1]


def _runs(ranges: Ranges, bounds: Sequence[int], end: int) -> Iterable[tuple[int, int, Node]]:
    """The blocks that end before the range ``end``: where they begin, how many lone values, their node."""
    wide: set[Node] = set()
    counts: dict[Node, int] = {}
    for begin in range(end - 1, max(-1, end - 2 * _LONE_VALUES - 2), -1):
        node = ranges[begin][1]
        counts[node] = counts.get(node, 0) + 1
        if bounds[begin + 1] - bounds[begin] > 1:
            wide.add(node)
        if len(wide) > 1:
            return
        main = next(iter(wide)) if wide else max(counts, key=counts.__getitem__)
        if end - begin - counts[main] <= _LONE_VALUES:
            yield begin, end - begin - counts[main], main


def _split(graph: Graph, blocks: Sequence[_Block]) -> Node:
    """A search that cuts the blocks where both sides are about as wide."""
    if len(blocks) == 1:
        node = blocks[0].node
        for value, other in blocks[0].lone:
            node = graph.test(EQUAL, value, other, node)
        return node
    weights = list(itertools.accumulate(min(block.width, _WIDTH_THAT_COUNTS) for block in blocks))
    cut = min(range(1, len(blocks)), key=lambda at: abs(2 * weights[at - 1] - weights[-1]))
    above, below = _split(graph, blocks[cut:]), _split(graph, blocks[:cut])
    return graph.test(FROM, blocks[cut].first, above, below)
