"""What the build hook made is what the sources say now, and the programs are what they have to be."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

import hatch_build
from tests.tree import ROOT


def test_the_generated_code_is_that_of_the_definitions(tmp_path: Path) -> None:
    hatch_build.generate_proto(ROOT, tmp_path)
    made = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert len(made) == 8
    stale = [str(path) for path in made if (ROOT / path).read_bytes() != (tmp_path / path).read_bytes()]
    assert not stale, f"{stale}: run `python hatch_build.py`"


@pytest.mark.parametrize("name", hatch_build.PROGRAMS)
def test_a_program_is_built_from_its_source_small_and_static(tmp_path: Path, name: str) -> None:
    hatch_build.compile_program(ROOT, f"{name}.c", tmp_path / "made")
    program = (tmp_path / "made").read_bytes()
    assert program == (ROOT / name).read_bytes(), "stale: run `python hatch_build.py`"
    assert len(program) < 16_384
    (table,), (size, count) = struct.unpack_from("<Q", program, 32), struct.unpack_from("<HH", program, 54)
    kinds = [struct.unpack_from("<I", program, at)[0] for at in range(table, table + size * count, size)]
    assert 3 not in kinds and 2 not in kinds  # PT_INTERP, PT_DYNAMIC


def test_an_output_is_touched_only_if_it_differs(tmp_path: Path) -> None:
    made, target = tmp_path / "made", tmp_path / "target"
    made.write_text("one")
    hatch_build.replace_if_different(made, target)
    before = target.stat()
    hatch_build.replace_if_different(made, target)
    assert target.stat() == before
    made.write_text("two")
    hatch_build.replace_if_different(made, target)
    assert (target.read_text(), target.stat().st_ino != before.st_ino) == ("two", True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "target"]
