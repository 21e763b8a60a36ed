"""The rules that the source tree keeps and that no linter knows."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import tree
from tests.tree import ROOT

UNMIRRORED = (
    "tests/unit/test_tree.py",
    "tests/unit/proto/",
    "tests/unit/deploy/",
    "tests/unit/bench/",
    "tests/unit/conformance/",
    "tests/unit/guest/",
    "tests/unit/runtime/rootfs/test_making.py",
    "tests/kernel/network/traffic/",  # of packets, whichever modules let them pass
    "tests/kernel/test_leaks.py",
    "tests/kernel/runtime/test_launch.py",  # of launch.c
)
"""Test modules that have no source module: what they test is not a module."""

BANNED_NAMES = re.compile(r"(?i)(manager|helper|utils?)(?![a-z])|Manager|Helper|Utils?")
BANNED_WORDS = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
TEST = re.compile(r" *(?:async )?def (test_\w*)")
FORKS = re.compile(r"runtime/(zygote|monitor\w*|linux/process)\.py")
MODULE_LINES, FUNCTION_LINES = 300, 40

SOURCES = tree.list_sources()
TREES = {path: ast.parse((ROOT / path).read_text()) for path in SOURCES}


def calls(module: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything that is called; a call in the middle is ``()``."""
    for node in ast.walk(module):
        if isinstance(node, ast.Call):
            yield node.lineno, re.sub(r"\(.*?\)", "()", ast.unparse(node.func))


def imports(module: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def functions(module: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    yield from (node for node in ast.walk(module) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def places(find: Callable[[ast.Module], Iterator[tuple[int, str]]], pattern: str) -> list[str]:
    """``path:line`` of what ``find`` yields and ``pattern`` matches wholly."""
    found = ((path, line, name) for path, module in TREES.items() for line, name in find(module))
    return [f"{path}:{line}" for path, line, name in found if re.fullmatch(pattern, name)]


def test_every_source_module_has_exactly_one_test_module() -> None:
    found = {path: tree.tests_of(path) for path in SOURCES}
    wrong = [f"{path}: {', '.join(map(str, tests)) or 'none'}" for path, tests in found.items() if len(tests) != 1]
    assert not wrong, "\n".join(wrong)


def test_every_test_module_has_a_source_module() -> None:
    known = {place for source in SOURCES for place in tree.places_of_test(source)}
    mirrored = [path for path in tree.list_tests() if path.parts[1] in ("unit", "kernel") and path.match("test_*.py")]
    stray = [str(path) for path in mirrored if path not in known and not str(path).startswith(UNMIRRORED)]
    assert stray == []


def test_every_module_says_what_it_is_for() -> None:
    # What a test's support files are for has to be said as well; tests speak by their names.
    others = [path for path in tree.list_tests() if not path.match("test_*.py") and open_lines(path)]
    modules = {**TREES, **{path: ast.parse((ROOT / path).read_text()) for path in others}}
    assert [str(path) for path, module in modules.items() if not ast.get_docstring(module)] == []


def test_packages_have_empty_init_files() -> None:
    inits = [path for package in (*tree.PACKAGES, "proto") for path in (ROOT / package).rglob("__init__.py")]
    assert [str(path) for path in inits if path.stat().st_size] == []
    folders = {path.parent for path in SOURCES}
    assert [str(folder) for folder in folders if not (ROOT / folder / "__init__.py").exists()] == []


def test_no_name_is_a_manager_a_helper_or_utils() -> None:
    named = [str(path) for path in SOURCES if BANNED_NAMES.search(path.stem)]
    for path, module in TREES.items():
        for node in ast.walk(module):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and BANNED_NAMES.search(
                node.name
            ):
                named.append(f"{path}:{node.lineno} {node.name}")
    assert named == []


def test_nothing_is_left_to_do_later() -> None:
    everything = [*SOURCES, *(path for path in tree.list_tests() if path.name != "test_tree.py")]
    lines = ((path, number, line) for path in everything for number, line in enumerate(open_lines(path), 1))
    assert [f"{path}:{number}" for path, number, line in lines if BANNED_WORDS.search(line)] == []
    assert places(raises, "NotImplementedError") == []


def raises(module: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(module):
        if isinstance(node, ast.Raise) and node.exc is not None:
            yield node.lineno, ast.unparse(node.exc.func if isinstance(node.exc, ast.Call) else node.exc)


def open_lines(path: Path) -> list[str]:
    return (ROOT / path).read_text().splitlines()


def test_no_except_catches_everything_unnamed() -> None:
    handlers = ((path, node) for path, module in TREES.items() for node in ast.walk(module))
    bare = [f"{path}:{node.lineno}" for path, node in handlers if isinstance(node, ast.ExceptHandler) and not node.type]
    assert bare == []


def test_ctypes_is_for_system_calls_only() -> None:
    found = places(imports, r"ctypes(\..*)?|_ctypes.*")
    assert [place for place in found if not place.startswith("runtime/linux/")] == []


def test_only_zygote_and_monitor_fork() -> None:
    found = places(calls, r"(os\.)?(fork|forkpty)") + places(imports, r"os\.fork.*|multiprocessing.*")
    assert [place for place in found if not FORKS.match(place)] == []
    assert places(keywords, "preexec_fn") == []


def keywords(module: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(module):
        if isinstance(node, ast.Call):
            yield from ((node.lineno, keyword.arg or "") for keyword in node.keywords)


def test_a_task_is_named_and_held() -> None:
    found = places(calls, r"asyncio\.(create_task|ensure_future)|.*loop(\(\))?\.create_task")
    assert [place for place in found if not place.startswith("cri/tasks.py")] == []


def test_no_archive_is_extracted_by_the_standard_library() -> None:
    assert places(calls, r".*\.(extract|extractall|unpack_archive)") == []


def test_test_names_are_sentences() -> None:
    lines = ((path, number, line) for path in tree.list_tests() for number, line in enumerate(open_lines(path), 1))
    tests = ((path, number, TEST.match(line)) for path, number, line in lines)
    assert [f"{path}:{number} {test[1]}" for path, number, test in tests if test and test[1].count("_") < 2] == []


@pytest.mark.filterwarnings("default::UserWarning")
def test_modules_and_functions_are_short_enough_to_read() -> None:
    """A goal, not a rule: what is longer is named among the warnings."""
    for path, module in TREES.items():
        if (lines := len(open_lines(path))) > MODULE_LINES:
            warnings.warn(f"{path}: {lines} lines, more than {MODULE_LINES}", stacklevel=1)
        for function in functions(module):
            if (lines := (function.end_lineno or 0) - function.lineno + 1) > FUNCTION_LINES:
                warnings.warn(f"{path}:{function.lineno} {function.name}: {lines} lines", stacklevel=1)
