"""Decisions as a graph, and the BPF program that walks it.

``decide`` builds the graph, ``compile`` gives it the rules. A node is one instruction
and where to go from it. Equal nodes are one node, so that what two architectures or
two calls decide alike is in the program once.

Classic BPF only jumps forward, and a comparison only over 255 instructions. A node
can only be made of nodes that exist, so the order in which nodes were made, read
backwards, is a program in which every jump is forward. It is assembled in that
direction, last instruction first: then the place of every target is known, and a
target that is out of reach gets a stepping stone (or, a return, a copy) in front of
what is there already. Nothing can run into that by accident: comparisons name both
of their targets, and only loads and masks go on to the instruction behind them.

Source: seccomp(2), Documentation/networking/filter.rst of the kernel.

Invariant: the program decides what the graph decides, and every path ends in a return.
"""

from __future__ import annotations

import struct

EQUAL, ABOVE, FROM = 0x15, 0x25, 0x35
"""Comparisons of the accumulator with a constant, unsigned: BPF_JMP|BPF_K with JEQ, JGT, JGE."""

_LOAD, _AND, _RETURN, _JUMP = 0x20, 0x54, 0x06, 0x05  # BPF_LD|W|ABS, BPF_ALU|AND|K, BPF_RET|K, BPF_JMP|JA
_INSTRUCTION = struct.Struct("=HBBI")  # struct sock_filter: code, jt, jf, k
_REACH = 253  # of the 255 that a comparison reaches: one stone for each of its targets may come between

Node = int
"""A node of one Graph: its place in the order in which they were made."""


class Graph:
    """Nodes under construction. The kernel's accumulator has what the last load on the way left there."""

    def __init__(self) -> None:
        self._nodes: list[tuple[int, int, tuple[Node, ...]]] = []
        self._known: dict[tuple[int, int, tuple[Node, ...]], Node] = {}

    def answer(self, action: int) -> Node:
        """The end: SECCOMP_RET_* ``action``."""
        return self._node(_RETURN, action)

    def load(self, offset: int, then: Node) -> Node:
        """Put the 32 bits at ``offset`` of struct seccomp_data into the accumulator, then go on."""
        return self._node(_LOAD, offset, then)

    def mask(self, bits: int, then: Node) -> Node:
        """Clear all but ``bits`` of the accumulator, then go on."""
        return self._node(_AND, bits, then)

    def test(self, comparison: int, value: int, yes: Node, no: Node) -> Node:
        """Go to ``yes`` if the accumulator is EQUAL to, ABOVE or FROM ``value`` on, else to ``no``."""
        return yes if yes == no else self._node(comparison, value, yes, no)

    def assemble(self, start: Node) -> bytes:
        """The program that begins at ``start``: an array of struct sock_filter. Nodes that
        cannot be reached from there are not in it."""
        layout = _Layout(self._nodes)
        for node in sorted(self._reachable(start)):
            layout.place(node)
        return layout.program()

    def _reachable(self, start: Node) -> set[Node]:
        found = {start}
        for node in range(start, -1, -1):  # targets are older than what leads to them
            if node in found:
                found.update(self._nodes[node][2])
        return found

    def _node(self, code: int, value: int, *targets: Node) -> Node:
        key = (code, value, targets)
        node = self._known.setdefault(key, len(self._nodes))
        if node == len(self._nodes):
            self._nodes.append(key)
        return node


class _Layout:
    """A program that grows at its front; a place is counted from its end."""

    def __init__(self, nodes: list[tuple[int, int, tuple[Node, ...]]]) -> None:
        self._nodes = nodes
        self._backwards: list[bytes] = []
        self._places: dict[Node, int] = {}

    def place(self, node: Node) -> None:
        code, value, targets = self._nodes[node]
        jumps = (0, 0)
        if code in (_LOAD, _AND):
            self._continue_at(targets[0])
        elif targets:
            for target in targets:
                self._bring_near(target)
            jumps = self._distance(targets[0]), self._distance(targets[1])
        self._put(node, _INSTRUCTION.pack(code, *jumps, value))

    def program(self) -> bytes:
        return b"".join(reversed(self._backwards))

    def _put(self, node: Node, instruction: bytes) -> None:
        self._places[node] = len(self._backwards)
        self._backwards.append(instruction)

    def _distance(self, target: Node) -> int:
        """What is jumped over from an instruction that is put now."""
        return len(self._backwards) - self._places[target] - 1

    def _continue_at(self, target: Node) -> None:
        """Make ``target`` the next instruction, or a jump to it."""
        if self._distance(target) > 0:
            self._put_stone(target)

    def _bring_near(self, target: Node) -> None:
        if self._distance(target) > _REACH:
            self._put_stone(target)

    def _put_stone(self, target: Node) -> None:
        """From here on whoever wants to go to ``target`` goes here."""
        code, value, _ = self._nodes[target]
        jump = (_RETURN, value) if code == _RETURN else (_JUMP, self._distance(target))
        self._put(target, _INSTRUCTION.pack(jump[0], 0, 0, jump[1]))
