"""The version is the distribution's."""

from __future__ import annotations

import tomllib
from pathlib import Path

from cri.version import version

PROJECT = Path(__file__).resolve().parents[3] / "pyproject.toml"


def test_the_version_is_said_in_one_place() -> None:
    assert version() == tomllib.loads(PROJECT.read_text())["project"]["version"]
