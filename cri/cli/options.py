"""The options that every subcommand has, and the settings that follow from them.

Invariant: the file of settings is read by one function only, for ``serve`` as for
the rest, so that all of them speak of the same daemon.
"""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from runtime.errors import InvalidArgument

if TYPE_CHECKING:
    from cri.settings import Settings

SETTING_FLAGS = ("listen", "root", "state", "metrics", "log_level")


def directory(value: str) -> str:
    """On a command line a path may be relative; in the file of settings there is nothing to be relative to."""
    return os.path.abspath(value) if value else value


def add_common(parser: argparse.ArgumentParser) -> None:
    """``--config``, ``--root`` and ``--state``."""
    parser.add_argument("--config", metavar="FILE", help="settings (default /etc/crisp/config.toml, if it is there)")
    parser.add_argument("--root", metavar="DIR", type=directory, help="what outlives a boot (default /var/lib/crisp)")
    parser.add_argument("--state", metavar="DIR", type=directory, help="what does not (default /run/crisp)")


def add_serving(parser: argparse.ArgumentParser) -> None:
    """The other settings that have a flag."""
    parser.add_argument("--listen", metavar="ADDRESS", help="the CRI socket (default unix:///run/crisp/crisp.sock)")
    parser.add_argument("--metrics", metavar="HOST:PORT", help='metrics (default 127.0.0.1:9790; "" for none)')
    parser.add_argument("--log-level", metavar="LEVEL", help="debug, info, warning or error (default info)")


def add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", choices=("table", "json"), default="table", help="json is for programs")


def read_settings(args: argparse.Namespace) -> Settings:
    """The settings of the named file, or of the default one if it is there, and the flags.

    Raises:
        SettingsError: something in them is wrong.
        InvalidArgument: the named file cannot be read.
    """
    from cri.settings_file import DEFAULT_FILE, parse_settings

    file = args.config or DEFAULT_FILE
    text = ""
    try:
        with open(file, encoding="utf-8") as opened:
            text = opened.read()
    except FileNotFoundError:
        if args.config:
            raise InvalidArgument("no such file", step="read the settings", object=file) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidArgument(str(reason).lower(), step="read the settings", object=file) from error
    return parse_settings(text, file, {name: getattr(args, name, None) for name in SETTING_FLAGS})
