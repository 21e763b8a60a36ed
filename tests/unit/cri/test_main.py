"""The command line: subcommands, exit statuses, and nothing imported for nothing."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

import cri.__main__ as module
from cri.__main__ import SUBCOMMANDS, build_parser, main
from runtime.errors import FailedPrecondition, InvalidArgument


def failing(error: BaseException) -> Callable[[argparse.Namespace], int]:
    def run(_: argparse.Namespace) -> int:
        raise error

    return run


@pytest.fixture
def version_raises(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    def arrange(error: BaseException) -> None:
        parser = argparse.ArgumentParser()
        parser.set_defaults(run=failing(error))
        monkeypatch.setattr(module, "build_parser", lambda: parser)

    return arrange


def test_every_subcommand_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for name in SUBCOMMANDS:
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"])
        assert ended.value.code == 0
    assert "usage: crisp fsck" in capsys.readouterr().out


def test_no_subcommand_is_wrong_usage() -> None:
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2


@pytest.mark.parametrize("name", [name for name in SUBCOMMANDS if name != "images"])
def test_every_subcommand_takes_the_common_options(name: str) -> None:
    pod = ["web"] if name == "explain" else []
    args = build_parser().parse_args([name, *pod, "--config=c", "--root=/r", "--state=/s"])
    assert (args.config, args.root, args.state) == ("c", "/r", "/s")


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (InvalidArgument("wrong", object="--root"), 2, "crisp: --root: wrong\n"),
        (FailedPrecondition("not now"), 1, "crisp: not now\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_a_failure_is_one_line_and_a_status(
    version_raises: Callable[[BaseException], None],
    error: BaseException,
    status: int,
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    version_raises(error)
    assert main([]) == status
    assert capsys.readouterr().err == words


def test_a_reader_that_left_is_no_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    script = "import sys; from cri.__main__ import main; sys.exit(main(['version', '--state=/nowhere']))"
    done = subprocess.run([sys.executable, "-c", script], stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_help_imports_nothing_heavy() -> None:
    heavy = ("grpc", "msgspec", "aiohttp", "asyncio", "google.protobuf")
    script = f"import sys; from cri.__main__ import build_parser; build_parser(); print({heavy} & sys.modules.keys())"
    script = script.replace(f"{heavy}", f"set({heavy})")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
