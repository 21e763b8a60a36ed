from __future__ import annotations

import random
import struct

from hypothesis import given
from hypothesis import strategies as st

from runtime.seccomp.assemble import ABOVE, EQUAL, FROM, Graph, Node
from tests.unit.runtime.seccomp.interpreter import checked, evaluate

NR, ARCH = 0, 4


def test_a_program_that_only_answers() -> None:
    graph = Graph()
    assert graph.assemble(graph.answer(0x50026)) == struct.pack("=HBBI", 0x06, 0, 0, 0x50026)


def test_the_comparisons_are_unsigned_and_exact() -> None:
    graph = Graph()
    yes, no = graph.answer(1), graph.answer(2)
    for comparison, expected in ((EQUAL, [2, 1, 2]), (ABOVE, [2, 2, 1]), (FROM, [2, 1, 1])):
        program = graph.assemble(graph.load(NR, graph.test(comparison, 0x8000_0000, yes, no)))
        assert [evaluate(program, 0, number) for number in (0x7FFF_FFFF, 0x8000_0000, 0x8000_0001)] == expected


def test_a_mask_keeps_its_bits() -> None:
    graph = Graph()
    compared = graph.test(EQUAL, 0x0F, graph.answer(1), graph.answer(2))
    program = graph.assemble(graph.load(NR, graph.mask(0x0F, compared)))
    assert [evaluate(program, 0, number) for number in (0xFF, 0x0F, 0xF0)] == [1, 1, 2]


def test_equal_nodes_are_one_and_a_comparison_that_decides_nothing_is_none() -> None:
    graph = Graph()
    one = graph.answer(1)
    assert graph.answer(1) == one
    assert graph.test(EQUAL, 5, one, one) == one
    assert graph.load(NR, one) == graph.load(NR, one)
    assert graph.load(NR, one) != graph.load(ARCH, one)


def test_what_cannot_be_reached_is_not_in_the_program() -> None:
    graph = Graph()
    start = graph.answer(1)
    graph.load(NR, graph.answer(2))
    assert len(checked(graph.assemble(start))) == 1


def test_a_load_jumps_to_what_is_not_behind_it() -> None:
    graph = Graph()
    common = graph.test(EQUAL, 7, graph.answer(1), graph.answer(2))
    by_number, by_arch = graph.load(NR, common), graph.load(ARCH, common)
    program = graph.assemble(graph.load(ARCH, graph.test(EQUAL, 9, by_number, by_arch)))
    assert evaluate(program, 9, 7) == 1
    assert evaluate(program, 7, 0) == 1
    assert evaluate(program, 8, 7) == 2


def chain(length: int, shared: int) -> tuple[Graph, Node]:
    """One comparison after the other, with the same two subtrees as targets from everywhere."""
    graph = Graph()
    far = graph.load(ARCH, graph.test(EQUAL, shared, graph.answer(1), graph.answer(2)))
    node = graph.answer(3)
    for value in range(length):
        node = graph.test(EQUAL, value, far if value % 2 else graph.answer(4), node)
    return graph, graph.load(NR, node)


def test_targets_beyond_the_reach_of_a_comparison() -> None:
    graph, start = chain(3000, shared=11)
    program = graph.assemble(start)
    for number in (0, 1, 2, 253, 254, 255, 256, 257, 1000, 1001, 2998, 2999):
        assert evaluate(program, 11, number) == (1 if number % 2 else 4)
        assert evaluate(program, 12, number) == (2 if number % 2 else 4)
    assert evaluate(program, 11, 3000) == 3


@given(st.integers(245, 262), st.booleans(), st.booleans())
def test_both_targets_at_the_edge_of_the_reach(between: int, near_first: bool, answers: bool) -> None:
    """The stepping stone for one target must not push the other out of reach."""
    graph = Graph()
    far, near = (graph.answer(number) if answers else graph.load(ARCH, graph.answer(number)) for number in (1, 2))
    node = graph.answer(3)
    for value in range(between):
        node = graph.test(EQUAL, 10_000 + value, graph.answer(4), node)
    yes, no = (near, far) if near_first else (far, near)
    last = graph.test(EQUAL, 5, yes, no)
    program = graph.assemble(graph.load(NR, graph.test(FROM, 10_000, node, last)))
    assert evaluate(program, 0, 5) == (2 if near_first else 1)
    assert evaluate(program, 0, 6) == (1 if near_first else 2)
    assert evaluate(program, 0, 10_000 + between - 1) == 4


def walk(meaning: dict[Node, tuple[int, ...]], node: Node, fields: dict[int, int]) -> int:
    """The answer of a graph, from (code, value, targets) of its nodes; a load's code is -1, an answer's -2."""
    accumulator = fields[NR]
    while True:
        code, value, *targets = meaning[node]
        if code == -2:
            return value
        if code == -1:
            accumulator, node = fields[value], targets[0]
        else:
            holds = {EQUAL: accumulator == value, ABOVE: accumulator > value, FROM: accumulator >= value}[code]
            node = targets[0] if holds else targets[1]


@given(st.builds(random.Random, st.integers(0, 1 << 32)), st.integers(2, 900))
def test_any_graph_decides_as_its_nodes_do(chance: random.Random, size: int) -> None:
    graph = Graph()
    meaning: dict[Node, tuple[int, ...]] = {graph.answer(action): (-2, action) for action in range(3)}
    for _ in range(size):
        yes, no = chance.choice(list(meaning)), chance.choice(list(meaning)[-20:])
        value, offset = chance.randrange(16), chance.choice((NR, ARCH))
        if chance.random() < 0.2:
            meaning[graph.load(offset, no)] = (-1, offset, no)
        elif yes != no:
            comparison = chance.choice((EQUAL, ABOVE, FROM))
            meaning[graph.test(comparison, value, yes, no)] = (comparison, value, yes, no)
    start = max(meaning)
    program = graph.assemble(graph.load(NR, start))
    for number in range(17):
        assert evaluate(program, 16 - number, number) == walk(meaning, start, {NR: number, ARCH: 16 - number})
