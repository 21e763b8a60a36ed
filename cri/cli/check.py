"""``crisp check``: what this host offers, what falls back, what is missing."""

from __future__ import annotations

import argparse

from cri.cli.options import add_common, add_output, read_settings
from cri.cli.output import print_json, print_table


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("check", help="can this host run pods, and what would be missing")
    add_common(parser)
    add_output(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """1 if no pod could run."""
    from cri.check import can_run, judge
    from cri.probes import probe_host

    settings = read_settings(args)
    rows = judge(probe_host(settings.root, settings.network.bridge))
    if args.output == "json":
        keys = ("subject", "level", "found", "means")
        print_json({"can_run": can_run(rows), "rows": [{key: str(getattr(row, key)) for key in keys} for row in rows]})
    else:
        print_table(("", "SUBJECT", "FOUND", "MEANS"), [(row.level, row.subject, row.found, row.means) for row in rows])
        print("\npods can run here" if can_run(rows) else "\nno pod could run here")
    return 0 if can_run(rows) else 1
