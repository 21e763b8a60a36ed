"""The source tree as the checks see it: modules, and which test module belongs to which.

``tests/unit/test_tree.py`` holds the tree to its rules, ``tests/coverage_alone.py`` runs each
test module by itself.

A module ``P/m.py`` is tested by exactly one ``test_m.py``: in ``tests/unit/P`` (no root), in
``tests/kernel/P`` (real kernel objects), or, below ``cri`` only, in ``tests/cri`` with the same
path (a real daemon).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("cri", "network", "runtime")
GENERATED = ("_pb2.py", "_pb2_grpc.py")


def list_sources() -> list[Path]:
    """Every module of ours, relative to the root, without empty ``__init__.py`` files."""
    found = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return sorted(path.relative_to(ROOT) for path in found if path.name != "__init__.py" or path.stat().st_size)


def list_tests() -> list[Path]:
    """Every Python file below ``tests``, relative to the root."""
    return sorted(path.relative_to(ROOT) for path in (ROOT / "tests").rglob("*.py"))


def name_of_test(source: Path) -> str:
    """``test_<module>.py``; ``__main__`` is ``test_main.py``."""
    return f"test_{source.stem.strip('_')}.py"


def places_of_test(source: Path) -> Iterator[Path]:
    """Where the test module of ``source`` may be."""
    name = name_of_test(source)
    yield Path("tests/unit") / source.parent / name
    yield Path("tests/kernel") / source.parent / name
    if source.parts[0] == "cri":
        yield Path("tests/cri") / source.parent.relative_to("cri") / name


def tests_of(source: Path) -> list[Path]:
    """Those that exist; one, if all is well."""
    return [place for place in places_of_test(source) if (ROOT / place).is_file()]
