"""The list of advisories and the tests are of one mind."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

from tests.security.advisories import LIST, Advisory

pytestmark = pytest.mark.leaks("module")

HERE = Path(__file__).resolve().parent
ID = re.compile(r"CVE-\d{4}-\d{4,7}|GHSA-\w{4}")
CONCERNED = [each for each in LIST if not each.none]


@functools.cache
def sources_of(module: str) -> dict[str, str]:
    """The source of each function of a module, by its name."""
    text = (HERE / f"{module}.py").read_text()
    found = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found[node.name] = ast.get_source_segment(text, node) or ""
    return found


def test_at_least_forty_advisories_are_tried_here() -> None:
    ours = [each for each in CONCERNED if not any(module.startswith("..") for module, _ in each.tests())]
    assert len({name for each in ours for name in each.names()}) >= 80
    assert len(ours) >= 40
    assert all(each.attacks and each.weak for each in CONCERNED)


@pytest.mark.parametrize("each", CONCERNED, ids=[" ".join(each.names()) for each in CONCERNED])
def test_an_advisory_succeeds_somewhere_and_fails_elsewhere(each: Advisory) -> None:
    sources = [sources_of(module)[name] for module, name in each.tests()]
    if not any(module.startswith("..") for module, _ in each.tests()):
        assert re.search("as (it was|they were)|weak", sources[0])
    for name in each.names():
        assert any(name in source for source in sources), name


def test_every_advisory_that_a_test_names_is_listed() -> None:
    listed = {name for each in LIST for name in each.names()}
    assert len(listed) == sum(len(each.names()) for each in LIST)
    for path in HERE.glob("test_*.py"):
        assert set(ID.findall(path.read_text())) <= listed, path.name
