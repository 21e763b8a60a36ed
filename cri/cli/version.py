"""``crisp version``: this program's version and, if one runs, the daemon's."""

from __future__ import annotations

import argparse

from cri.cli.options import add_common, add_output, read_settings
from cri.cli.output import print_json, print_table


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("version", help="the versions of this program and of the daemon")
    add_common(parser)
    add_output(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from cri.cli.client import NoDaemon, admin
    from cri.version import version
    from proto import admin_pb2

    answer: dict[str, object] = {"crisp": version(), "daemon": None}
    try:
        with admin(read_settings(args)) as stub:
            info = stub.DaemonInfo(admin_pb2.DaemonInfoRequest(), timeout=10)
            answer["daemon"] = {"version": info.version, "pid": info.pid, "instance": info.instance}
    except NoDaemon:
        info = None
    if args.output == "json":
        print_json(answer)
        return 0
    rows = [("crisp", str(answer["crisp"]), "")]
    if info is None:
        rows.append(("daemon", "-", "not running"))
    else:
        rows.append(("daemon", info.version, f"pid {info.pid}, instance {info.instance}"))
    print_table(("WHAT", "VERSION", ""), rows)
    return 0
