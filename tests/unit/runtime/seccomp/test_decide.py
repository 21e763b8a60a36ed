from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.linux.libseccomp import ACT_ALLOW, act_errno
from runtime.seccomp.assemble import Graph
from runtime.seccomp.decide import Ranges, arguments, overlay, scattered, search, unlike
from runtime.seccomp.profile import Arg, Rule
from tests.unit.runtime.seccomp.interpreter import checked, evaluate

EPERM = act_errno(1)
BITS_32, BITS_64 = 2**32 - 1, 2**64 - 1
OPERATORS = ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ")
EDGES = [0, 1, 2, 37, 38, 40, 2**31, BITS_32 - 1, BITS_32, BITS_32 + 1, BITS_32 + 39, 2**63, BITS_64 - BITS_32]
EDGES += [BITS_64 - 1, BITS_64]


def node_of(ranges: Ranges, value: int) -> int:
    return [node for start, node in ranges if start <= value][-1]


def searched(ranges: Ranges, values: list[int]) -> list[int]:
    """What a search of ``ranges`` finds; the nodes are answers with the same number."""
    graph = Graph()
    answers = [(start, graph.answer(node)) for start, node in ranges]
    program = graph.assemble(graph.load(0, search(graph, answers)))
    return [evaluate(program, 0, value) for value in values]


# ---------------------------------------------------------------- ranges


def test_scattered_values_have_the_other_node_between_them() -> None:
    assert scattered({5: 1, 6: 1, 9: 2}, 0) == [(0, 0), (5, 1), (6, 1), (7, 0), (9, 2), (10, 0)]
    assert scattered({0: 1}, 0) == [(0, 1), (1, 0)]
    assert scattered({}, 7) == [(0, 7)]


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(0, 3)), max_size=8),
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(0, 3)), max_size=8),
)
def test_what_is_laid_over_is_what_counts(one: list[tuple[int, int, int]], two: list[tuple[int, int, int]]) -> None:
    tables = []
    for spans in (one, two):
        ranges: Ranges = [(0, 9)]
        expected = [9] * 50
        for first, last, node in spans:
            low, high = min(first, last), max(first, last)
            ranges = overlay(ranges, low, high, node)
            expected[low : high + 1] = [node] * (high + 1 - low)
        assert [node_of(ranges, value) for value in range(50)] == expected
        assert [start for start, _ in ranges] == sorted({start for start, _ in ranges})
        tables.append(ranges)
    difference = unlike(tables[0], tables[1], 77)
    for value in range(50):
        first_node, second_node = node_of(tables[0], value), node_of(tables[1], value)
        assert node_of(difference, value) == (77 if first_node == second_node else first_node)


# ---------------------------------------------------------------- the search


@given(st.dictionaries(st.integers(0, 700), st.integers(1, 4), max_size=300), st.integers(0, 4))
def test_every_value_finds_its_range(values: dict[int, int], otherwise: int) -> None:
    ranges = scattered(values, otherwise)
    numbers = [*range(0, 702), 2**31, BITS_32]
    assert searched(ranges, numbers) == [values.get(number, otherwise) for number in numbers]


def test_ranges_at_both_ends_of_32_bits() -> None:
    ranges = [(0, 1), (1, 2), (BITS_32, 3), (BITS_32 + 1, 4)]
    assert searched(ranges, [0, 1, BITS_32 - 1, BITS_32]) == [1, 2, 2, 3]


def test_lone_values_cost_one_instruction_each() -> None:
    graph = Graph()
    ranges = scattered({100: graph.answer(1), 200: graph.answer(1)}, graph.answer(0))
    assert len(checked(graph.assemble(search(graph, ranges)))) == 2 + 2


def test_one_range_needs_no_search() -> None:
    graph = Graph()
    answer = graph.answer(1)
    assert search(graph, [(0, answer), (7, answer)]) == answer


def test_a_search_of_alternating_ranges_is_short_and_shallow() -> None:
    graph = Graph()
    ranges = [(10 * number, graph.answer(number % 2)) for number in range(256)]
    program = graph.assemble(graph.load(0, search(graph, ranges)))
    assert len(checked(program)) <= 1 + 255 + 4
    deepest = 0
    for number in range(0, 2560, 10):
        at, steps, code = 1, 0, checked(program)
        while code[at][0] != 0x06:
            opcode, if_true, if_false, value = code[at]
            holds = number >= value if opcode == 0x35 else number == value
            at, steps = at + 1 + (value if opcode == 0x05 else if_true if holds else if_false), steps + 1
        deepest = max(deepest, steps)
    assert deepest <= 12


# ---------------------------------------------------------------- arguments


def compares(arg: Arg, value: int) -> bool:
    if arg.op == "MASKED_EQ":
        return value & arg.value == arg.value_two
    order = (value > arg.value) - (value < arg.value)
    return order in {"NE": (-1, 1), "LT": (-1,), "LE": (-1, 0), "EQ": (0,), "GE": (0, 1), "GT": (1,)}[arg.op]


def expected_action(rules: list[Rule], values: list[int]) -> int:
    for rule in rules:
        if all(compares(arg, values[arg.index]) for arg in rule.args):
            return rule.action
    return EPERM


def decided(rules: list[Rule], values: list[int], wide: bool = True) -> int:
    graph = Graph()
    program = graph.assemble(arguments(graph, rules, graph.answer(EPERM), wide))
    return evaluate(program, 0, 0, values)


@pytest.mark.parametrize("op", OPERATORS)
def test_each_comparison_at_the_edges_of_both_halves(op: str) -> None:
    for value in EDGES:
        for value_two in (0, value) if op == "MASKED_EQ" else (0,):
            rule = Rule(("x",), ACT_ALLOW, (Arg(2, op, value, value_two),))
            for given_value in EDGES:
                values = [0, 0, given_value, 0, 0, 0]
                assert decided([rule], values) == expected_action([rule], values), (value, given_value)
                if given_value <= BITS_32:
                    assert decided([rule], values, wide=False) == expected_action([rule], values), (value, given_value)


def test_a_masked_comparison_that_can_never_hold() -> None:
    outside = Rule(("x",), ACT_ALLOW, (Arg(0, "MASKED_EQ", 0, 1 << 40),))
    for wide in (True, False):
        assert decided([outside], [1 << 40 if wide else 0], wide) == EPERM
    graph = Graph()
    assert arguments(graph, [outside], graph.answer(EPERM), True) == graph.answer(EPERM)


NUMBERS = st.one_of(st.sampled_from(EDGES), st.integers(0, 50), st.integers(0, BITS_64))
ARGS = st.builds(Arg, st.integers(0, 2), st.sampled_from(OPERATORS), NUMBERS, st.one_of(NUMBERS, st.just(0)))
RULES = st.builds(
    Rule,
    st.just(("x",)),
    st.sampled_from([ACT_ALLOW, act_errno(38), act_errno(13)]),
    st.lists(ARGS, min_size=1, max_size=3).map(tuple),
)


@given(st.lists(RULES, min_size=1, max_size=8), st.lists(st.lists(NUMBERS, min_size=6, max_size=6), min_size=5))
def test_the_first_rule_that_holds_decides(rules: list[Rule], calls: list[list[int]]) -> None:
    for values in calls:
        assert decided(rules, values) == expected_action(rules, values)
        low = [value & BITS_32 for value in values]
        assert decided(rules, low, wide=False) == expected_action(rules, low)


def test_values_of_one_argument_are_one_search() -> None:
    rules = [Rule(("x",), ACT_ALLOW, (Arg(0, "EQ", value),)) for value in range(0, 64, 2)]
    graph = Graph()
    program = graph.assemble(arguments(graph, rules, graph.answer(EPERM), True))
    loads = [offset for opcode, _, _, offset in checked(program) if opcode == 0x20]
    assert loads == [20, 16]


def test_a_comparison_that_nobody_knows_is_refused() -> None:
    graph = Graph()
    with pytest.raises(ValueError, match="ABOUT"):
        arguments(graph, [Rule(("x",), ACT_ALLOW, (Arg(0, "ABOUT", 1),))], graph.answer(EPERM), True)
