"""``crisp serve``: the daemon in the foreground."""

from __future__ import annotations

import argparse
import os

from cri.cli.options import add_common, add_serving, read_settings

UMASK = 0o022
"""Containers look from inside at directories that the daemon makes, their cgroups for example."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("serve", help="serve the CRI in the foreground")
    add_common(parser)
    add_serving(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT. SIGHUP reads the same file and flags again."""
    settings = read_settings(args)
    os.umask(UMASK)
    from cri import logs

    logs.configure(settings.log_level)
    from cri import daemon  # grpc, aiohttp and the rest: only after the settings are known to be right

    return daemon.main(settings, lambda: read_settings(args))
