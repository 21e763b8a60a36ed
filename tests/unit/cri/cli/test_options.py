"""The settings of a command line: the file if it is there, the flags above it."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from cri import settings_file
from cri.cli.options import add_common, add_output, add_serving, read_settings
from cri.settings_file import SettingsError
from runtime.errors import InvalidArgument


@pytest.fixture(autouse=True)
def no_default_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(settings_file, "DEFAULT_FILE", str(tmp_path / "default.toml"))


def parse(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_common(parser)
    add_serving(parser)
    add_output(parser)
    return parser.parse_args(argv)


def test_an_absent_default_file_means_the_defaults() -> None:
    assert read_settings(parse()).root == "/var/lib/crisp"


def test_the_default_file_is_read_when_it_is_there(tmp_path: Path) -> None:
    (tmp_path / "default.toml").write_text('root = "/srv/crisp"\n')
    assert read_settings(parse()).root == "/srv/crisp"


def test_a_relative_flag_is_below_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = read_settings(parse("--root", "data", "--state", "./run/../run"))
    assert (found.root, found.state) == (f"{tmp_path}/data", f"{tmp_path}/run")


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "named.toml"
    file.write_text('root = "/srv/crisp"\nlog_level = "debug"\n')
    found = read_settings(parse("--config", str(file), "--root", "/srv/other", "--metrics", ""))
    assert (found.root, found.log_level, found.metrics) == ("/srv/other", "debug", "")


def test_a_named_file_must_be_there() -> None:
    with pytest.raises(InvalidArgument, match=r"/nowhere/x\.toml: no such file"):
        read_settings(parse("--config", "/nowhere/x.toml"))


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="is a directory"):
        read_settings(parse("--config", str(tmp_path)))
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidArgument, match="decode"):
        read_settings(parse("--config", str(tmp_path / "binary")))


def test_a_mistake_in_the_file_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "default.toml").write_text("\nroot = 5\n")
    with pytest.raises(SettingsError, match=r"default.toml:2"):
        read_settings(parse())


def test_a_parser_without_the_serving_flags_is_enough() -> None:
    parser = argparse.ArgumentParser()
    add_common(parser)
    assert read_settings(parser.parse_args(["--state", "/run/other"])).state == "/run/other"
